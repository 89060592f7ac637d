"""What is recorded, and what becomes of it until it is sent."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.task import Clock

from tests.activity.conftest import COMMAND, IP, USER, UUID, ActivityNode
from tests.support.fixtures import worker
from tests.support.logged_errors import Logged
from tests.support.reactor import until
from wingsd.activity import BUFFER_MAX, QUIET, RETRY_AFTER, STORE_AT, ActivityLog
from wingsd.errors import StorageError
from wingsd.statedb import ActivityEntry, StateDatabase, Store
from wingsd.threadio import Workers

__all__ = ["worker"]

FULL = StorageError("the disk is full")


def test_what_is_recorded_in_a_second_is_stored_at_once(node: ActivityNode) -> None:
    node.type("a")
    node.clock.advance(0.5)
    node.type("b")
    assert (node.stored(), node.log.waiting) == ([], 2)
    node.clock.advance(0.5)
    assert node.stored() == ['{"command":"a"}', '{"command":"b"}']
    assert (node.writes, node.log.waiting) == (1, 2)
    (first, _) = node.store.activity(0, 10)
    assert first == ActivityEntry(
        UUID, COMMAND, '{"command":"a"}', USER, IP, node.now() - 1, first.id
    )


def test_many_commands_a_second_are_few_writes(node: ActivityNode) -> None:
    node.type(*range(3 * STORE_AT))
    node.clock.advance(1)
    assert len(node.stored()) == 3 * STORE_AT
    assert node.writes == 3


@pytest.mark.parametrize("ip", ["192.0.2.1:80", "a Unix socket", ""])
def test_an_entry_without_an_address_is_dropped(
    node: ActivityNode, logged: Logged, ip: str
) -> None:
    node.type("a", ip=ip)
    assert node.log.waiting == 0
    assert any("is no address" in line for line in logged.lines)


@pytest.mark.parametrize("ip", ["::ffff:192.0.2.1", "192.0.2.1"])
def test_an_address_is_in_the_form_that_panels_take(node: ActivityNode, ip: str) -> None:
    node.type("a", ip=ip)
    node.pass_time(60)
    assert node.panel.accepted[0]["ip"] == "192.0.2.1"


def test_a_user_that_is_no_uuid_is_nobody(node: ActivityNode) -> None:
    node.type("a", user="root")
    node.type("b", user=None)
    node.pass_time(61)
    assert [entry["user"] for entry in node.panel.accepted] == [None, None]


def test_huge_metadata_is_dropped_with_a_line_a_minute(node: ActivityNode, logged: Logged) -> None:
    node.type(*["x" * 2_000_000] * 3)
    lines = [line for line in logged.lines if "activity dropped" in line]
    assert len(lines) == 1
    assert f"{UUID}: {COMMAND}: its metadata has 2,000,014 bytes" in lines[0]
    node.clock.advance(QUIET)
    node.type("x" * 2_000_000)
    assert "entries: 3" in logged.lines[-1]
    assert (node.log.waiting, node.log.dropped["too_large"]) == (0, 4)


@pytest.mark.promise("activity-is-repeated")
def test_the_oldest_of_too_many_are_dropped(tmp_path: Path, logged: Logged) -> None:
    node = ActivityNode(tmp_path, most=10, interval=10_000)
    for number in range(25):
        node.type(number)
        node.clock.advance(1)
    assert node.stored() == [f'{{"command":{number}}}' for number in range(15, 25)]
    assert (node.log.waiting, node.log.dropped["overflow"]) == (10, 15)
    lines = [line for line in logged.lines if "system.activity_max_entries" in line]
    assert len(lines) == 1, "there is one line a minute"
    node.restart(most=4, interval=10_000)
    assert (node.log.waiting, len(node.stored())) == (4, 4)
    node.kill()


@pytest.mark.promise("activity-survives-a-kill")
def test_entries_stay_in_memory_while_they_cannot_be_stored(
    node: ActivityNode, logged: Logged
) -> None:
    node.faults = [FULL, FULL]
    node.type("a")
    node.clock.advance(1)
    node.type("b")
    node.clock.advance(RETRY_AFTER)
    assert (node.stored(), node.log.waiting) == ([], 2)
    node.clock.advance(RETRY_AFTER)
    assert node.stored() == ['{"command":"a"}', '{"command":"b"}']
    assert len([line for line in logged.lines if "the disk is full" in line]) == 1


def test_memory_is_bounded_while_nothing_can_be_stored(node: ActivityNode) -> None:
    node.faults = [FULL] * 100
    node.type(*range(BUFFER_MAX + 3))
    assert (node.log.waiting, node.log.dropped["overflow"]) == (BUFFER_MAX, 3)
    node.faults = []
    node.clock.advance(RETRY_AFTER)
    assert node.stored()[0] == '{"command":3}'


def test_what_is_not_stored_at_the_end_is_counted(node: ActivityNode, logged: Logged) -> None:
    node.type("a")
    node.faults = [FULL]
    node.log.stop()
    assert (node.log.waiting, node.log.dropped["not_stored"]) == (0, 1)
    assert "the disk is full" in logged.lines[-1]


@pytest.mark.promise("activity-survives-a-kill")
def test_what_was_stored_survives_a_kill(node: ActivityNode) -> None:
    node.type("a", "b")
    node.clock.advance(1)
    node.type("c")
    node.restart()
    assert node.log.waiting == 2
    node.pass_time(60)
    assert node.panel.commands == ["a", "b"]


def test_what_cannot_be_counted_at_the_start_is_sent(node: ActivityNode) -> None:
    node.type("a")
    node.clock.advance(1)
    node.faults = [FULL]
    node.restart()
    node.pass_time(60)
    assert node.panel.commands == ["a"]


@attrs.frozen
class BusyLog:
    """A log whose database waits until `goes_on` is set."""

    store: Store
    worker: Workers
    database: StateDatabase
    log: ActivityLog
    goes_on: threading.Event

    def record(self, count: int) -> None:
        for number in range(count):
            self.log.record(UUID, COMMAND, {"command": number}, USER, IP)


@pytest.fixture
def busy(store: Store, worker: Workers) -> BusyLog:
    database = StateDatabase(store, worker, lambda: 10.0)
    panel: Any = None
    log = ActivityLog(database, panel, Clock(), 100_000, 60, 100)
    made = BusyLog(store, worker, database, log, threading.Event())
    worker.run(made.goes_on.wait)
    return made


@pytest.mark.promise("activity-survives-a-kill")
async def test_all_is_stored_before_the_database_closes(busy: BusyLog) -> None:
    # The first are being stored when the last one comes.
    busy.record(STORE_AT + 1)
    busy.log.stop()
    closed = busy.database.close()
    busy.goes_on.set()
    await closed
    await until(lambda: busy.log.waiting == STORE_AT + 1)
    busy.store.open()
    assert len(busy.store.activity(0, 1000)) == STORE_AT + 1


async def test_a_slow_disk_does_not_block_the_reactor(busy: BusyLog) -> None:
    busy.record(3 * STORE_AT)
    assert busy.log.waiting == 2 * STORE_AT, "a write is under way"
    busy.log.stop()
    busy.goes_on.set()
    await until(lambda: busy.log.waiting == 3 * STORE_AT)
