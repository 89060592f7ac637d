"""Undoing."""

from __future__ import annotations

from tests.support.logged_errors import LoggedErrors
from wingsd.errors import StorageError
from wingsd.transfers.steps import RollbackList


async def test_actions_are_rolled_back_once_in_reverse_order(logged_errors: LoggedErrors) -> None:
    undo, done = RollbackList("a-server"), []  # type: RollbackList, list[str]

    async def first() -> None:
        done.append("first")

    async def stuck() -> None:
        done.append("stuck")
        raise StorageError("the disk is full")

    async def wrong() -> None:
        done.append("wrong")
        raise KeyError

    for step in (first, stuck, wrong):
        undo.add(step)
    await undo.run()
    await undo.run()
    assert done == ["wrong", "stuck", "first"]
    assert len(logged_errors.take(KeyError)) == 1
    assert [line for line in logged_errors.lines if "a-server" in line and "disk is full" in line]


async def test_a_cleared_list_rolls_nothing_back() -> None:
    undo, done = RollbackList("a-server"), []  # type: RollbackList, list[str]

    async def step() -> None:
        done.append("step")

    undo.add(step)
    undo.clear()
    await undo.run()
    assert done == []
