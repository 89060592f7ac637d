"""The plots of the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from bench.datasets import MIB
from bench.meter import Cost
from bench.series import Growth, Results

__all__ = ["PLOTS", "draw"]

mpl.use("svg")
# The same drawing for the same figures.
mpl.rcParams["svg.hashsalt"] = "wingsd"
mpl.rcParams["svg.fonttype"] = "none"


def draw(results: Results, directory: Path) -> None:
    """Write every plot for which there are results."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, plot in PLOTS.items():
        figure = plot(results)
        if figure is not None:
            figure.savefig(directory / f"{name}.svg", metadata={"Date": None})
            plt.close(figure)


def _time(results: Results) -> Any:
    """Seconds by MiB, with the straight line through the largest."""
    if not results.by_bytes:
        return None
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for label, cost in _ENDS:
        points = _points(results.by_bytes, lambda one: one.size / MIB, cost)
        axes.loglog(*zip(*points, strict=True), marker="o", label=label)
        largest, seconds = points[-1]
        axes.loglog([points[0][0], largest], [points[0][0] * seconds / largest, seconds], "k:")
    axes.set(xlabel="MiB", ylabel="seconds (dotted: in proportion)")
    axes.legend()
    return figure


def _files(results: Results) -> Any:
    """Files per second by number of files."""
    if not results.by_files:
        return None
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for label, cost in _ENDS:
        points = _points(results.by_files, lambda one: one.files, cost)
        axes.semilogx(
            [files for files, _ in points],
            [files / seconds for files, seconds in points],
            marker="o",
            label=label,
        )
    axes.set(xlabel="files of 512 bytes", ylabel="files per second", ylim=(0, None))
    axes.legend()
    return figure


def _memory(results: Results) -> Any:
    """Memory over time for the largest of each kind, received and sent."""
    if not results.by_bytes or not results.by_files:
        return None
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    large, many = results.by_bytes[-1], results.by_files[-1]
    for label, cost in (
        (f"{large.size / MIB / 1024:.0f} GiB received", large.received),
        (f"{large.size / MIB / 1024:.0f} GiB sent", large.sent),
        (f"{many.files:,} files received", many.received),
        (f"{many.files:,} files sent", many.sent),
    ):
        axes.plot(*zip(*cost.memory, strict=True), label=label)
    axes.set(xlabel="seconds", ylabel="resident MiB", ylim=(0, None))
    axes.legend()
    return figure


def _threads(results: Results) -> Any:
    """Time by thread while a dataset was received, and while one was sent."""
    if not results.received or not results.sent:
        return None
    figure, columns = plt.subplots(
        2, len(results.received), figsize=(10, 6), layout="constrained", sharex="col"
    )
    for index, name in enumerate(results.received):
        _bars(columns[0][index], f"{name} received", results.received[name][-1].fast)
        _bars(columns[1][index], f"{name} sent", results.sent[name][-1].node)
    columns[0][0].legend(loc="lower right", fontsize="small")
    return figure


def _bars(axes: Any, title: str, cost: Cost) -> None:
    names = [thread.name for thread in cost.threads]
    left = [0.0] * len(names)
    for label, seconds in (
        ("computing", [thread.user for thread in cost.threads]),
        ("in the kernel", [thread.system for thread in cost.threads]),
        ("waiting for a core", [thread.queued for thread in cost.threads]),
    ):
        axes.barh(names, seconds, left=left, label=label)
        left = [before + more for before, more in zip(left, seconds, strict=True)]
    axes.axvline(cost.seconds, color="k", linestyle=":")
    axes.set(title=title, xlabel="seconds (dotted: all of it)")


def _points(
    rounds: Sequence[Growth], amount: Callable[[Growth], float], cost: Callable[[Growth], Cost]
) -> list[tuple[float, float]]:
    """Return amounts and median seconds."""
    seconds: dict[float, list[float]] = {}
    for one in rounds:
        seconds.setdefault(amount(one), []).append(cost(one).seconds)
    return [(size, median(each)) for size, each in seconds.items()]


_ENDS: list[tuple[str, Callable[[Growth], Cost]]] = [
    ("received", lambda one: one.received),
    ("sent", lambda one: one.sent),
]

PLOTS: dict[str, Callable[[Results], Any]] = {
    "threads": _threads,
    "time": _time,
    "files": _files,
    "memory": _memory,
}
