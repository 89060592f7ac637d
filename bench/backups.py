"""Backups of a server: made beside tar and gzip, and restored beside receiving their archive."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

import attrs
from attrs import frozen
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
from bench.series import MEMORY, Bars, Run, Series, ratio

__all__ = ["BACKUPS", "make_backup"]

#: Time to make a backup, against `tar -cz` at level 1; and to restore one, against receiving the
#: same archive.
_MADE = Bound(0.35)
_RESTORED = Bound(1.3)

_BACKUP = str(UUID(int=(9 << 76) | (4 << 60), version=4))
#: Seconds for a backup, and for a restore.
_WITHIN = 600.0


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
            restored = await _restore(node, site, restored_to, one.size)
            await node.close()
            same = await deferToThread(_as_dataset, one, archive)
            received = await receive(same, disk, durable=True)
        finally:
            await node.close()
            await site.close()
    return _BackupRound(tars[0], made, archive.stat().st_size, received, restored)


async def _tar(one: Dataset, disk: Path) -> float:
    return await deferToThread(tar_to_file, one, disk / "tar.tar.gz")


async def make_backup(node: BenchNode, site: Site, server: str) -> Cost:
    """Make a backup of a server; return what it cost."""
    site.panel.backups.add(_BACKUP, server)
    body = {"adapter": "wings", "uuid": _BACKUP, "ignore": ""}
    path = f"/api/servers/{server}/backup"
    meter = Meter(node.pid)
    with await deferToThread(settle):
        meter.begin()
        status, answer = await site.panel.ask(node.node, "POST", path, body)
        if status != HTTPStatus.ACCEPTED:
            raise SystemExit(f"bench: no backup: {status}, {answer}")
        await _until(lambda: site.panel.backups.known[_BACKUP].is_over)
        cost = meter.end()
    told = site.panel.backups.known[_BACKUP].told
    if told is None or not told["successful"]:
        raise SystemExit(f"bench: the backup failed: {told}")
    return cost


async def _restore(node: BenchNode, site: Site, server: str, size: int) -> Cost:
    """Restore the archive as one that another node has left, of no known server."""
    (node.directory / "backups" / f"{_BACKUP}.catalogue.json").unlink()
    (node.volumes / server).mkdir(exist_ok=True)
    meter = Meter(node.pid)
    with await deferToThread(settle, size):
        meter.begin()
        await site.panel.restore(server, _BACKUP, truncate_directory=True)
        await _until(lambda: site.panel.restored(server) is not None)
        cost = meter.end()
    if not site.panel.restored(server):
        raise SystemExit("bench: the backup was not restored; see the node's log")
    return cost


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


async def _measure(run: Run) -> Measured:
    one = await run.dataset("mixed")
    rounds = []
    for number in range(run.rounds):
        with fresh_disk(run.directory) as disk:
            rounds.append(await _round(one, disk, reverse=bool(number % 2)))
        last = rounds[-1]
        run.say(f"backup made: {ratio(last.made, last.tar)}, {last.made.peak:.0f} MiB")
        run.say(f"restored: {ratio(last.restored, last.received.seconds)}")
    return Measured(rounds=str(run.rounds), tables=[_table(rounds)])


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
    A backup is made in a quarter of the time that `tar -I 'gzip -1' -cf` takes, and restored as
    fast as a server of that size is received. A backup of `mixed`, which is in the page cache, is
    made on a new ext4, from the Panel's call to the report, when the archive is on stable storage;
    tar flushes nothing. Then one process of the node restores the archive to a server without
    files, and another one receives it from curl; both are durable at their end. The peak includes
    the node at rest.
    """,
    _measure,
    (Bars(), Bars("seconds", columns=("seconds", "seconds beside it"))),
)
