"""Backups of a server: as archives beside tar and gzip, and as points beside restic and borg."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

import attrs
from attrs import asdict, frozen
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from bench.datasets import MIB, Dataset
from bench.disk import fresh_disk
from bench.figures import Bound, Column, Measured, Table, grid
from bench.machine import settle
from bench.meter import Cost, Meter
from bench.node import BenchNode, Site, reactor
from bench.references import tar_to_file
from bench.runs import mounted, receive
from bench.series import FEW, MEMORY, Bars, Run, Series, ratio
from bench.worlds import OTHERS, READ_FILE, WORLDS, Other, World, on_disk
from tests.support.tokens import signed_url_token

__all__ = ["BACKUPS", "BACKUP_CASES", "make_backup"]

#: Time to make a backup, against `tar -cz` at level 1; and to restore one, against receiving the
#: same archive.
_MADE = Bound(0.35)
_RESTORED = Bound(1.3)
#: Seconds for which a server of 10 GiB is down when yesterday's backup is restored.
_DOWN = Bound(3)

#: Seconds for a backup, and for a restore.
_WITHIN = 600.0
#: By the kind of backups, the line of the log when the server is stopped for a restore.
_STOPS = {"history": "its rewind: stopping", "archive": "the backup is read and verified"}
_WORLDS = {f"{world.gib} GiB": world for world in (WORLDS[0], WORLDS[-1])}
#: What is measured: `mixed`, and worlds.
BACKUP_CASES = ("mixed", *_WORLDS)


def _backup(number: int) -> str:
    """Return the UUID of a backup."""
    return str(UUID(int=(9 << 76) | (4 << 60) | number, version=4))


_BACKUP = _backup(0)


@frozen
class _BackupRound:
    """One round. Seconds of `tar -cz` at level 1, what making cost, and the archive's bytes.

    `restored` is what restoring that archive cost, `received` what receiving it does.
    """

    tar: float
    made: Cost
    size: int
    received: Cost
    restored: Cost


async def _round(one: Dataset, disk: Path, *, reverse: bool) -> _BackupRound:
    """Make a backup of a dataset's tree on `disk`, restore it, and receive the same archive."""
    with TemporaryDirectory() as directory:
        site = Site(Path(directory))
        await site.open()
        node = BenchNode(site, disk / "node")
        made_of, restored_to = site.add_server(1, node.node), site.add_server(2, node.node)
        try:
            with mounted(one, node.volumes / made_of):
                await node.run()
                tars = [await _tar(one, disk)] if reverse else []
                made = await make_backup(node, site, made_of)
                tars += [] if reverse else [await _tar(one, disk)]
                await node.close()
            archive = node.directory / "backups" / f"{_BACKUP}.tar.gz"
            # Another process: the peak of memory is counted for each.
            await node.run()
            # As one that another node has left, of no known server.
            (node.directory / "backups" / f"{_BACKUP}.catalogue.json").unlink()
            (node.volumes / restored_to).mkdir(exist_ok=True)
            restored, _ = await _restore(node, site, restored_to, _BACKUP, one.size)
            await node.close()
            same = await deferToThread(_as_dataset, one, archive)
            received = await receive(same, disk, durable=True)
        finally:
            await node.close()
            await site.close()
    return _BackupRound(tars[0], made, archive.stat().st_size, received, restored)


async def _tar(one: Dataset, disk: Path) -> float:
    return await deferToThread(tar_to_file, one, disk / "tar.tar.gz")


async def make_backup(node: BenchNode, site: Site, server: str, backup: str = _BACKUP) -> Cost:
    """Make a backup of a server; return what it cost."""
    known = site.panel.backups.add(backup, server)
    body = {"adapter": "wings", "uuid": backup, "ignore": ""}
    path = f"/api/servers/{server}/backup"
    meter = Meter(node.pid)
    with await deferToThread(settle):
        meter.begin()
        status, answer = await site.panel.ask(node.node, "POST", path, body)
        if status != HTTPStatus.ACCEPTED:
            raise SystemExit(f"bench: no backup: {status}, {answer}")
        await _until(lambda: known.is_over)
        cost = meter.end()
    if known.told is None or not known.told["successful"]:
        raise SystemExit(f"bench: the backup failed: {known.told}\n" + "\n".join(node.log[-30:]))
    return cost


