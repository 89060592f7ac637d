"""Whole servers, received, sent and moved as one stream: beside tar, at once, and of any size."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import attrs
from attrs import frozen
from twisted.internet.threads import deferToThread

from bench.datasets import DATASETS, MIB, Dataset, of_bytes, of_files
from bench.disk import fresh_disk
from bench.figures import Bound, Column, Figure, Measured, Points, Row, Table, grid
from bench.meter import Cost
from bench.references import flush, igzip_untar, untar
from bench.runs import move, receive, received_tree, send, tar_and_curl
from bench.series import FEW, Bars, Lines, Run, Series, Stacks, ratio

__all__ = ["AT_ONCE", "GROWTH", "MOVE", "RECEIVE", "SEND"]

#: Time, against `tar -xzf`.
_FAST = {
    "big": Bound(0.48, goal=0.30, wings=0.53),
    "mixed": Bound(0.60, goal=0.45, wings=1.01),
    "small": Bound(1.2, goal=0.8, wings=2.0),
}
#: Time, against `tar -xzf` and `sync -f`. Wings never syncs. Without a goal, the limit is the
#: disk's own write speed.
_DURABLE = {"big": Bound(0.65), "mixed": Bound(0.65), "small": Bound(1.0, goal=0.7)}
#: CPU seconds of the daemon while it receives.
_CPU = {
    "big": Bound(4.9, goal=3.4, wings=4.9),
    "mixed": Bound(12.3, goal=8.6, wings=12.3),
    "small": Bound(4.2, goal=2.9, wings=4.2),
}
#: MiB at the peak.
_MEMORY = Bound(120, goal=80, wings=45)
#: Time, against `tar -cz` at level 1 piped to curl.
_SEND = Bound(0.6, goal=0.45)
#: How many times the rounds of others there are of receiving `small`: it takes two seconds, and
#: one round's ratio is a tenth off the next one's, so that the median of five says little.
_SMALL = 3

_SERVERS = (1, 4, 16)
_SERVER_BYTES = 200 * MIB
_SIZES = tuple(size * MIB for size in (1, 10, 100, 1024, 10 * 1024))
#: Points of the memory over time of a run, at most.
_SEEN = 60
_COUNTS = (1, 10, 100, 1_000, 10_000, 100_000, 500_000)
_THREADS = ["thread", "computing", "in the kernel", "waiting for a core"]
_SECONDS_BY_THREAD = "seconds, dotted: from the beginning to the end"


# Receiving


@frozen
class _Received:
    """One round of receiving. Seconds; `flush` is what `sync -f` takes after `untar`."""

    untar: float
    flush: float
    igzip_untar: float
    fast: Cost
    durable: Cost


async def _receive(run: Run) -> Measured:
    measured: dict[str, list[_Received]] = {name: [] for name in DATASETS}
    for name, rounds in measured.items():
        one = await run.dataset(name)
        for number in range(run.rounds * (_SMALL if name == "small" else 1)):
            with fresh_disk(run.directory) as disk:
                rounds.append(await _receive_round(one, disk, reverse=bool(number % 2)))
            run.say(f"receive {name}: {ratio(rounds[-1].fast, rounds[-1].untar)}")
    threads = {name: _threads(rounds[-1].fast) for name, rounds in measured.items()}
    return Measured(rounds=_counted(measured), tables=_received(measured), points=threads)


def _received(measured: Mapping[str, Sequence[_Received]]) -> list[Table]:
    bounded = [
        Column("time against `tar -xzf`", lambda one: one.fast.seconds / one.untar, _FAST),
        Column(
            "durable, against tar and `sync -f`",
            lambda one: one.durable.seconds / (one.untar + one.flush),
            _DURABLE,
        ),
        Column("CPU seconds", lambda one: one.fast.cpu, _CPU),
        Column(
            "MiB at the peak",
            lambda one: max(one.fast.peak, one.durable.peak),
            _MEMORY,
            Figure.peak,
        ),
    ]
    rows = [
        Row(f"{name}: {column.name}", [column.of(name, rounds)])
        for column in bounded
        for name, rounds in measured.items()
    ]
    others = grid(
        measured,
        Column(
            "time against `igzip -dc \\| tar -x`", lambda one: one.fast.seconds / one.igzip_untar
        ),
        Column("durable, seconds", lambda one: one.durable.seconds),
    )
    return [Table(rows), others]


async def _receive_round(one: Dataset, disk: Path, *, reverse: bool) -> _Received:
    fast: list[Cost] = []
    seconds: dict[str, float] = {}

    async def with_tar() -> None:
        seconds["untar"] = await deferToThread(untar, one, disk / "tar")
        seconds["flush"] = await deferToThread(flush, disk)

    async def with_igzip() -> None:
        seconds["igzip_untar"] = await deferToThread(igzip_untar, one, disk / "igzip")
        await deferToThread(flush, disk)

    async def with_node() -> None:
        fast.append(await receive(one, disk, durable=False))
        await deferToThread(flush, disk)
        fast.append(await receive(one, disk, durable=True))

    turns: list[Callable[[], Awaitable[None]]] = [with_tar, with_node, with_igzip]
    for turn in reversed(turns) if reverse else turns:
        await turn()
    return _Received(fast=fast[0], durable=fast[1], **seconds)


def _threads(cost: Cost) -> Points:
    """Return the seconds of each thread, and of all of the run."""
    rows = [[one.name, one.user, one.system, one.queued] for one in cost.threads]
    return Points(_THREADS, [*rows, ["", cost.seconds, 0, 0]])


def _counted(measured: Mapping[str, Sequence[object]]) -> str:
    return ", ".join(f"{len(rounds)} of {name}" for name, rounds in measured.items())


RECEIVE = Series(
    "receive",
    "Receiving",
    """
    A node receives large servers in half the time that `tar -xzf` takes to unpack their archives,
    and small files in about the same time. curl sends the archive, which is in the page cache,
    over TLS to a node on a new ext4, which is mounted from a file; all is flushed between the
    programs. By default a node is durable; other rows have `durable: false`, since Go Wings never
    flushes. Each run verifies checksum, gzip's CRC, names, modes, times and owners. Memory is the
    highest of all rounds, with child processes.
    """,
    _receive,
    (Bars(), *(Stacks(name, f"{name}: {_SECONDS_BY_THREAD}") for name in DATASETS)),
)


# Sending


@frozen
class _Sent:
    """One round of sending: the seconds of tar, gzip and curl, and the node's cost."""

    tar_and_curl: float
    node: Cost


