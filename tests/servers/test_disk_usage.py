"""Disk usage is measured in the background, and never more than one server's at a time."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from wingsd.errors import StorageError
from wingsd.servers.files import BackgroundTasks, DiskWalks


class SlowWorkers:
    """Work that ends when the test says so; `begun` holds the directories in order."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._ends: list[Deferred[int]] = []

    def run(self, work: object, directory: str) -> Deferred[int]:
        self.begun.append(directory)
        self._ends.append(Deferred())
        return self._ends[-1]

    def end(self, result: Any) -> None:
        deferred = self._ends.pop(0)
        if isinstance(result, Exception):
            deferred.errback(result)
        else:
            deferred.callback(result)


def test_directories_are_measured_one_at_a_time_and_once() -> None:
    workers = SlowWorkers()
    told: list[int] = []
    usage = DiskWalks(workers, BackgroundTasks())  # type: ignore[arg-type]
    for uuid in ("a", "b", "a", "b", "c"):
        usage.request(uuid, f"/{uuid}", told.append)
    assert workers.begun == ["/a"]
    usage.discard("c")
    workers.end(1)
    workers.end(StorageError("not to be read"))
    assert workers.begun == ["/a", "/b"]
    assert told == [1]
    usage.request("a", "/a", told.append)
    assert workers.begun == ["/a", "/b", "/a"]


def test_background_work_ends_with_the_node() -> None:
    workers, tasks = SlowWorkers(), BackgroundTasks()
    told: list[int] = []
    usage = DiskWalks(workers, tasks)  # type: ignore[arg-type]
    for uuid in ("a", "b"):
        usage.request(uuid, f"/{uuid}", told.append)
    tasks.stop()
    assert workers.begun == ["/a"]
    assert told == []