async def _restore(
    node: BenchNode, site: Site, server: str, backup: str, size: int, kind: str = "archive"
) -> tuple[Cost, float]:
    """Restore a backup in place of all files; return what it cost, and how long it was down."""
    stopped = 0.0
    mark = len(node.log)

    def is_stopped() -> bool:
        return any(_STOPS[kind] in line for line in node.log[mark:])

    meter = Meter(node.pid)
    with await deferToThread(settle, size):
        meter.begin()
        await site.panel.restore(server, backup, truncate_directory=True)
        await _until(lambda: is_stopped() or site.panel.restored(server) is not None)
        stopped = reactor.seconds()
        await _until(lambda: site.panel.restored(server) is not None)
        down = reactor.seconds() - stopped
        cost = meter.end()
    if not site.panel.restored(server) or not is_stopped():
        raise SystemExit("bench: the backup was not restored\n" + "\n".join(node.log[-30:]))
    return cost, down


async def _until(holds: Callable[[], bool]) -> None:
    deadline = reactor.seconds() + _WITHIN
    while not holds():
        if reactor.seconds() > deadline:
            raise SystemExit("bench: the Panel hears nothing; see the node's log")
        await deferLater(reactor, 0.01)


def _as_dataset(one: Dataset, archive: Path) -> Dataset:
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return attrs.evolve(one, archive=archive, sha256=digest, tree=None)


# Backups of a world of which a part has changed


@frozen
class _Kept:
    """Figures of a program that makes a backup of a world, and another one after a change.

    Then it sends and restores the first one. `stored` are the bytes of both. `down` are the
    seconds for which the server is off, None where it is off during the whole of the restore.
    """

    first: float
    first_cpu: float
    seconds: float
    cpu: float
    first_stored: int
    stored: int
    first_byte: float
    sent: float
    restored: float
    restored_cpu: float
    down: float | None = None
    peak: float | None = None