async def _send(run: Run) -> Measured:
    measured: dict[str, list[_Sent]] = {name: [] for name in DATASETS}
    for name, rounds in measured.items():
        one = await run.dataset(name)
        with fresh_disk(run.directory) as disk:
            for _ in range(run.rounds):
                rounds.append(_Sent(await tar_and_curl(one), await send(one, disk)))
                run.say(f"send {name}: {ratio(rounds[-1].node, rounds[-1].tar_and_curl)}")
    threads = {name: _threads(rounds[-1].node) for name, rounds in measured.items()}
    return Measured(rounds=_counted(measured), tables=[_sent(measured)], points=threads)


def _sent(measured: Mapping[str, Sequence[_Sent]]) -> Table:
    return grid(
        measured,
        Column(
            "time against tar and curl", lambda one: one.node.seconds / one.tar_and_curl, _SEND
        ),
        Column("CPU seconds", lambda one: one.node.cpu),
        Column("MiB at the peak", lambda one: one.node.peak, by=Figure.peak),
    )


SEND = Series(
    "send",
    "Sending",
    """
    A node sends a server at least as fast as tar, gzip and curl, large files several times as
    fast. `tar -cz` at level 1, piped to curl, sends the same tree to the same server, which
    discards everything. CPU and memory are the node's.
    """,
    _send,
    (Bars(), *(Stacks(name, f"{name}: {_SECONDS_BY_THREAD}") for name in DATASETS)),
)


# Between nodes, and several at once


async def _move(run: Run) -> Measured:
    measured: dict[str, list[list[Cost]]] = {name: [] for name in DATASETS}
    for name, rounds in measured.items():
        one = await run.dataset(name)
        for _ in range(FEW):
            with fresh_disk(run.directory) as disk:
                rounds.append(await move(one, disk))
            run.say(f"move {name}: {rounds[-1][0].seconds:.1f} s")
    table = grid(
        measured,
        Column("seconds", lambda one: one[0].seconds, by=Figure.middle),
        Column("CPU source", lambda one: one[0].cpu, by=Figure.middle),
        Column("CPU destination", lambda one: one[1].cpu, by=Figure.middle),
        Column("MiB source", lambda one: one[0].peak, by=_highest),
        Column("MiB destination", lambda one: one[1].peak, by=_highest),
    )
    return Measured(rounds=str(FEW), tables=[table])


