"""A node's metrics without the node: everything that can be told of one has been told once."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import attrs
from docker.errors import APIError
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.support import SynchronousWorkers
from wingsd.docker.runtime import (
    ContainerUsage,
    DiskIo,
    NetworkUsage,
    Pressure,
)
from wingsd.errors import PanelRefused, StorageError, TooManyTransfers, TransferCancelled
from wingsd.histories.manager import HistoryState, HistoryTotals
from wingsd.metrics import Exposition, Recorder, Sources
from wingsd.servers.figures import ServerFigures
from wingsd.transfers.steps import ReceiveStep, SendStep
from wingsd.util.observer import ENGINE, PANEL

#: Labels, as they are read back.
Labels = dict[str, str]


@attrs.define(eq=False)
class FakePassage:
    """A transfer that is wherever the test says."""

    direction: str = "in"
    step: str = "receive"
    step_seconds: float = 0.0
    moved: int = 0


class Samples:
    """What an exposition says."""

    def __init__(self, text: str) -> None:
        families = list(text_string_to_metric_families(text))
        self.types = {family.name: family.type for family in families}
        self.all = [(s.name, s.labels, s.value) for family in families for s in family.samples]
        self.names = {name for name, _, _ in self.all}

    def get(self, name: str, **labels: str) -> float | None:
        """Return the value of the one sample with exactly these labels."""
        found = [value for n, has, value in self.all if (n, has) == (name, labels)]
        assert len(found) <= 1, f"{name} is told {len(found)} times"
        return found[0] if found else None

    def having(self, name: str) -> list[Labels]:
        """Return the labels of all samples of that name whose value is not 0."""
        return [labels for n, labels, value in self.all if n == name and value]


def kept() -> int:
    return 5_000


PRESSURE = {each: Pressure(1.0, 2.5) for each in ("cpu", "memory", "io")}
USAGE = ContainerUsage(
    memory_bytes=100,
    memory_limit_bytes=200,
    network=NetworkUsage(1, 2, 3, 4),
    disk_io=DiskIo(5, 6),
    uptime=1500,
    cpu_seconds=7.5,
    throttled_seconds=0.5,
    memory_peak_bytes=150,
    pressure=PRESSURE,
    oom_kills=1,
    disk_operations=(8, 9),
    processes=10,
)


def server(
    name: str = "Lobby",
    usage: ContainerUsage = USAGE,
    uuid: str = "8d2f5a14",
    limit: int | None = 300,
) -> Any:
    """Return a server with that usage, or offline without."""
    figures = ServerFigures()
    figures.begin()
    figures.take(usage, 0)
    figures.lines = 11
    return SimpleNamespace(
        uuid=uuid,
        figures=figures,
        disk_bytes=250,
        files=SimpleNamespace(limit=limit),
        configuration=SimpleNamespace(settings=SimpleNamespace(meta=SimpleNamespace(name=name))),
    )


def histories() -> Any:
    """Return the histories of a node with one server, looked at an hour ago."""
    at = time.time() - 3600
    state = HistoryState(
        newest=at, looked=at, points=3, bytes=5000, unsettled=[b"a", b"b"], seconds=0.5
    )
    return SimpleNamespace(
        totals=lambda: HistoryTotals(2, 1, 1, 0, 3, 5000, at),
        states=lambda: {"8d2f5a14": state},
        made=7,
        seconds=3.5,
        cpu_seconds=0.25,
    )


def sources(**figures: Any) -> Sources:
    """Return sources with these figures alone, and nothing of all others."""
    has = {
        "receiving": SimpleNamespace(waiting=0),
        "sending": SimpleNamespace(waiting=0, seeds=()),
        "reports": SimpleNamespace(depth=0),
        "activity": SimpleNamespace(waiting=0, sent=0, dropped={"refused": 0}),
        "checks": SimpleNamespace(damaged=(), count=0),
        "left": SimpleNamespace(counts={"follows": 0}, oldest=0.0),
        "sftp": SimpleNamespace(
            sessions=SimpleNamespace(count=0),
            refused={"password": 0, "public_key": 0},
            moved={"in": 0, "out": 0},
        ),
        "pairs": SimpleNamespace(receiving={}, sending={}, is_maintained=False),
        "evacuation": SimpleNamespace(last=None, reported=0.0),
        "wanted": SimpleNamespace(wanted={}),
        "histories": SimpleNamespace(made=histories()),
        "servers": SimpleNamespace(all=lambda: [server()]),
    }
    for name, figure in figures.items():
        source, _, attribute = name.partition("_")
        setattr(has[source], attribute, figure)
    parts: list[Any] = [*has.values()]
    return Sources(*parts)


def exposition(
    recorder: Recorder,
    shown: Sources | None = None,
    workers: Any = None,
    clock: Any = None,
    kept: Callable[[], int] = kept,
) -> Exposition:
    workers = workers or SynchronousWorkers()
    shown, clock = shown or sources(), clock or Clock()
    return Exposition(recorder, shown, workers, "/", kept, clock, lambda: PRESSURE)


def rendered(exposed: Exposition, accept: str = "") -> tuple[str, str]:
    found: list[tuple[bytes, str]] = []
    Deferred.fromCoroutine(exposed.render(accept)).addCallback(found.append)
    ((body, kind),) = found
    return body.decode(), kind


def told() -> Recorder:
    """Return a recorder that was told of everything there is."""
    recorder = Recorder()
    for direction, steps in (("in", list(ReceiveStep)), ("out", list(SendStep))):
        passage = FakePassage(direction, moved=1000)
        recorder.transfer_begun(passage)
        for step in steps:
            passage.step = step.name.lower()
            recorder.step_left(passage)
        recorder.transfer_over(direction, None, passage)
        recorder.transfer_over(direction, StorageError("the disk is full"))
        recorder.transfer_over(direction, TransferCancelled())
    refusals = {PANEL: PanelRefused("no", "", 404), ENGINE: APIError("no")}
    for peer, refusal in refusals.items():
        for error in (None, refusal, ConnectionError()):
            recorder.called(peer, "operation", 0.1, error)
    recorder.answered(TooManyTransfers(72))
    return recorder
