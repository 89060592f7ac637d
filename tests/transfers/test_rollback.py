"""Rolling back in reverse order."""

from __future__ import annotations

from tests.support.logged_errors import Logged
from wingsd.errors import StorageError
from wingsd.transfers.steps import RollbackList


async def test_actions_are_rolled_back_once_in_reverse_order(logged: Logged) -> None:
    rollback, done = RollbackList("a-server"), []  # type: RollbackList, list[str]

    async def first() -> None:
        done.append("first")

    async def stuck() -> None:
        done.append("stuck")
        raise StorageError("the disk is full")

    async def wrong() -> None:
        done.append("wrong")
        raise KeyError

    for step in (first, stuck, wrong):
        rollback.add(step)
    await rollback.run()
    await rollback.run()
    assert done == ["wrong", "stuck", "first"]
    assert len(logged.take(KeyError)) == 1
    assert [line for line in logged.lines if "a-server" in line and "disk is full" in line]


async def test_a_cleared_list_rolls_nothing_back() -> None:
    rollback, done = RollbackList("a-server"), []  # type: RollbackList, list[str]

    async def step() -> None:
        done.append("step")

    rollback.add(step)
    rollback.clear()
    await rollback.run()
    assert done == []
