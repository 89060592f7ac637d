"""Histories of servers beside restic and borg: what points take, and what getting files back does.

Run as a program, it is the game (`game`), or reads the history of a stopped node (`read`,
`rebuild`).
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import OK
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any
from urllib.parse import quote

import yaml
from attrs import asdict, evolve, field, frozen
from twisted.internet.threads import deferToThread

from bench.backups import make_backup
from bench.datasets import MIB
from bench.disk import fresh_disk
from bench.figures import Bound, Column, Figure, Measured, Row, Table, grid
from bench.machine import settle
from bench.meter import Cost, Meter
from bench.node import BenchNode, Site
from bench.openssh import SftpAccount, free_port, make_key
from bench.series import MEMORY, Bars, Run, Series
from bench.worlds import HOT, HOT_SIZE, OTHERS, READ_FILE, WORLDS, Other, World, on_disk
from tests.support.sftp_users import SftpUser
from wingsd.history.format import BLOCK
from wingsd.history.reading import past_files
from wingsd.history.store import HistoryStore

__all__ = ["HISTORY"]

#: Of the largest server: seconds of a point, its CPU time as part of that of a backup, bytes that
#: are stored for each byte of changed blocks, milliseconds by which the game is later at the 99th
#: percentile, seconds of a rewind, and of reading one file.
_POINT, _CPU, _STORED = Bound(10), Bound(0.1), Bound(1.5)
_LATER, _REWIND, _READ = Bound(3), Bound(3), Bound(2)
#: Points after the first one, and how many of them are also made by the other programs.
_POINTS, _OTHERS_POINTS = 12, 2
#: Seconds between two points, for which the game's rate counts.
_INTERVAL = 300
#: Seconds that the game runs alone between two points.
_REST = 10.0
#: Ticks of the game a second, and seconds that it computes in each of them.
_TICKS, _WORK = 20, 0.005
_USER = "3f1f0f0e-6f8e-4b43-9a55-0d6b3b1f3a11"


# The game


def _play(place: Path, rate: float) -> None:
    """Compute, and write `rate` blocks a second, in ticks; print when each began how late."""
    rng = random.Random()
    files = [os.open(place / "hot" / str(number), os.O_RDWR) for number in range(HOT)]
    begun, tick, owed = time.time(), 0, 0.0
    while True:
        due = begun + tick / _TICKS
        time.sleep(max(due - time.time(), 0))
        now = time.time()
        owed += rate / _TICKS
        written = []
        while owed >= 1:
            number, block = rng.randrange(HOT), rng.randrange(HOT_SIZE // BLOCK)
            os.pwrite(files[number], os.urandom(BLOCK), block * BLOCK)
            written.append((number, block))
            owed -= 1
        while time.time() < now + _WORK:
            pass
        print(json.dumps([now, (now - due) * 1000, written]), flush=True)
        # What was missed is not made up for, as in a game.
        tick = max(tick + 1, math.ceil((time.time() - begun) * _TICKS))


@frozen
class _Game:
    """A running game, and the file with its ticks."""

    _process: subprocess.Popen[bytes]
    _ticks: Path

    def ticks(self) -> Iterator[tuple[float, float, list[tuple[int, int]]]]:
        """Yield the ticks so far: when it began, milliseconds late, blocks written."""
        for line in self._ticks.read_text().splitlines():
            with suppress(ValueError):  # the last one is not whole
                began, late, written = json.loads(line)
                yield began, late, [(number, block) for number, block in written]

    def late(self, spans: Sequence[tuple[float, float]]) -> float:
        """Return the milliseconds late at the 99th percentile, of the ticks in these spans."""
        found = sorted(
            late for at, late, _ in self.ticks() if any(start <= at < end for start, end in spans)
        )
        return found[len(found) * 99 // 100] if found else 0.0

    def written(self, start: float, end: float) -> int:
        """Return how many different blocks it has written in a span."""
        return len({each for at, _, some in self.ticks() if start <= at < end for each in some})


@contextmanager
def _playing(world: World, place: Path) -> Iterator[_Game]:
    with tempfile.NamedTemporaryFile() as ticks:
        command = [sys.executable, "-m", "bench.history", "game"]
        command += [str(place), str(world.blocks / _INTERVAL)]
        process = subprocess.Popen(command, stdout=ticks)
        try:
            yield _Game(process, Path(ticks.name))
            if process.poll() is not None:
                raise SystemExit("bench: the game has ended")
        finally:
            process.kill()
            process.wait()


# One size


@frozen
class _Program:
    """Figures of a program for a server: of its first point, of each later one, and of one file.

    `stored` are bytes for each byte of changed blocks, `later` milliseconds of the game.
    """

    first: float
    first_cpu: float
    seconds: Sequence[float]
    cpu: Sequence[float]
    stored: float
    later: float
    read: float
    read_by_http: float | None = None
    read_by_sftp: float | None = None
    peak: float | None = None
    rewind: float | None = None
    archive_cpu: float | None = None


@frozen
class _Size:
    """All that was measured of one size."""

    world: World
    wingsd: _Program
    others: Mapping[str, _Program] = field(factory=dict)


class _Measurement:
    """Measures one size on a new disk."""

    def __init__(self, world: World, disk: Path, say: Callable[[str], None]) -> None:
        self._world = world
        self._disk = disk
        self._say = say
        self._rng = random.Random(world.gib)

    async def run(self) -> _Size:
        with TemporaryDirectory() as directory:
            site = Site(Path(directory))
            await site.open()
            node = BenchNode(site, self._disk / "node")
            server = site.add_server(1, node.node)
            tree = node.volumes / server
            history = self._disk / "history"
            history.mkdir()
            try:
                await deferToThread(self._world.fill, tree)
                self._say(f"{self._world.name}: filled")
                node.transfers = {}
                user = self._user(Path(directory), site, server)
                sftp = {"enabled": True, "bind_address": "127.0.0.1", "bind_port": user.port}
                system = {
                    "history": {"directory": str(history), "keep": {"1h": 1000}},
                    "sftp": sftp,
                }
                await node.start_loaded(docker={"enabled": False}, system=system)
                with _playing(self._world, tree) as game:
                    own = await self._points(node, site, server, game)
                    own = await self._read_by_users(own, node, server, user)
                own = await self._past(own, node, site, server)
                with _playing(self._world, tree) as game:
                    others = {
                        other.name: await deferToThread(self._other, other, tree, game)
                        for other in OTHERS
                    }
            finally:
                await node.close()
                await site.close()
        return _Size(self._world, own, others)

    async def _points(self, node: BenchNode, site: Site, server: str, game: _Game) -> _Program:
        first = await self._point(node, server)
        made, rests, blocks = [], [], 0
        since = time.time()
        for _ in range(_POINTS):
            blocks += await deferToThread(self._world.change, node.volumes / server, self._rng)
            rest = time.time()
            await deferToThread(time.sleep, _REST)
            rests.append((rest, time.time()))
            blocks += game.written(since, since := time.time())
            made.append(await self._point(node, server))
            self._say(
                f"{self._world.name}: a point in {made[-1][0]:.1f} s, CPU {made[-1][1].cpu:.1f} s"
            )
        points = await self._listed(node, server)
        stored = sum(point["stored_bytes"] or 0 for point in points)
        return _Program(
            first[0],
            first[1].cpu,
            [seconds for seconds, _, _ in made],
            [cost.cpu for _, cost, _ in made],
            stored / (blocks * BLOCK),
            game.late([span for _, _, span in made]) - game.late(rests),
            read=await deferToThread(self._read, server, points[-1]["number"]),
        )

    @staticmethod
    def _user(directory: Path, site: Site, server: str) -> SftpAccount:
        """Return the account of the server's owner."""
        key = directory / "key"
        public = " ".join(make_key(key).split()[:2])
        user = SftpUser(_USER, keys={public}, permissions={server: ["*"]})
        site.panel.sftp_users.add("user", user)
        return SftpAccount(f"user.{server[:8]}", free_port(), key)

    async def _read_by_users(
        self, own: _Program, node: BenchNode, server: str, user: SftpAccount
    ) -> _Program:
        """Read the same file as users do, when the clock is on, which shows points to them."""
        path = node.directory / "config.yml"
        config = yaml.safe_load(path.read_text())
        config["system"]["history"]["every"] = "30d"
        path.write_text(yaml.safe_dump(config))
        node.signal("HUP")
        calls = f"/api/servers/{server}/files"
        points: list[str] = []
        while not points:
            status, body = await node.fetch(f"{calls}/list-directory?directory=/.history")
            points = [each["name"] for each in json.loads(body)] if status == OK else []
        file = f"/.history/{min(points)}/{READ_FILE}"
        began = time.monotonic()
        status, body = await node.fetch(f"{calls}/contents?file={quote(file)}")
        by_http = time.monotonic() - began
        if (status, len(body)) != (OK, HOT_SIZE):
            raise SystemExit(f"bench: {file} was not read: {status}")
        await deferToThread(user.seconds, "ls /")  # so that the process runs that serves SFTP
        by_sftp = await deferToThread(user.seconds, f"get '{file}' /dev/null")
        return evolve(own, read_by_http=by_http, read_by_sftp=by_sftp)

    async def _past(self, own: _Program, node: BenchNode, site: Site, server: str) -> _Program:
        """Rewind the server to its first point, and make a backup of it."""
        points = await self._listed(node, server)
        result = await node.wingsctl(
            "rewind", server, "--to", str(points[-1]["number"]), "--yes", "--json"
        )
        if result.status:
            raise SystemExit(f"bench: no rewind: {result.err}\n" + "\n".join(node.log[-30:]))
        peak = Meter(node.pid).peak()
        archive = await make_backup(node, site, server)
        shutil.rmtree(node.directory / "backups")
        rewind = result.json["seconds_off"]
        return evolve(own, peak=peak, rewind=rewind, archive_cpu=archive.cpu)

    async def _point(
        self, node: BenchNode, server: str
    ) -> tuple[float, Cost, tuple[float, float]]:
        """Make a point; return its seconds, its cost, and when it was made."""
        meter = Meter(node.pid)
        began = time.time()
        meter.begin()
        result = await node.wingsctl("history", "make", server, "--json")
        cost = meter.end()
        if result.status or result.json["point"] is None:
            raise SystemExit(f"bench: no point: {result}")
        shown = (await node.wingsctl("history", server, "--json")).json
        return shown["seconds"], cost, (began, began + shown["seconds"])

    async def _listed(self, node: BenchNode, server: str) -> list[Any]:
        found = (await node.wingsctl("history", server, "--json")).json["points"]
        return list(found)

    def _read(self, server: str, number: int) -> float:
        command = [
            sys.executable,
            "-m",
            "bench.history",
            "read",
            str(self._disk / "history" / server),
        ]
        ran = subprocess.run([*command, str(number), READ_FILE], check=True, capture_output=True)
        return float(ran.stdout)

    def _other(self, other: Other, tree: Path, game: _Game) -> _Program:
        repository = self._disk / other.name
        places = {
            "repository": str(repository),
            "tree": str(tree),
            "inside": str(tree)[1:],
            "file": READ_FILE,
            "target": str(self._disk / "one"),
        }
        Path(f"{repository}.home").mkdir()
        other.run(other.init, **places)
        with settle():
            first = other.run(other.make, name="p0", **places)
        made, blocks, before = [], 0, on_disk(repository)
        rests = []
        since = time.time()
        for number in range(_OTHERS_POINTS):
            blocks += self._world.change(tree, self._rng)
            rest = time.time()
            time.sleep(_REST)
            rests.append((rest, time.time()))
            blocks += game.written(since, since := time.time())
            made.append(other.run(other.make, name=f"p{number + 1}", **places))
            self._say(f"{self._world.name}: {other.name} in {made[-1].seconds:.1f} s")
        stored = on_disk(repository) - before
        read = other.run(other.read, name="p0", **places).seconds
        shutil.rmtree(repository)
        shutil.rmtree(f"{repository}.home")
        return _Program(
            first.seconds,
            first.cpu,
            [one.seconds for one in made],
            [one.cpu for one in made],
            stored / (blocks * BLOCK),
            game.late([one.span for one in made]) - game.late(rests),
            read,
        )


