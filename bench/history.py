"""Histories of servers beside restic and borg: what points take, and what getting files back does.

Run as a program, it is the game (`game`), or reads the history of a stopped node (`read`,
`rebuild`).
"""

from __future__ import annotations

import json
import math
import os
import random
import resource
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
from tests.support.sftp_users import SftpUser
from wingsd.history.format import BLOCK
from wingsd.history.reading import past_files
from wingsd.history.store import HistoryStore

__all__ = ["HISTORY"]

_GIB = 1 << 30
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
#: The files that the game writes to all the time; the first is the one that is read.
_HOT, _HOT_SIZE = 16, 8 * MIB
#: The part of all bytes that changes between two points, of files that are changed, and of the
#: whole that one file has.
_CHANGED, _TOUCHED, _ONE_FILE = 0.01, 0.1, 0.2
_READ_FILE = "hot/0"
_USER = "3f1f0f0e-6f8e-4b43-9a55-0d6b3b1f3a11"
#: Of success; of borg and restic where a file was changed while it was read.
_STATUSES = (0, 1, 3)


@frozen
class _World:
    """The files of a server: their total size in GiB, and their number."""

    gib: int
    files: int

    @property
    def name(self) -> str:
        """The name of its rows."""
        return f"{self.gib} GiB in {self.files:,} files"

    @property
    def blocks(self) -> int:
        """The blocks that change from point to point."""
        return int(self.gib * _GIB * _CHANGED) // BLOCK

    def fill(self, place: Path) -> None:
        """Make the files: bytes that cannot be compressed."""
        (place / "hot").mkdir(parents=True)
        size = int(self.gib * _GIB * _ONE_FILE)
        _write(place / "world.sqlite", size)
        for number in range(_HOT):
            _write(place / "hot" / str(number), _HOT_SIZE)
        count = self.files - _HOT - 1
        each = (self.gib * _GIB - size - _HOT * _HOT_SIZE) // count
        for number in range(count):
            directory = place / f"region{number // 1000}"
            directory.mkdir(exist_ok=True)
            _write(directory / f"{number}.mca", each)
        os.sync()

    def change(self, place: Path, rng: random.Random) -> int:
        """Write the blocks that change between two points; return how many they are."""
        written = 0
        regions = [*place.glob("region*/*.mca")]
        some = rng.sample(regions, int(self.files * _TOUCHED))
        of_one = int(self.blocks * _ONE_FILE)
        written += _scatter(place / "world.sqlite", of_one, rng)
        written += _scatter(place / _READ_FILE, 20, rng)
        left = self.blocks - written
        for number, file in enumerate(some):
            written += _scatter(
                file, (number + 1) * left // len(some) - number * left // len(some), rng
            )
        return written


def _write(file: Path, size: int) -> None:
    with file.open("wb", buffering=0) as opened:
        while size > 0:
            size -= opened.write(os.urandom(min(size, MIB)))


def _scatter(file: Path, count: int, rng: random.Random) -> int:
    """Write blocks of a file at random; return how many different ones."""
    blocks = file.stat().st_size // BLOCK
    places = rng.sample(range(blocks), min(count, blocks))
    with file.open("r+b", buffering=0) as opened:
        for place in places:
            os.pwrite(opened.fileno(), os.urandom(BLOCK), place * BLOCK)
    return len(places)


# The game


