"""The series: each program once a round, on a new disk, in alternating order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs
from attrs import frozen
from twisted.internet.threads import deferToThread

from bench.backups import BackupsResult, measure_backups
from bench.datasets import DATASETS, MIB, Dataset, dataset, of_bytes, of_files
from bench.disk import fresh_disk
from bench.files import FilesResult, measure_files
from bench.flood_kinds import KINDS
from bench.floods import FloodResult, measure_flood
from bench.idle import (
    AT_ONCE,
    REST_SECONDS,
    IdleResult,
    measure_empty_site,
    measure_libraries,
    measure_start,
)
from bench.live import LIVE_CASES, LiveResult, LiveRounds, measure_live
from bench.meter import Cost
from bench.move_growth import MoveGrowth, grow
from bench.moves import MovesResult, measure_moves
from bench.quiet import QuietResult, measure_quiet
from bench.references import flush, igzip_untar, untar
from bench.runs import memory_after, move, receive, received_tree, send, tar_and_curl
from bench.seed import SEED_MINUTES, SeedResult, measure_seed
from bench.sftp import SftpResult, measure_busy, measure_speed
from bench.sftp_transfers import measure_transfers
from bench.slow_line import SlowMoves, measure_slow_line

__all__ = ["Growth", "Moved", "Received", "Results", "Sent", "Series"]

_AT_ONCE = (1, 4, 16)
_AT_ONCE_BYTES = 200 * MIB
_SIZES = tuple(size * MIB for size in (1, 10, 100, 1024, 10 * 1024))
_COUNTS = (1, 10, 100, 1_000, 10_000, 100_000, 500_000)
#: How many times the rounds of others there are of receiving `small`: it takes two seconds, and
#: one round's ratio is a tenth off the next one's, so that the median of five says little.
_SMALL = 3
#: Rounds of what is not held against anything: growth shows in its sizes.
_FEW = 3
#: Starts a round: one takes a second.
_STARTS = 2


@frozen
class Received:
    """One round of receiving. Seconds; `flush` is what `sync -f` takes after `untar`."""

    untar: float
    flush: float
    igzip_untar: float
    fast: Cost
    durable: Cost


@frozen
class Sent:
    """One round of sending: the seconds of tar, gzip and curl, and the node's cost."""

    tar_and_curl: float
    node: Cost


@frozen
class Moved:
    """One move between two nodes."""

    source: Cost
    destination: Cost


@frozen
class Growth:
    """One round with an archive of some size: what receiving it cost, and sending it on."""

    size: int
    files: int
    received: Cost
    sent: Cost


@frozen
class Results:
    """Everything that was measured, by dataset, number at once, bytes or files."""

    machine: str
    version: str
    received: dict[str, list[Received]] = attrs.field(factory=dict)
    sent: dict[str, list[Sent]] = attrs.field(factory=dict)
    moved: dict[str, list[Moved]] = attrs.field(factory=dict)
    at_once: dict[int, list[Cost]] = attrs.field(factory=dict)
    by_bytes: list[Growth] = attrs.field(factory=list)
    by_files: list[Growth] = attrs.field(factory=list)
    floods: list[FloodResult] = attrs.field(factory=list)
    idle: IdleResult = attrs.field(factory=IdleResult)
    files: FilesResult = attrs.field(factory=FilesResult)
    sftp: SftpResult = attrs.field(factory=SftpResult)
    backups: BackupsResult = attrs.field(factory=BackupsResult)
    moves: MovesResult = attrs.field(factory=MovesResult)
    live: LiveResult = attrs.field(factory=LiveResult)
    move_growth: MoveGrowth = attrs.field(factory=MoveGrowth)
    quiet: QuietResult = attrs.field(factory=QuietResult)
    seed: SeedResult = attrs.field(factory=SeedResult)
    slow_line: SlowMoves = attrs.field(factory=SlowMoves)


