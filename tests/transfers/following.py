"""Nodes in this process whose servers move without a Panel, and whose backups follow them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from tests.support.node_in_process import NodeInProcess, NodePair
from tests.support.reactor import until
from tests.support.sample_server import UUID
from wingsd.backups.catalogue import COMPLETE, VERSION, Catalogue
from wingsd.statedb import ArrivingState

BACKUP = "5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11"
OTHER = "5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c12"
MADE = 1_700_000_000.0


def keep(node: NodeInProcess, backup: str, size: int = 300_000) -> bytes:
    """Keep a backup of the server at a node; return its bytes."""
    data = os.urandom(size)
    node.backup_directory.mkdir(exist_ok=True)
    (node.backup_directory / f"{backup}.tar.gz").write_bytes(data)
    catalogue = Catalogue(
        version=VERSION,
        backup=backup,
        server=UUID,
        state=COMPLETE,
        archive=f"{backup}.tar.gz",
        bytes=size,
        sha256=hashlib.sha256(data).hexdigest(),
        made=MADE,
    )
    node.backup_store.write_catalogue(f"{backup}.tar.gz", catalogue)
    return data


def place(node: NodeInProcess, backup: str) -> Path:
    return node.backup_directory / f"{backup}.tar.gz"


def has(node: NodeInProcess, backup: str, data: bytes) -> bool:
    """Return whether a node has a backup, whole, in its place."""
    path = place(node, backup)
    return path.exists() and path.read_bytes() == data


def names(node: NodeInProcess) -> list[str]:
    """Return the names in the directory of backups."""
    return sorted(path.name for path in node.backup_directory.iterdir())


async def move(nodes: NodePair) -> None:
    """Move the server, and begin to send its backups."""
    await nodes.send(await nodes.destination.invite())
    await nodes.assert_moved()


async def move_on(source: NodeInProcess, destination: NodeInProcess) -> None:
    """Move the server to a node, and delete it at the other."""
    invitation = await destination.direct_transfers.expect(UUID, seconds=60)
    await source.direct_transfers.send(UUID, destination.url, invitation.token, remove=True)
    await until(lambda: source.is_at_rest() and destination.is_at_rest())
    assert source.entries()[-1] == ("out", "success")


async def followed(source: NodeInProcess, destination: NodeInProcess, **backups: bytes) -> None:
    """Return when the backups are at the destination alone, and nothing is left of the way."""
    await until(lambda: all(has(destination, each, data) for each, data in backups.items()))
    await until(lambda: names(source) == [] and source.store.left() == [])
    await until(lambda: destination.store.coming() == [])
    assert not any(each.endswith(".part") for each in names(destination))


def is_coming(node: NodeInProcess, backup: str) -> bool:
    return any(each.state is ArrivingState.COMING for each in node.store.coming(UUID, backup))