def _play(place: Path, rate: float) -> None:
    """Compute, and write `rate` blocks a second, in ticks; print when each began how late."""
    rng = random.Random()
    files = [os.open(place / "hot" / str(number), os.O_RDWR) for number in range(_HOT)]
    begun, tick, owed = time.time(), 0, 0.0
    while True:
        due = begun + tick / _TICKS
        time.sleep(max(due - time.time(), 0))
        now = time.time()
        owed += rate / _TICKS
        written = []
        while owed >= 1:
            number, block = rng.randrange(_HOT), rng.randrange(_HOT_SIZE // BLOCK)
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
def _playing(world: _World, place: Path) -> Iterator[_Game]:
    with tempfile.NamedTemporaryFile() as ticks:
        command = [sys.executable, "-m", "bench.history", "game"]
        command += [str(place), str(world.blocks / _INTERVAL)]
        process = subprocess.Popen(command, stdout=ticks)
        try:
            yield _Game(process, Path(ticks.name))
        finally:
            process.kill()
            process.wait()


# Others


@frozen
class _Run:
    """A run of a program: seconds and CPU seconds, and when it was."""

    seconds: float
    cpu: float
    span: tuple[float, float]


def _timed(*command: str, **variables: str) -> _Run:
    began, before = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = subprocess.run(command, check=False, capture_output=True, env=os.environ | variables)
    if ran.returncode not in _STATUSES:
        raise SystemExit(f"bench: {command}: {ran.stderr.decode()}")
    ended, after = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return _Run(ended - began, cpu, (began, ended))


@frozen
class _Other:
    """A program that deduplicates, by its commands; `{...}` are paths and names."""

    name: str
    variables: Mapping[str, str]
    init: Sequence[str]
    make: Sequence[str]
    read: Sequence[str]

    def run(self, command: Sequence[str], **places: str) -> _Run:
        """Run one of the commands."""
        words = [word.format(**places) for word in command]
        home = places["repository"] + ".home"
        return _timed(*words, **self.variables, HOME=home)


_OTHERS = (
    _Other(
        "restic",
        {"RESTIC_PASSWORD": "x"},
        ("restic", "-r", "{repository}", "init"),
        ("restic", "-r", "{repository}", "backup", "--tag", "{name}", "{tree}"),
        (
            "sh",
            "-c",
            "exec restic -r {repository} dump --tag {name} latest {tree}/{file} >{target}",
        ),
    ),
    _Other(
        "borg",
        {"BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"},
        ("borg", "init", "-e", "none", "{repository}"),
        ("borg", "create", "{repository}::{name}", "{tree}"),
        ("sh", "-c", "exec borg extract --stdout {repository}::{name} {inside}/{file} >{target}"),
    ),
)


def _on_disk(place: Path) -> int:
    listed = subprocess.run(
        ["/usr/bin/du", "-s", "--block-size=1", str(place)], check=True, capture_output=True
    )
    return int(listed.stdout.split()[0])


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

    world: _World
    wingsd: _Program
    others: Mapping[str, _Program] = field(factory=dict)


class _Measurement:
    """Measures one size on a new disk."""

    def __init__(self, world: _World, disk: Path, say: Callable[[str], None]) -> None:
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
                        for other in _OTHERS
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
        file = f"/.history/{min(points)}/{_READ_FILE}"
        began = time.monotonic()
        status, body = await node.fetch(f"{calls}/contents?file={quote(file)}")
        by_http = time.monotonic() - began
        if (status, len(body)) != (OK, _HOT_SIZE):
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
        ran = subprocess.run([*command, str(number), _READ_FILE], check=True, capture_output=True)
        return float(ran.stdout)

    def _other(self, other: _Other, tree: Path, game: _Game) -> _Program:
        repository = self._disk / other.name
        places = {
            "repository": str(repository),
            "tree": str(tree),
            "inside": str(tree)[1:],
            "file": _READ_FILE,
            "target": str(self._disk / "one"),
        }
        Path(f"{repository}.home").mkdir()
        other.run(other.init, **places)
        with settle():
            first = other.run(other.make, name="p0", **places)
        made, blocks, before = [], 0, _on_disk(repository)
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
        stored = _on_disk(repository) - before
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


_WORLDS = (_World(1, 5_000), _World(3, 15_000), _World(10, 50_000))
#: What is calculated from those.
_LARGE = _World(100, 500_000)


def _grown(worlds: Sequence[_World], values: Sequence[float], to: int) -> float:
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
    for world in _WORLDS:
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
    for {_WORK * 1000:.0f} ms, {_TICKS} times a second, and writes to {_HOT} files of
    {_HOT_SIZE // MIB} MiB; how much later it is, is the difference of the
    99th percentiles while a point is made and while none is. A rewind, and reading a file of
    {_HOT_SIZE // MIB} MiB, are by {_POINTS} points, an hour where one is made each 5 minutes. CPU
    seconds are those of the whole daemon.
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