class Series:
    """Runs them in `directory`, `rounds` times each, and adds to `results`.

    Of the series `live` and `floods` only those `cases` that are named, all without a name.
    `minutes` is how long a copy follows its server in `seed`.
    """

    def __init__(
        self,
        directory: Path,
        rounds: int,
        results: Results,
        cases: Collection[str] = (),
        minutes: float = SEED_MINUTES,
    ) -> None:
        self._directory = directory
        self._rounds = rounds
        self._results = results
        self._cases = cases
        self._minutes = minutes
        self._datasets = directory / "datasets"

    async def receive(self) -> None:
        """Datasets against tar, and against tar and sync."""
        for name in DATASETS:
            one = await self._dataset(name)
            rounds = self._results.received.setdefault(name, [])
            for number in range(self._rounds * (_SMALL if name == "small" else 1)):
                with fresh_disk(self._directory) as disk:
                    rounds.append(await _receive_round(one, disk, reverse=bool(number % 2)))
                _say(f"receive {name}: {_ratio(rounds[-1].fast, rounds[-1].untar)}")

    async def send(self) -> None:
        """Datasets against tar, gzip and curl."""
        for name in DATASETS:
            one = await self._dataset(name)
            rounds = self._results.sent.setdefault(name, [])
            with fresh_disk(self._directory) as disk:
                for _ in range(self._rounds):
                    rounds.append(Sent(await tar_and_curl(one), await send(one, disk)))
                    _say(f"send {name}: {_ratio(rounds[-1].node, rounds[-1].tar_and_curl)}")

    async def move(self) -> None:
        """Datasets from one node to another, with the default: durable."""
        for name in DATASETS:
            one = await self._dataset(name)
            rounds = self._results.moved.setdefault(name, [])
            for _ in range(_FEW):
                with fresh_disk(self._directory) as disk:
                    rounds.append(Moved(*await move(one, disk)))
                _say(f"move {name}: {rounds[-1].source.seconds:.1f} s")

    async def at_once(self) -> None:
        """Several servers at once."""
        one = await deferToThread(of_bytes, _AT_ONCE_BYTES, self._datasets)
        for count in _AT_ONCE:
            rounds = self._results.at_once.setdefault(count, [])
            for _ in range(_FEW):
                with fresh_disk(self._directory) as disk:
                    rounds.append(await receive(one, disk, durable=False, at_once=count))
                _say(f"{count} at once: {rounds[-1].seconds:.1f} s, {rounds[-1].peak:.0f} MiB")

    async def growth(self) -> None:
        """From 1 MiB to 10 GiB, and from 1 file to 500,000."""
        for make, amounts, results in (
            (of_bytes, _SIZES, self._results.by_bytes),
            (of_files, _COUNTS, self._results.by_files),
        ):
            for amount in amounts:
                await self._grow(await deferToThread(make, amount, self._datasets), results)

    async def floods(self) -> None:
        """Floods of clients, while another one sends requests."""
        for kind in KINDS:
            if self._cases and kind not in self._cases:
                continue
            with TemporaryDirectory() as directory:
                result = await measure_flood(kind, Path(directory))
            self._results.floods.append(result)
            _say(
                f"{kind}: {result.longest:.2f} s at most, {result.peak - result.idle:.0f} MiB more"
            )

    async def idle(self) -> None:
        """Starts, in turns of Twisted alone, without Docker and with it, and memory at rest."""
        for _ in range(self._rounds * _STARTS):
            with TemporaryDirectory() as directory:
                start = await deferToThread(measure_empty_site, Path(directory))
            self._results.idle.empty.append(start)
            for docker, starts in (
                (False, self._results.idle.plain),
                (True, self._results.idle.docker),
            ):
                with TemporaryDirectory() as directory:
                    starts.append(await measure_start(Path(directory), docker=docker))
                _say(f"started: {starts[-1].cpu:.2f} s of CPU, {starts[-1].resident:.0f} MiB")
            for name, taken in (await deferToThread(measure_libraries)).items():
                self._results.idle.libraries.setdefault(name, []).append(taken)
        one = await deferToThread(of_bytes, _AT_ONCE_BYTES, self._datasets)
        for _ in range(_FEW):
            with fresh_disk(self._directory) as disk:
                rest = await memory_after(one, disk, at_once=AT_ONCE, rest=REST_SECONDS)
            self._results.idle.rest.append(rest)
            _say(f"{REST_SECONDS} s after {AT_ONCE} servers at once: {rest:.0f} MiB")

    async def files(self) -> None:
        """Downloads beside nginx, and listings of large directories."""
        result = self._results.files
        with TemporaryDirectory() as directory:
            await measure_files(Path(directory), self._rounds, result)
        for one in result.downloads:
            _say(f"1 GiB: {one.node:.2f} s, {one.nginx / one.node:.2f} of nginx's speed")

    async def sftp(self) -> None:
        """SFTP beside OpenSSH's server, and the node while clients are busy; files in memory."""
        result = self._results.sftp
        with TemporaryDirectory(dir="/dev/shm") as directory:
            await measure_speed(Path(directory), self._rounds, result)
        for one, other in zip(result.node, result.openssh, strict=True):
            ratios = f"{other.up / one.up:.2f} and {other.down / one.down:.2f}"
            _say(f"1 GiB up and down with {one.cipher}: {ratios}")
        dataset = await deferToThread(of_bytes, _AT_ONCE_BYTES, self._datasets)
        with TemporaryDirectory(dir="/dev/shm") as directory:
            await measure_transfers(Path(directory), dataset, self._rounds, result.transfers)
        for each in result.transfers:
            _say(f"a transfer beside SFTP: {each.quiet / each.node:.2f} of its speed")
        for _ in range(self._rounds):
            with TemporaryDirectory(dir="/dev/shm") as directory:
                busy = await measure_busy(Path(directory))
            if busy is None:
                _say("no Docker engine answers: the console is not measured")
                return
            result.busy.append(busy)
            _say(f"clients at once: {busy.peak:.0f} MiB")

    async def backups(self) -> None:
        """Backups of `mixed`, made and restored."""
        one = await self._dataset("mixed")
        for number in range(self._rounds):
            with fresh_disk(self._directory) as disk:
                result = await measure_backups(one, disk, reverse=bool(number % 2))
            self._results.backups.rounds.append(result)
            _say(f"backup made: {_ratio(result.made, result.tar)}, {result.made.peak:.0f} MiB")
            _say(f"restored: {_ratio(result.restored, result.received.seconds)}")

    async def resume(self) -> None:
        """Moves by batches beside the single stream, and with a destination that is killed."""
        one = await self._dataset("server")
        self._results.moves.size[:] = [one.size, one.files]
        for number in range(self._rounds):
            with fresh_disk(self._directory) as disk:
                result = await measure_moves(one, disk, reverse=bool(number % 2))
            self._results.moves.rounds.append(result)
            _say(f"by batches: {_ratio(result.source, result.stream_source.seconds)}")
            _say(f"sent twice: {(result.killed - result.whole) / MIB:.1f} MiB")

    async def slow_line(self) -> None:
        """Moves over a shaped line, by batches beside the single stream."""
        await measure_slow_line(self._directory, self._rounds, self._results.slow_line, _say)

    async def move_growth(self) -> None:
        """Moves by batches, of 1 to 10 GiB and of 5,000 to 500,000 files."""
        await grow(self._directory, self._results.move_growth, _say)

    async def live(self) -> None:
        """Moves of running servers beside those that are stopped first; a real engine."""
        for case in LIVE_CASES:
            if self._cases and case.name not in self._cases:
                continue
            one = await self._dataset(case.dataset)
            self._results.live.sizes[case.dataset] = [one.size, one.files]
            rounds = LiveRounds(case)
            self._results.live.cases.append(rounds)
            for _ in range(min(self._rounds, _FEW) if case.dataset == "many" else self._rounds):
                for follows, moves in ((True, rounds.followed), (False, rounds.stopped)):
                    if not follows and not case.is_compared:
                        continue
                    with fresh_disk(self._directory) as disk:
                        moves.append(await measure_live(one, disk, case, follows=follows))
                    how = "" if follows else "stopped first, "
                    _say(f"{case.name}: {how}down for {moves[-1].downtime:.2f} s")

    async def quiet(self) -> None:
        """What a game notices of its move; a real engine."""
        one, result = await self._dataset("server"), self._results.quiet
        result.size[:] = [one.size, one.files]
        for _ in range(self._rounds):
            for lowered, moves in ((False, result.plain), (True, result.lowered)):
                with fresh_disk(self._directory) as disk:
                    moves.append(await measure_quiet(one, disk, lowered=lowered))
                late = moves[-1].moving - moves[-1].resting
                _say(f"quiet{', with less of the CPU' if lowered else ''}: {late:.1f} ms later")

    async def seed(self) -> None:
        """A copy that follows a running server until the Panel orders its move; a real engine."""
        one, result = await self._dataset("server"), self._results.seed
        result.size[:] = [one.size, one.files]
        result.minutes[:] = [self._minutes]
        for _ in range(self._rounds):
            with fresh_disk(self._directory) as disk:
                result.moves.append(await measure_seed(one, disk, self._minutes, _say))
            last = result.moves[-1]
            _say(f"seed: down for {last.downtime:.2f} s, after {last.rounds} more rounds")

    async def _grow(self, one: Dataset, results: list[Growth]) -> None:
        one.warm()
        for _ in range(_FEW):
            with fresh_disk(self._directory) as disk:
                received = await receive(one, disk, durable=False)
                arrived = attrs.evolve(one, tree=received_tree(disk))
                sent = await send(arrived, disk)
            results.append(Growth(one.size, one.files, received, sent))
            _say(f"{one.name}: {received.seconds:.1f} s, {received.peak:.0f} MiB")

    async def _dataset(self, name: str) -> Dataset:
        one = await deferToThread(dataset, name, self._datasets)
        await deferToThread(one.warm)
        return one


async def _receive_round(one: Dataset, disk: Path, *, reverse: bool) -> Received:
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
    return Received(fast=fast[0], durable=fast[1], **seconds)


def _ratio(cost: Cost, reference: float) -> str:
    return f"{cost.seconds:.2f} s, {cost.seconds / reference:.2f} of the reference's"


def _say(line: str) -> None:
    print(line, flush=True)