class _WorldBackups:
    """Measures all programs with one world, on a new disk."""

    def __init__(self, world: World, disk: Path, say: Callable[[str], None]) -> None:
        self._world = world
        self._disk = disk
        self._say = say
        self._rng = random.Random(world.gib)

    async def run(self) -> dict[str, _Kept]:
        """Return the figures by the programs' names."""
        with TemporaryDirectory() as directory:
            site = Site(Path(directory))
            await site.open()
            node = BenchNode(site, self._disk / "node")
            server = site.add_server(1, node.node)
            self._tree = node.volumes / server
            await deferToThread(self._world.fill, self._tree)
            self._digests = await deferToThread(_digests, self._tree)
            self._say(f"{self._world.name}: filled")
            kept = {}
            try:
                kept["points"] = await self._own(node, site, server, "history")
                kept["archives"] = await self._own(node, site, server, "archive")
            finally:
                await node.close()
                await site.close()
            for other in OTHERS:
                kept[other.name] = await deferToThread(self._other, other)
        return kept

    async def _own(self, node: BenchNode, site: Site, server: str, kind: str) -> _Kept:
        """Measure the node's backups of a kind; the world is as before at the end."""
        place = self._disk / "history"
        place.mkdir(exist_ok=True)
        system = {
            "backups": {"wings": {"kind": kind}, "quarantine_days": 0},
            "history": {"directory": str(place)},
        }
        if kind == "archive":
            place = node.directory / "backups"
        await node.start_loaded(docker={"enabled": False}, system=system)
        ours = [_backup(len(kind) + number) for number in range(2)]
        first = await make_backup(node, site, server, ours[0])
        first_stored = await deferToThread(on_disk, place)
        await deferToThread(self._world.change, self._tree, self._rng)
        later = await make_backup(node, site, server, ours[1])
        stored = await deferToThread(on_disk, place)
        self._say(f"{self._world.name}: {kind}: {first.seconds:.1f} s, {later.seconds:.1f} s")
        token = signed_url_token(node.node.token, server, "backup-download", backup_uuid=ours[0])
        url = f"{node.url}/download/backup?token={token}"
        download = ["curl", "-sSf", "--cacert", str(node.ca), url]
        first_byte, sent = await deferToThread(_streamed, download, os.environ)
        restored, down = await _restore(node, site, server, ours[0], 0, kind)
        await deferToThread(self._check, self._tree)
        self._say(f"{self._world.name}: {kind}: down for {down:.2f} s, sent in {sent:.1f} s")
        peak = Meter(node.pid).peak()
        await node.close()
        await deferToThread(shutil.rmtree, place)
        return _Kept(
            first.seconds,
            first.cpu,
            later.seconds,
            later.cpu,
            first_stored,
            stored,
            first_byte,
            sent,
            restored.seconds,
            restored.cpu,
            down,
            peak,
        )

    def _other(self, other: Other) -> _Kept:
        """Measure another program."""
        repository, target = self._disk / other.name, self._disk / f"{other.name}.target"
        inside = str(self._tree)[1:]
        places = {
            "repository": str(repository),
            "tree": str(self._tree),
            "inside": inside,
            "target": str(target),
            "name": "first",
        }
        Path(f"{repository}.home").mkdir()
        other.run(other.init, **places)
        with settle():
            first = other.run(other.make, **places)
        first_stored = on_disk(repository)
        self._world.change(self._tree, self._rng)
        with settle():
            later = other.run(other.make, **places | {"name": "later"})
        stored = on_disk(repository)
        pack = [word.format(**places) for word in other.pack]
        first_byte, sent = _streamed(pack, other.environment(**places))
        with settle():
            restored = other.run(other.restore, **places)
        self._check(target / inside if target.exists() else self._tree)
        self._say(
            f"{self._world.name}: {other.name}: {first.seconds:.1f} s, {later.seconds:.1f} s; "
            f"restored in {restored.seconds:.1f} s, sent in {sent:.1f} s"
        )
        shutil.rmtree(repository)
        shutil.rmtree(f"{repository}.home")
        return _Kept(
            first.seconds,
            first.cpu,
            later.seconds,
            later.cpu,
            first_stored,
            stored,
            first_byte,
            sent,
            restored.seconds,
            restored.cpu,
        )

    def _check(self, tree: Path) -> None:
        """Check that a tree is as at the first backup."""
        if _digests(tree) != self._digests:
            raise SystemExit(f"bench: {tree} is not as it was")


def _digests(tree: Path) -> dict[str, str]:
    """Return the digests of some files, which change."""
    found = {}
    for path in (READ_FILE, "world.sqlite", *(f"region0/{number}.mca" for number in range(1000))):
        with (tree / path).open("rb") as file:
            found[path] = hashlib.file_digest(file, "sha1").hexdigest()
    return found


def _streamed(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """Return the seconds until the first byte that a program writes, and until its end."""
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, bufsize=0) as program:
        assert program.stdout is not None
        program.stdout.read(1)
        first = time.monotonic() - began
        while program.stdout.read(MIB):
            pass
    if program.returncode:
        raise SystemExit(f"bench: {command}: {program.returncode}")
    return first, time.monotonic() - began


async def _measure(run: Run) -> Measured:
    rounds = []
    count = min(run.rounds, FEW) if run.wants("mixed") else 0
    one = await run.dataset("mixed") if count else None
    for number in range(count):
        assert one is not None
        with fresh_disk(run.directory) as disk:
            rounds.append(await _round(one, disk, reverse=bool(number % 2)))
        last = rounds[-1]
        run.say(f"backup made: {ratio(last.made, last.tar)}, {last.made.peak:.0f} MiB")
        run.say(f"restored: {ratio(last.restored, last.received.seconds)}")
    worlds = {}
    for name, world in _WORLDS.items():
        if run.wants(name):
            with fresh_disk(run.directory) as disk:
                worlds[world] = await _WorldBackups(world, disk, run.say).run()
            run.say(json.dumps({name: asdict(kept) for name, kept in worlds[world].items()}))
    return Measured(
        rounds=f"{count} of mixed, 1 of each world",
        tables=[_table(rounds), _world_table(worlds)],
    )


