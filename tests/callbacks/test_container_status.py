"""The states of servers, as Pelican's Panel hears of them."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.support.faults import meet
from tests.support.logged_errors import Logged
from wingsd.callbacks import CONCURRENT, STATUS_BACKOFF, ContainerStatuses
from wingsd.errors import NodeTokenRefused, PanelRefused, PanelUnreachable
from wingsd.events import DELETED, STATUS, Event, EventBus

A, B = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10", "11111111-6e2b-4c43-9d57-0c4c5e1c7f10"
DOWN = PanelUnreachable("the Panel gave no usable answer", "connection refused")
UNKNOWN = PanelRefused("the Panel refused this node's request", "no such server", 404)


class StatusNode:
    """The reports of a node, and the Panel that they go to."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.bus = EventBus()
        #: The server, the state before, and the state, of each call; and of those accepted.
        self.calls: list[tuple[str, str, str]] = []
        self.accepted: list[tuple[str, str, str]] = []
        #: What the calls of a server meet.
        self.faults: dict[str, Exception | Deferred[None]] = {}
        self.under_way = self.most_under_way = 0
        panel: Any = self
        self.statuses = ContainerStatuses(panel, self.bus, self.clock)

    async def post_once(self, operation: str, path: str, body: Any) -> None:
        assert operation == "container_status"
        _, servers, uuid, container, status = path.split("/")
        assert (servers, container, status) == ("servers", "container", "status")
        data = body.pop("data")
        assert (body, set(data)) == ({}, {"previous_state", "new_state"})
        call = (uuid, data["previous_state"], data["new_state"])
        self.calls.append(call)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await meet(self.faults.get(uuid))
        finally:
            self.under_way -= 1
        self.accepted.append(call)

    def change(self, server: str, *states: str) -> None:
        for state in states:
            self.bus.publish(Event(server, STATUS, (state,)))

    def repeat(self) -> None:
        """Let the longest pause pass."""
        self.clock.advance(STATUS_BACKOFF.longest + 1)


@pytest.fixture
def node() -> StatusNode:
    return StatusNode()


def test_each_change_is_reported_in_order(node: StatusNode) -> None:
    node.change(A, "starting", "running", "stopping")
    node.change(B, "starting")
    node.change(A, "offline")
    assert node.accepted == [
        (A, "offline", "starting"),
        (A, "starting", "running"),
        (A, "running", "stopping"),
        (B, "offline", "starting"),
        (A, "stopping", "offline"),
    ]


def test_after_the_start_each_servers_state_is_reported_once(node: StatusNode) -> None:
    node.change(A, "running")  # It was adopted.
    node.statuses.start([(A, "running"), (B, "offline")])
    assert node.accepted == [(A, "offline", "running"), (B, "offline", "offline")]


@pytest.mark.promise("activity-is-repeated")
def test_while_the_panel_is_away_only_the_latest_state_waits(
    node: StatusNode, logged: Logged
) -> None:
    node.change(A, "starting")
    node.faults[A] = node.faults[B] = DOWN
    node.change(B, "starting")
    node.change(A, "running", "stopping", "offline", "starting", "running", "stopping")
    for _ in range(5):
        node.repeat()
    calls = len(node.calls)
    node.faults.clear()
    node.repeat()
    assert sorted(node.accepted[1:]) == [(B, "offline", "starting"), (A, "starting", "stopping")]
    assert len(node.calls) == calls + 2
    assert len([line for line in logged.lines if "sent again" in line]) == 1
    assert "states of servers are accepted by the Panel again" in logged.lines
    node.repeat()
    assert len(node.calls) == calls + 2


@pytest.mark.parametrize(
    "fault",
    [
        NodeTokenRefused("it was answered 401", 401),
        PanelRefused("the Panel refused this node's request", "no", 403),
        PanelRefused("the Panel refused this node's request", "no", 422),
    ],
)
def test_a_refusal_is_repeated(node: StatusNode, fault: Exception) -> None:
    node.faults[A] = fault
    node.change(A, "starting")
    node.repeat()
    assert len(node.calls) == 2
    node.faults.clear()
    node.repeat()
    assert node.accepted == [(A, "offline", "starting")]


def test_pauses_grow_and_retry_after_is_respected(node: StatusNode) -> None:
    node.faults[A] = DOWN
    node.change(A, "starting")
    for _ in range(600):
        node.clock.advance(1)
    assert 8 < len(node.calls) < 14
    node.faults[A] = PanelRefused("the Panel refused this node's request", "slowly", 429, 1000.0)
    node.repeat()
    node.faults.clear()
    calls = len(node.calls)
    node.clock.advance(999)
    assert len(node.calls) == calls
    node.clock.advance(1)
    assert node.accepted == [(A, "offline", "starting")]


def test_a_server_that_the_panel_does_not_have_is_not_repeated(
    node: StatusNode, logged: Logged
) -> None:
    node.faults[A] = UNKNOWN
    node.change(A, "starting")
    node.repeat()
    assert len(node.calls) == 1
    assert [line for line in logged.lines if line.startswith(f"{A}: state not reported")]
    del node.faults[A]
    node.change(A, "running")
    assert node.accepted == [(A, "offline", "running")]


def test_a_change_during_a_call_is_reported_after_it(node: StatusNode) -> None:
    answer: Deferred[None] = Deferred()
    node.faults[A] = answer
    node.change(A, "starting", "running", "stopping")
    assert node.calls == [(A, "offline", "starting")]
    del node.faults[A]
    answer.callback(None)
    assert node.accepted == [(A, "offline", "starting"), (A, "starting", "stopping")]


def test_a_deleted_server_is_reported_no_more(node: StatusNode) -> None:
    node.change(A, "starting")
    node.faults[A] = DOWN
    node.change(A, "running")
    node.bus.publish(Event(A, DELETED))
    node.repeat()
    assert len(node.calls) == 2
    node.faults.clear()
    node.change(A, "starting")  # It has come back.
    assert node.accepted[-1] == (A, "offline", "starting")


def test_so_many_calls_at_once(node: StatusNode) -> None:
    answer: Deferred[None] = Deferred()
    servers = [f"{number:08}-6e2b-4c43-9d57-0c4c5e1c7f10" for number in range(100)]
    node.faults = dict.fromkeys(servers, answer)
    node.statuses.start([(server, "offline") for server in servers])
    assert node.under_way == CONCURRENT
    node.change(servers[-1], "starting")  # It waits for its turn.
    node.faults.clear()
    answer.callback(None)
    assert len(node.accepted) == 100
    assert (servers[-1], "offline", "starting") in node.accepted
    assert node.most_under_way == CONCURRENT


def test_at_the_nodes_end_nothing_more_is_reported(node: StatusNode) -> None:
    node.faults = {A: DOWN, B: Deferred()}
    node.change(A, "starting")
    node.change(B, "starting")
    node.statuses.stop()
    node.change(A, "running")
    node.repeat()
    assert len(node.calls) == 2
    assert node.clock.getDelayedCalls() == []