# The page


#: What is calculated from those.
_LARGE = World(100, 500_000)


def _grown(worlds: Sequence[World], values: Sequence[float], to: int) -> float:
    """Return what a value is at another size, if it grows in a straight line."""
    sizes = [world.gib for world in worlds]
    middle, mean = sum(sizes) / len(sizes), sum(values) / len(values)
    spread = sum((size - middle) ** 2 for size in sizes)
    slope = sum((s - middle) * (v - mean) for s, v in zip(sizes, values, strict=True)) / spread
    return mean + slope * (to - middle)


def _tables(sizes: Sequence[_Size]) -> list[Table]:
    last = sizes[-1].world.name
    table = grid(
        {size.world.name: [size.wingsd] for size in sizes},
        Column("seconds of a point", lambda one: median(one.seconds), {last: _POINT}),
        Column("its CPU seconds", lambda one: median(one.cpu)),
        Column("of a backup's", lambda one: median(one.cpu) / one.archive_cpu, {last: _CPU}),
        Column("bytes stored for each that changed", lambda one: one.stored, {last: _STORED}),
        Column("ms that the game is later", lambda one: one.later, {last: _LATER}),
        Column("seconds of a rewind by an hour", lambda one: one.rewind, {last: _REWIND}),
        Column("to read a file of then", lambda one: one.read, {last: _READ}),
        Column("by the file manager", lambda one: one.read_by_http, {last: _READ}),
        Column("by SFTP, with the login", lambda one: one.read_by_sftp, {last: _READ}),
        Column("MiB at the peak", lambda one: one.peak, MEMORY),
    )
    values: Sequence[Callable[[_Program], float]] = (
        lambda one: median(one.seconds),
        lambda one: median(one.cpu),
    )
    worlds = [size.world for size in sizes]
    calculated = [
        Figure.of([_grown(worlds, [value(size.wingsd) for size in sizes], _LARGE.gib)])
        for value in values
    ]
    missing = [None] * (len(table.columns) - len(calculated))
    table.rows.append(Row(f"{_LARGE.name}, calculated", [*calculated, *missing]))
    beside = {
        f"{size.world.name}: {name}": [one]
        for size in sizes
        for name, one in {"wingsd": size.wingsd, **size.others}.items()
    }
    return [
        table,
        grid(
            beside,
            Column("seconds of the first point", lambda one: one.first),
            Column("its CPU seconds", lambda one: one.first_cpu),
            Column("seconds of a later one", lambda one: median(one.seconds)),
            Column("its CPU seconds ", lambda one: median(one.cpu)),
            Column("bytes stored for each that changed", lambda one: one.stored),
            Column("ms that the game is later", lambda one: one.later),
            Column("seconds to read one file", lambda one: one.read),
            caption="Beside restic and borg, which are those of Debian, with their defaults:",
        ),
    ]


