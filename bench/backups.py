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

from bench.datasets import Dataset
from bench.machine import settle
from bench.meter import Cost, Meter
from bench.node import BenchNode, Site, reactor
from bench.references import tar_to_file
from bench.rows import TABLE, Row
from bench.runs import mounted, receive
from bench.targets import BACKUP, MEMORY, RESTORE, Target

__all__ = ["BackupRound", "BackupsResult", "backups_report", "measure_backups"]

_BACKUP = str(UUID(int=(9 << 76) | (4 << 60), version=4))
#: Seconds for a backup, and for a restore.
_WITHIN = 600.0


@frozen
class BackupRound:
    """One round. Seconds of `tar -cz` at level 1, what making cost, and the archive's bytes.

    `restored` is what restoring that archive cost, `received` what receiving it does.
    """

    tar: float
    made: Cost
    size: int
    received: Cost
    restored: Cost


@frozen
class BackupsResult:
    """All rounds, of the dataset `mixed`."""

    rounds: list[BackupRound] = attrs.field(factory=list)


async def measure_backups(one: Dataset, disk: Path, *, reverse: bool) -> BackupRound:
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
                made = await _make(node, site, made_of)
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
    return BackupRound(tars[0], made, archive.stat().st_size, received, restored)


async def _tar(one: Dataset, disk: Path) -> float:
    return await deferToThread(tar_to_file, one, disk / "tar.tar.gz")


async def _make(node: BenchNode, site: Site, server: str) -> Cost:
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


def backups_report(result: BackupsResult, machine: str, version: str) -> str:
    """Return the document."""
    rounds = result.rounds
    rows: list[tuple[str, Target | None, Sequence[float]]] = [
        ("making, against `tar -cz`", BACKUP, [one.made.seconds / one.tar for one in rounds]),
        ("making, seconds", None, [one.made.seconds for one in rounds]),
        ("`tar -cz`, seconds", None, [one.tar for one in rounds]),
        ("making, CPU seconds of the node", None, [one.made.cpu for one in rounds]),
        ("making, MiB at the peak", MEMORY, [one.made.peak for one in rounds]),
        (
            "restoring, against receiving the archive",
            RESTORE,
            [one.restored.seconds / one.received.seconds for one in rounds],
        ),
        ("restoring, seconds", None, [one.restored.seconds for one in rounds]),
        ("receiving, seconds", None, [one.received.seconds for one in rounds]),
        ("restoring, CPU seconds of the node", None, [one.restored.cpu for one in rounds]),
        ("restoring, MiB at the peak", MEMORY, [one.restored.peak for one in rounds]),
        ("MiB of the archive", None, [one.size / 2**20 for one in rounds]),
    ]
    return "\n".join(
        [
            "# Backups",
            "",
            "Written by `make bench SERIES=backups`, not to be edited.",
            "",
            "A backup of the dataset [mixed](benchmarks.md), which is in the page cache, is made",
            "on a new ext4, from the Panel's call until it hears the report; the archive is on",
            "stable storage then. `tar -I 'gzip -1' -cf` packs the same tree to the same file",
            "system, and syncs nothing. The archive is then restored into a server without files,",
            "by another process of the node, and received by a third, sent by curl over TLS; both",
            "are durable when the Panel hears of them. The peak includes the node at rest.",
            "Medians, with the lowest and the highest in brackets.",
            "",
            f"Machine: {machine}. Version: {version}.",
            "",
            *TABLE,
            *(Row(name, values, target).text() for name, target, values in rows),
            "",
        ]
    )
