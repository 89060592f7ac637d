"""From results to `docs/benchmarks.md`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import TypeVar

from bench.meter import Cost
from bench.plots import PLOTS
from bench.series import Growth, Results
from bench.targets import CPU, DURABLE, FAST, MEMORY, SEND, Target
from bench.worlds import MIB

__all__ = ["report"]

T = TypeVar("T")

_HEAD = """# Benchmarks

Written by `make bench`; nothing of it by hand. Rounds of receiving: {rounds}; each is on an ext4
made for it and mounted from a file. The competitors take turns from both ends, and all is flushed
between them. The client is curl over TLS, the archive is in the page cache, Docker is off. Times
are medians of the rounds' ratios to the yardstick in the same round, with the lowest and the
highest in brackets: seconds mean little on another machine. What is verified always is: checksum,
gzip's CRC, names, modes, times, owners.

Machine: {machine}. Version: {version}.

`big` is 16 files of 128 MiB that do not compress; `mixed` a game server of 1.7 GiB, region files,
jars, logs and 3,000 small files; `small` 50,000 files of 0.2 to 8 KiB.
"""


def report(results: Results) -> str:
    """Return the document."""
    counts = [f"{len(rounds)} of `{name}`" for name, rounds in results.received.items()]
    rounds = ", ".join(counts) or "none"
    head = _HEAD.format(rounds=rounds, machine=results.machine, version=results.version)
    parts = [head, *_receiving(results), *_sending(results), *_moving(results), *_growth(results)]
    return "\n".join(parts)


def _receiving(results: Results) -> Iterable[str]:
    if not results.received:
        return
    yield "## Receiving\n"
    yield "`durable: false`, time against `tar -xzf`:\n"
    rows = []
    for name, rounds in results.received.items():
        ratios = [one.fast.seconds / one.untar for one in rounds]
        harder = [one.fast.seconds / one.igzip_untar for one in rounds]
        rows.append([name, *_against(FAST[name], ratios), _spread(harder)])
    yield _table([*_COLUMNS, "against `igzip -dc \\| tar -x`"], rows)
    yield "`durable: true`, the default, time against `tar -xzf` and `sync -f`:\n"
    rows = []
    for name, rounds in results.received.items():
        ratios = [one.durable.seconds / (one.untar + one.flush) for one in rounds]
        speed = median(one.durable.seconds for one in rounds)
        rows.append([name, *_against(DURABLE[name], ratios), f"{speed:.1f}"])
    yield _table([*_COLUMNS, "seconds"], rows)
    yield "CPU seconds of the daemon, `durable: false`:\n"
    rows = [
        [name, *_against(CPU[name], [one.fast.cpu for one in rounds], digits=1)]
        for name, rounds in results.received.items()
    ]
    yield _table(_COLUMNS, rows)
    yield "Peak resident memory in MiB, children counted, the highest of all rounds:\n"
    rows = [
        [name, *_against(MEMORY, [max(_peaks(one.fast, one.durable)) for one in rounds], digits=0)]
        for name, rounds in results.received.items()
    ]
    yield _table(_COLUMNS, rows)
    yield _image("threads", "where each thread spends its time")


def _sending(results: Results) -> Iterable[str]:
    if not results.sent:
        return
    yield "## Sending\n"
    yield "Time against `tar -cz` at level 1 piped to curl, to where all is thrown away:\n"
    rows = []
    for name, rounds in results.sent.items():
        ratios = [one.node.seconds / one.tar_and_curl for one in rounds]
        cpu = _middle(rounds, lambda one: one.node.cpu)
        peak = max(one.node.peak for one in rounds)
        rows.append([name, *_against(SEND, ratios), f"{cpu:.1f}", f"{peak:.0f}"])
    yield _table([*_COLUMNS, "CPU seconds", "peak MiB"], rows)


def _moving(results: Results) -> Iterable[str]:
    if results.moved:
        yield "## Node to node\n"
        yield "Both on one machine, TLS, `durable: true`:\n"
        rows = [
            [
                name,
                f"{_middle(rounds, lambda one: one.source.seconds):.1f}",
                f"{_middle(rounds, lambda one: one.source.cpu):.1f}",
                f"{_middle(rounds, lambda one: one.destination.cpu):.1f}",
                f"{max(one.source.peak for one in rounds):.0f}",
                f"{max(one.destination.peak for one in rounds):.0f}",
            ]
            for name, rounds in results.moved.items()
        ]
        yield _table(
            ["", "seconds", "CPU source", "CPU destination", "MiB source", "MiB destination"], rows
        )
    if results.at_once:
        yield "## At once\n"
        yield "Servers of 200 MiB, each from a curl of its own, `durable: false`:\n"
        rows = [
            [
                str(count),
                f"{_middle(rounds, lambda one: one.seconds):.1f}",
                f"{count * 200 / _middle(rounds, lambda one: one.seconds):.0f}",
                f"{_middle(rounds, lambda one: one.cpu):.1f}",
                f"{max(one.peak for one in rounds):.0f}",
            ]
            for count, rounds in results.at_once.items()
        ]
        yield _table(["servers", "seconds", "MiB/s", "CPU seconds", "peak MiB"], rows)


def _growth(results: Results) -> Iterable[str]:
    if not results.by_bytes:
        return
    yield "## Growth\n"
    yield "By bytes, a third of which compress; `durable: false`:\n"
    rows = [
        [f"{size / MIB:,.0f} MiB", *_costs(rounds, lambda one: one.size / MIB)]
        for size, rounds in _grouped(results.by_bytes, lambda one: one.size)
    ]
    yield _table(_growing("MiB/s"), rows)
    yield "By files of 512 bytes:\n"
    rows = [
        [f"{files:,}", *_costs(rounds, lambda one: one.files)]
        for files, rounds in _grouped(results.by_files, lambda one: one.files)
    ]
    yield _table(_growing("files/s"), rows)
    yield _image("time", "time against size")
    yield _image("files", "files per second")
    yield _image("memory", "memory over time")


_COLUMNS = ["", "Go Wings", "must", "dream", "wingsd", ""]


def _growing(rate: str) -> list[str]:
    each = ["seconds", rate, "CPU seconds", "peak MiB"]
    return ["", *(f"{name}, {word}" for word in ("received", "sent") for name in each)]


def _costs(rounds: Sequence[Growth], amount: Callable[[Growth], float]) -> Iterable[str]:
    for costs in ([one.received for one in rounds], [one.sent for one in rounds]):
        seconds = _middle(costs, lambda cost: cost.seconds)
        yield f"{seconds:.2f}"
        yield f"{amount(rounds[0]) / seconds:,.0f}"
        yield f"{_middle(costs, lambda cost: cost.cpu):.2f}"
        yield f"{max(cost.peak for cost in costs):.0f}"


def _grouped(
    rounds: Iterable[Growth], key: Callable[[Growth], int]
) -> Iterable[tuple[int, list[Growth]]]:
    groups: dict[int, list[Growth]] = {}
    for one in rounds:
        groups.setdefault(key(one), []).append(one)
    return groups.items()


def _against(target: Target, figures: list[float], digits: int = 2) -> list[str]:
    """Return a row's figures: Wings', the must, the dream, ours, and what of it is reached."""
    # Memory must hold in every round.
    ours = max(figures) if target is MEMORY else median(figures)
    reached = "dream" if target.dream is not None and ours <= target.dream else "must"
    return [
        *(f"{figure:g}" if figure is not None else "" for figure in (target.wings, target.must)),
        f"{target.dream:g}" if target.dream is not None else "",
        _spread(figures, digits, ours),
        f"**{reached}**" if ours <= target.must else "missed",
    ]


def _spread(figures: Sequence[float], digits: int = 2, ours: float | None = None) -> str:
    middle = median(figures) if ours is None else ours
    return f"{middle:.{digits}f} ({min(figures):.{digits}f} to {max(figures):.{digits}f})"


def _middle(rounds: Sequence[T], figure: Callable[[T], float]) -> float:
    return median(figure(one) for one in rounds)


def _peaks(*costs: Cost) -> list[float]:
    return [cost.peak for cost in costs]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _image(name: str, words: str) -> str:
    assert name in PLOTS
    return f"![{words}](benchmarks/{name}.svg)\n"