async def _measure(run: Run) -> Measured:
    """Measure histories of three sizes; each once, since all points are measured in it."""
    sizes = []
    for world in WORLDS:
        with fresh_disk(run.directory) as disk:
            sizes.append(await _Measurement(world, disk, run.say).run())
        run.say(json.dumps(asdict(sizes[-1])))
    return Measured(rounds=f"{_POINTS} points of each size", tables=_tables(sizes))


HISTORY = Series(
    "history",
    "Histories",
    f"""
    A point of 10 GiB is made in seconds, and takes the space of what has changed. The server has
    files that cannot be compressed, a fifth of them one file like a database's. Between two points
    1 % is changed: blocks of 4 KiB in a tenth of the files. Meanwhile a game goes on: it computes
    for {_WORK * 1000:.0f} ms, {_TICKS} times a second, and writes to {HOT} files of
    {HOT_SIZE // MIB} MiB; how much later it is, is the difference of the
    99th percentiles while a point is made and while none is. A rewind, and reading a file of
    {HOT_SIZE // MIB} MiB, are by {_POINTS} points, an hour where one is made each 5 minutes. CPU
    seconds are those of the whole daemon, and its peak includes the process for SFTP.
    """,
    _measure,
    (
        Bars("seconds of a later point", table=1, columns=("seconds of a later one",)),
        Bars("bytes stored", table=1, columns=("bytes stored for each that changed",)),
    ),
)


def _read(directory: str, number: int, path: bytes) -> None:
    """Print in how many seconds a file of a point is read."""
    with TemporaryFile(dir=Path(directory).parent, buffering=0) as copy:
        began = time.monotonic()
        store = HistoryStore(directory)
        try:
            with past_files(store, number) as past:
                past.copy(path, copy.fileno())
        finally:
            store.close()
        print(time.monotonic() - began)


if __name__ == "__main__":
    what, where, *rest = sys.argv[1:]
    if what == "game":
        _play(Path(where), float(rest[0]))
    else:
        _read(where, int(rest[0]), os.fsencode(rest[1]))