def _world_table(worlds: Mapping[World, Mapping[str, _Kept]]) -> Table:
    rows = {
        f"{world.name}: {name}": [one]
        for world, kept in worlds.items()
        for name, one in kept.items()
    }
    return grid(
        rows,
        Column("seconds of the first backup", lambda one: one.first),
        Column("its CPU seconds", lambda one: one.first_cpu),
        Column("its MiB", lambda one: one.first_stored / MIB),
        Column("seconds of the next one", lambda one: one.seconds),
        Column("its CPU seconds ", lambda one: one.cpu),
        Column("its MiB ", lambda one: (one.stored - one.first_stored) / MIB),
        Column("seconds of a restore", lambda one: one.restored),
        Column("its CPU seconds  ", lambda one: one.restored_cpu),
        Column(
            "seconds down for it",
            lambda one: one.down,
            {f"{WORLDS[-1].name}: points": _DOWN},
        ),
        Column("seconds to the first byte of a download", lambda one: one.first_byte),
        Column("of all of it", lambda one: one.sent),
        Column("MiB at the peak", lambda one: one.peak, MEMORY),
        caption="Backups of worlds of which 1 % changes, beside restic and borg:",
    )


def _table(rounds: Sequence[_BackupRound]) -> Table:
    making, restoring = "making (beside `tar -cz`)", "restoring (beside receiving)"
    rows: dict[str, list[tuple[Cost, float, int | None]]] = {
        making: [(one.made, one.tar, one.size) for one in rounds],
        restoring: [(one.restored, one.received.seconds, None) for one in rounds],
    }
    return grid(
        rows,
        Column(
            "ratio of times",
            lambda one: one[0].seconds / one[1],
            {making: _MADE, restoring: _RESTORED},
        ),
        Column("seconds", lambda one: one[0].seconds),
        Column("seconds beside it", lambda one: one[1]),
        Column("CPU seconds", lambda one: one[0].cpu),
        Column("MiB at the peak", lambda one: one[0].peak, MEMORY),
        Column("MiB of the archive", lambda one: one[2] and one[2] / MIB),
    )


BACKUPS = Series(
    "backups",
    "Backups",
    """
    An archive is made in less than a quarter of the time that `tar -I 'gzip -1' -cf` takes, and
    restored as fast as a server of that size is received. Of a world of 10 GiB the next backup as
    a point is made in less than half of an archive's time, and takes the space of what has
    changed. Its restore has the server down for less than two seconds. What is downloaded of a
    point is made meanwhile, which takes three times as long.

    A backup of `mixed`, which is in the page cache, is made on a new ext4, from the Panel's call
    to the report, when the archive is on stable storage; tar flushes nothing. Then a node restores
    the archive to a server without files, and another one receives it from curl; both are durable
    at their end. The peak includes the node at rest.

    Worlds have files that cannot be compressed, a fifth of them one file like a database's. A
    first backup is made; blocks of 4 KiB in a tenth of the files are changed, 1 % of the whole;
    the next backup is made. Then the first one is downloaded, with restic and borg as a tar to a
    pipe, and restored in place of all files: by restic what has another time or size, by borg all
    to a new directory. A restored server is down from the end of its program until the Panel has
    the report; with restic and borg, during the whole of a restore.
    """,
    _measure,
    (
        Bars(),
        Bars("seconds", columns=("seconds", "seconds beside it")),
        Bars(
            "seconds of a backup",
            table=1,
            columns=("seconds of the first backup", "seconds of the next one"),
        ),
        Bars(
            "seconds of a restore",
            table=1,
            columns=("seconds of a restore", "seconds down for it"),
        ),
    ),
)
