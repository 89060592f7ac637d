"""How the activity log is sent, and what follows from a Panel's answers."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.activity.conftest import BEGIN, COMMAND, IP, USER, UUID, ActivityNode
from tests.support.logged_errors import Logged
from wingsd.activity import CALLS_MAX
from wingsd.errors import NodeTokenRefused, PanelRefused, PanelUnreachable, StorageError
from wingsd.statedb import ActivityEntry

DOWN = PanelUnreachable("the Panel gave no usable answer", "connection refused")


def results(work: Coroutine[Any, Any, object]) -> list[Any]:
    """Return a list that gets the result of `work` when it has ended."""
    ended: list[Any] = []
    Deferred.fromCoroutine(work).addBoth(ended.append)
    return ended


@pytest.mark.promise("user-data-is-bounded")
def test_what_waits_is_sent_at_each_interval(node: ActivityNode) -> None:
    node.type("a")
    node.pass_time(59)
    assert node.panel.calls == []
    node.pass_time(1)
    assert node.panel.accepted == [
        {
            "user": USER,
            "server": UUID,
            "event": COMMAND,
            "metadata": {"command": "a"},
            "ip": IP,
            "timestamp": "2023-11-14T22:13:20Z",
        }
    ]
    assert (node.stored(), node.log.waiting, node.log.sent) == ([], 0, 1)
    node.pass_time(120)
    assert len(node.panel.calls) == 1, "there is nothing more to send"


def test_a_call_has_at_most_the_configured_number(tmp_path: Path) -> None:
    node = ActivityNode(tmp_path, count=30)
    node.type(*range(100))
    node.pass_time(60)
    assert [len(call) for call in node.panel.calls] == [30, 30, 30, 10]
    assert node.panel.commands == list(range(100))
    node.kill()


def test_20_000_entries_go_in_runs_of_50_calls(node: ActivityNode) -> None:
    node.panel.refuses = lambda entry: False
    rows = [
        ActivityEntry(UUID, COMMAND, f'{{"command":{number}}}', USER, IP, BEGIN)
        for number in range(20_000)
    ]
    node.store.add_activity(rows, len(rows))
    node.restart()
    node.clock.advance(60)
    assert len(node.panel.calls) == CALLS_MAX
    assert node.log.waiting == 15_000
    for _ in range(3):
        node.clock.advance(60)
    assert node.panel.commands == list(range(20_000))
    assert (node.log.waiting, node.stored()) == (0, [])


@pytest.mark.promise("activity-is-repeated")
def test_the_bad_entry_is_found_and_dropped_and_the_others_are_sent(
    node: ActivityNode, logged: Logged
) -> None:
    node.panel.refuses = lambda entry: entry["metadata"]["command"] == 37
    node.type(*range(100))
    node.pass_time(60)
    assert node.panel.commands == [number for number in range(100) if number != 37]
    assert (node.log.waiting, node.log.sent, node.log.dropped["refused"]) == (0, 99, 1)
    assert len(node.panel.calls) < 20
    (line,) = [line for line in logged.lines if "dropped" in line]
    assert line.startswith(f"{UUID}: {COMMAND} dropped, which the Panel refuses as activity")
    assert '{"command":37}' in line
    assert USER in line


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_panel_that_refuses_everything_loses_it_in_bounded_calls(
    node: ActivityNode, status: int
) -> None:
    node.panel.status = status
    node.panel.refuses = lambda entry: True
    node.type(*range(60))
    node.pass_time(60)
    assert len(node.panel.calls) == CALLS_MAX
    dropped = node.log.dropped["refused"]
    assert 0 < dropped < 60
    assert node.log.waiting == 60 - dropped
    node.panel.refuses = lambda entry: False
    node.pass_time(60)
    assert node.panel.commands == list(range(dropped, 60)), "what was not refused is not lost"


def test_a_bad_entry_among_merged_ones_is_the_only_one_that_is_lost(node: ActivityNode) -> None:
    node.panel.refuses = lambda entry: "/bad" in entry["metadata"]["files"]
    for name in ("/a", "/bad", "/b", "/c"):
        node.log.record(UUID, "server:sftp.write", {"files": [name]}, USER, IP)
    node.pass_time(60)
    assert node.panel.calls[0][0]["metadata"] == {"files": ["/a", "/bad", "/b", "/c"]}
    found = [name for entry in node.panel.accepted for name in entry["metadata"]["files"]]
    assert found == ["/a", "/b", "/c"]


@pytest.mark.promise("activity-is-repeated")
@pytest.mark.parametrize(
    "fault",
    [
        DOWN,
        NodeTokenRefused("a path was answered 401", 401),
        PanelRefused("the Panel refused this node's request", "no", 403),
        PanelRefused("the Panel refused this node's request", "no", 404),
        PanelRefused("the Panel refused this node's request", "no", 429),
    ],
)
def test_after_any_other_failure_all_is_sent_at_the_next_interval(
    node: ActivityNode, logged: Logged, fault: Exception
) -> None:
    node.panel.faults = [fault, fault]
    node.type("a", "b")
    node.pass_time(60)
    node.type("c")
    node.pass_time(60)
    assert len(node.panel.calls) == 2, "one call shows that the Panel does not take it"
    assert node.log.waiting == 3
    node.pass_time(60)
    assert node.panel.commands == ["a", "b", "c"]
    assert len([line for line in logged.lines if "activity not sent" in line]) == 1
    assert "activity: the Panel accepts it again" in logged.lines


@pytest.mark.promise("activity-is-repeated")
def test_retry_after_is_respected(node: ActivityNode) -> None:
    refused = PanelRefused("the Panel refused this node's request", "slowly", 429, 150.0)
    node.panel.faults = [refused]
    node.type("a")
    node.pass_time(60 + 149)
    assert len(node.panel.calls) == 1
    node.pass_time(60)
    assert node.panel.commands == ["a"]


def test_a_failure_in_the_middle_repeats_nothing(node: ActivityNode) -> None:
    node.type(*range(250))
    waiting: Deferred[None] = Deferred()
    node.panel.faults = [waiting]
    node.pass_time(60)
    node.panel.faults = [DOWN]
    waiting.callback(None)
    assert node.log.waiting == 150
    node.pass_time(60)
    assert node.panel.commands == list(range(250))


def test_never_two_calls_at_once(node: ActivityNode) -> None:
    waiting: Deferred[None] = Deferred()
    node.panel.faults = [waiting]
    node.type("a")
    node.pass_time(200)
    assert len(node.panel.calls) == 1
    waiting.callback(None)
    assert (node.panel.commands, node.log.waiting) == (["a"], 0)


@pytest.mark.promise("activity-survives-a-kill")
def test_a_kill_before_the_answer_repeats_one_call_at_most(node: ActivityNode) -> None:
    node.type(*range(250))
    node.pass_time(2)
    first: Deferred[None] = Deferred()
    node.panel.faults = [first]
    node.pass_time(58)
    accept = node.panel.accepted.extend
    accept(node.panel.calls[0])  # The Panel has it, and its answer does not arrive.
    node.restart()
    node.pass_time(60)
    assert node.panel.commands == [*range(100), *range(250)]


@pytest.mark.promise("activity-survives-a-kill")
def test_what_cannot_be_deleted_is_not_sent_again(node: ActivityNode, logged: Logged) -> None:
    node.type("a")
    node.pass_time(2)
    node.faults = [StorageError("the disk is full")]
    node.pass_time(58)
    node.type("b")
    node.pass_time(120)
    assert node.panel.commands == ["a", "b"]
    assert (node.stored(), node.log.waiting) == ([], 0), "it is deleted with the next ones"
    assert [line for line in logged.lines if "not deleted" in line]


def test_the_end_of_the_daemon_waits_for_the_answer_of_a_call(node: ActivityNode) -> None:
    node.type(*range(150))
    waiting: Deferred[None] = Deferred()
    node.panel.faults = [waiting]
    node.pass_time(60)
    ended = results(node.log.stop_sending(2))
    assert ended == []
    waiting.callback(None)
    assert ended == [None]
    assert (len(node.panel.calls), len(node.stored())) == (1, 50)


def test_it_does_not_wait_for_long(node: ActivityNode) -> None:
    node.type("a")
    node.panel.faults = [Deferred()]
    node.pass_time(60)
    ended = results(node.log.stop_sending(2))
    node.clock.advance(2)
    assert ended == [None]
    assert len(node.stored()) == 1


def test_before_the_interval_is_over_all_can_be_sent(node: ActivityNode) -> None:
    node.type("a")
    assert results(node.log.send_now(5)) == [None]
    assert (node.panel.commands, node.log.waiting) == (["a"], 0)
    node.type("b")
    node.pass_time(60)
    assert node.panel.commands == ["a", "b"], "the interval goes on"


def test_what_is_being_stored_is_sent_as_well(node: ActivityNode) -> None:
    add, written = node.database.add_activity, Deferred[None]()

    def slow(*args: Any) -> Deferred[int]:
        return written.addCallback(lambda _: add(*args))

    node.database.add_activity = slow
    node.type("a")
    node.pass_time(1)
    ended = results(node.log.send_now(5))
    assert ended == []
    written.callback(None)
    assert (node.panel.commands, ended) == (["a"], [None])


def test_a_panel_without_an_answer_holds_nothing_up(node: ActivityNode) -> None:
    node.type("a")
    waiting: Deferred[None] = Deferred()
    node.panel.faults = [waiting]
    ended = results(node.log.send_now(5))
    node.pass_time(4)
    assert ended == []
    node.pass_time(1)
    assert ended == [None]
    waiting.callback(None)
    assert (node.panel.commands, node.log.waiting) == (["a"], 0), "it was not cancelled"


def test_a_call_under_way_is_awaited_and_followed_by_the_rest(node: ActivityNode) -> None:
    waiting: Deferred[None] = Deferred()
    node.panel.faults = [waiting]
    node.type("a")
    node.pass_time(60)
    node.type("b")
    ended = results(node.log.send_now(5)), results(node.log.send_now(5))
    assert (len(node.panel.calls), ended) == (1, ([], []))
    waiting.callback(None)
    assert (node.panel.commands, ended) == (["a", "b"], ([None], [None]))


def test_after_its_end_nothing_is_sent(node: ActivityNode) -> None:
    Deferred.fromCoroutine(node.log.stop_sending(2))
    node.type("a")
    assert results(node.log.send_now(5)) == [None]
    assert node.panel.calls == []