def _highest(values: Sequence[float], _: Bound | None) -> Figure:
    return Figure.middle([max(values)])


MOVE = Series(
    "move",
    "Node to node",
    """
    A stopped server of 2 GiB is moved in seconds, with the default: durable.
    """,
    _move,
    (Bars("seconds, and CPU seconds", columns=("seconds", "CPU source", "CPU destination")),),
)


async def _at_once(run: Run) -> Measured:
    one = await deferToThread(of_bytes, _SERVER_BYTES, run.datasets)
    rows: dict[str, list[tuple[float, Cost]]] = {}
    for count in _SERVERS:
        rounds = rows.setdefault(str(count), [])
        for _ in range(FEW):
            with fresh_disk(run.directory) as disk:
                cost = await receive(one, disk, durable=False, at_once=count)
            rounds.append((count * one.size / MIB, cost))
            run.say(f"{count} at once: {cost.seconds:.1f} s, {cost.peak:.0f} MiB")
    return Measured(rounds=str(FEW), tables=[grid(rows, *_costs("MiB/s"))])


def _costs(rate: str, name: str = "{}", index: int = 1) -> list[Column]:
    """Return columns of rounds that are an amount, and at `index` what it cost."""
    return [
        Column(name.format("seconds"), lambda one: one[index].seconds, by=Figure.middle),
        Column(name.format(rate), lambda one: one[0] / one[index].seconds, by=Figure.middle),
        Column(name.format("CPU seconds"), lambda one: one[index].cpu, by=Figure.middle),
        Column(name.format("peak MiB"), lambda one: one[index].peak, by=_highest),
    ]


AT_ONCE = Series(
    "at_once",
    "Simultaneous transfers",
    """
    Sixteen servers at once take no longer than one after the other, and each needs some 10 MiB of
    memory more. Each has 200 MiB and a curl of its own, `durable: false`.
    """,
    _at_once,
    (
        Lines("servers at once", "MiB/s", ("MiB/s",)),
        Lines("servers at once", "MiB at the peak", ("peak MiB",)),
    ),
)


# Growth


async def _growth(run: Run) -> Measured:
    tables, points = [], {}
    for make, amounts, unit, caption in (
        (of_bytes, _SIZES, "MiB", "By MiB, a third of them compressible:"),
        (of_files, _COUNTS, "files", "By files of 512 bytes:"),
    ):
        rows: dict[str, list[tuple[float, Cost, Cost]]] = {}
        for amount in amounts:
            one = await deferToThread(make, amount, run.datasets)
            one.warm()
            number = one.size / MIB if make is of_bytes else one.files
            name = f"{number:,.0f}"
            for _ in range(FEW):
                with fresh_disk(run.directory) as disk:
                    received = await receive(one, disk, durable=False)
                    sent = await send(attrs.evolve(one, tree=received_tree(disk)), disk)
                rows.setdefault(name, []).append((number, received, sent))
                run.say(f"{one.name}: {received.seconds:.1f} s, {received.peak:.0f} MiB")
        for way, cost in (("received", received), ("sent", sent)):
            seen = cost.memory[:: len(cost.memory) // _SEEN + 1]
            memory = [[round(at, 2), round(mib, 1)] for at, mib in seen]
            points[f"memory: {name} {unit} {way}"] = Points(["seconds", "MiB"], memory)
        columns = _costs(f"{unit}/s", "{}, received"), _costs(f"{unit}/s", "{}, sent", 2)
        tables.append(grid(rows, *columns[0], *columns[1], caption=caption))
    return Measured(rounds=str(FEW), tables=tables, points=points)


GROWTH = Series(
    "growth",
    "Growth",
    """
    Time grows in proportion to a server's size, and memory hardly grows. Archives of growing size
    are received, `durable: false`, and sent on.
    """,
    _growth,
    (
        Lines(
            "MiB",
            "seconds (dotted: in proportion)",
            ("seconds, received", "seconds, sent"),
            0,
            scale="log",
        ),
        Lines(
            "files of 512 bytes",
            "files per second",
            ("files/s, received", "files/s, sent"),
            1,
            scale="semilogx",
        ),
        Lines("seconds", "resident MiB", ("MiB",), points="memory: "),
    ),
)
