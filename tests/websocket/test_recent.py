"""What is kept of transfers for browsers that connect late, on a clock of the test's own."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from wingsd.events import Event, EventBus
from wingsd.websocket.recent_transfers import ENDED_MAX, RecentTransfers

SERVER = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"
LINES_MAX = 5


class Node:
    """A bus with transfers on it, and what is kept of them."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000.75)
        self.bus = EventBus()
        self.recent = RecentTransfers(self.bus, self.clock, self.clock.seconds, LINES_MAX)

    def states(self, *states: str, server: str = SERVER) -> None:
        for state in states:
            self.bus.publish(Event(server, "transfer status", (state,)))

    def say(self, *lines: str) -> None:
        for line in lines:
            self.bus.publish(Event(SERVER, "transfer logs", (line,)))

    def missed(self, issued: float = 0, *, is_here: bool = True) -> str:
        issued = issued or self.clock.seconds()
        return self.recent.missed(SERVER, issued, is_here=is_here)


@pytest.fixture
def node() -> Node:
    return Node()


def test_the_lines_of_a_transfer_are_kept_in_order(node: Node) -> None:
    node.states("pending")
    node.say("one")
    node.states("processing")
    node.say("two")
    assert node.recent.is_under_way(SERVER)
    assert node.recent.lines(SERVER) == ["one", "two"]


@pytest.mark.promise("pages-follow-a-transfer")
@pytest.mark.parametrize("begin", ["pending", "starting", "processing"])
def test_a_transfer_ordered_again_does_not_hide_why_the_last_failed(
    node: Node, begin: str
) -> None:
    node.states(begin)
    node.say("one")
    node.states("failed", "failure", begin)
    node.say("two")
    assert node.recent.is_under_way(SERVER)
    assert node.recent.lines(SERVER) == ["one", "two"]
    assert node.missed() == ""
    node.clock.advance(60)
    assert node.recent.lines(SERVER) == ["two"]


@pytest.mark.parametrize("states", [("failed", "failure"), ("success", "completed")])
def test_an_ended_transfer_is_kept_for_a_minute(node: Node, states: tuple[str, ...]) -> None:
    node.states("pending")
    node.say("one")
    node.states(*states)
    node.clock.advance(59.9)
    assert not node.recent.is_under_way(SERVER)
    assert node.recent.lines(SERVER) == ["one"]
    assert node.recent.has_moved(SERVER) == (states[-1] == "completed")
    node.clock.advance(0.2)
    assert node.recent.lines(SERVER) == []
    assert not node.recent.has_moved(SERVER)
    assert node.clock.getDelayedCalls() == []


def test_only_so_many_ended_transfers_are_kept(node: Node) -> None:
    for number in range(ENDED_MAX + 1):
        node.states("pending", "success", "completed", server=f"server {number}")
    assert not node.recent.has_moved("server 0")
    assert node.recent.has_moved("server 1")
    assert node.recent.has_moved(f"server {ENDED_MAX}")


def test_a_failure_is_repeated_at_the_source_and_a_success_too(node: Node) -> None:
    node.states("pending", "failed", "failure")
    assert (node.missed(is_here=False), node.missed()) == ("", "failed")
    node.states("pending", "success", "completed")
    assert (node.missed(), node.missed(is_here=False)) == ("", "completed")


@pytest.mark.promise("pages-follow-a-transfer")
def test_a_token_issued_more_than_a_second_after_the_end_hears_nothing(node: Node) -> None:
    node.states("pending", "failed", "failure")
    end = node.clock.seconds()
    node.clock.advance(30)
    assert node.missed(issued=end + 1.01) == ""
    assert [node.missed(issued=end + late) for late in (-300, 0, 1)] == ["failed"] * 3
    node.bus.publish(Event(SERVER, "transfer reported"))  # so the Panel has not known it before
    assert [node.missed(issued=end + late) for late in (1.01, 31)] == ["failed"] * 2
    assert node.missed(issued=end + 31.01) == ""
