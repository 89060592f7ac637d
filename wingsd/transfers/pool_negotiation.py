"""A transfer within a storage pool: what each of its two nodes finds out before anything is sent.

Each writes it into its journal then, and from there on leaves the server's files alone, whatever
dies meanwhile: at the source they are not deleted with the server, at the destination nothing is
moved into their place, and out of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from twisted.logger import Logger

from wingsd.config import PELICAN
from wingsd.transfers.collaborators import ReceivingCollaborators, SendingCollaborators
from wingsd.transfers.errors import StoragePoolConflict
from wingsd.transfers.incoming.uploads import IncomingUpload
from wingsd.transfers.outgoing.request import TransferOrder
from wingsd.transfers.storage.shared_volume import (
    BACKUPS_MARK,
    SHARED_BACKUPS,
    Sharing,
    is_same_pool,
    pool_headers,
    sharing_of,
)

__all__ = ["SourcePool", "finds_files"]

_log = Logger()
_Headers = Sequence[tuple[str, str]]


class SourcePool:
    """The storage pool of the source, as far as the transfer of one `server` goes."""

    def __init__(
        self,
        server: str,
        order: TransferOrder,
        means: SendingCollaborators,
        *,
        by_hand: bool = False,
    ) -> None:
        self.sharing = Sharing.COPIED
        #: Whether both nodes have the same directory of backups, so that none may be removed.
        self.shares_backups = False
        self._server = server
        self._disk = means.disk
        self._volume = means.volume
        self._mark = ""
        # The header is Pelican's, and so are all nodes that mind it. By hand, no Panel would say
        # whose the files are.
        self._is_used = means.volume.pool != "" and order.family == PELICAN and not by_hand
        self._removes_backups = order.delete_backups and bool(order.backups)

    async def ask(
        self, features: Callable[[_Headers], Awaitable[frozenset[str]]]
    ) -> frozenset[str]:
        """Ask the destination for its `features`, and learn from them how the files are shared.

        Raises whatever that raises, `StorageError`, and `Conflict` where a transfer would do harm.
        """
        headers: list[tuple[str, str]] = []
        if self._is_used:
            self._mark = await self._disk.run(self._volume.mark, self._server)
            headers += pool_headers(self._volume.pool, self._mark)
        if self._removes_backups:
            mark = await self._disk.run(self._volume.mark_backups, self._server)
            headers.append((BACKUPS_MARK, mark))
        found = await features(headers)
        if self._is_used:
            self.sharing = sharing_of(found, self._volume.pool)
        self.shares_backups = SHARED_BACKUPS in found
        return found

    @property
    def name(self) -> str:
        """The pool in which the destination may have the files; empty where it gets a copy."""
        return "" if self.sharing is Sharing.COPIED else self._volume.pool

    @property
    def has_files(self) -> bool:
        """Whether the destination is known to have the files, so that it is sent none."""
        return self.sharing is Sharing.POOLED

    @property
    def headers(self) -> list[tuple[str, str]]:
        """What the upload tells of the pool."""
        return pool_headers(self.name, self._mark if self.has_files else "")

    async def leave(self) -> None:
        """The transfer is over, or nearly: remove what was left for it on the volume."""
        if self._mark:
            await self._disk.run(self._volume.unmark, self._server, self._mark)
        if self._removes_backups:
            await self._disk.run(self._volume.unmark_backups, self._server)


async def finds_files(server: str, upload: IncomingUpload, means: ReceivingCollaborators) -> bool:
    """Return whether a server's files are here, in a pool that the sender has as well.

    Raises `StorageError` where they are not sound, `Conflict` where a copy would meet them.
    """
    volume = means.volume
    if is_same_pool(volume.pool, upload.pool):
        await means.disk.run(volume.check, server, upload.mark)
        return True
    if upload.mark:
        raise StoragePoolConflict(
            "the storage pool of the other node is none of this node any more",
            "it has sent no files; transfer the server again",
        )
    if upload.pool:
        _log.warn(
            "{server}: the sender has the storage pool {theirs}, this node {ours}: its files are "
            "copied; if both have the same volume, set system.transfers.storage_pool on both to "
            "the same pool_name",
            server=server,
            theirs=ascii(upload.pool[:100]),
            ours=ascii(volume.pool) if volume.pool else "none",
        )
    if upload.pool or volume.pool:
        await means.disk.run(volume.require_free, server)
    return False
