"""A server that comes by hand: the word for it is this node's own, in its journal."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from wingsd.byhand.description import Description, mounts_in, read, read_text
from wingsd.byhand.means import HandMeans
from wingsd.errors import AlreadyHere, BadRequest, StorageError, UnknownServer, WingsdError
from wingsd.journal import Described
from wingsd.model import Configuration
from wingsd.servers import Server
from wingsd.transfers.lifecycle import ReceiveStep

__all__ = ["HandReceiving", "check_place", "row_of"]


async def row_of(server: str, means: HandMeans) -> Described | None:
    """Return what the journal has of a server that is moved here. Raises `StorageError`."""
    rows = await means.journal.described()
    return next((row for row in rows if row.server == server), None)


async def check_place(server: str, means: HandMeans) -> None:
    """Raise `AlreadyHere` where something of that name is on this node.

    A Panel says whether that is a server; here nobody does, so nothing is ever put aside.
    """
    try:
        known = means.servers.get(server)
    except WingsdError:
        known = None
    if known is not None and not known.disowned:
        raise AlreadyHere("this server is already on this node", known.hold)
    place = means.servers.directory(server)
    if await means.disk.run(os.path.lexists, place):
        pool = means.config.system.transfers.storage_pool.name
        raise AlreadyHere(
            "there are files of a server of that name already",
            f"{place} is in the storage pool {pool}: where the other node has that too, it is the "
            "server itself, which only the Panel can move; if it is only left over, move it away"
            if pool
            else f"see what {place} is, and move it away or delete it",
        )


class HandReceiving:
    """The word for one server that comes by the token with that `digest`, empty after a restart.

    `describe` returns what is known of it by then; `over` is told whether it has come, or failed.
    """

    by_hand = True
    words: ClassVar[Mapping[ReceiveStep, str]] = {
        ReceiveStep.REPORT: "writing down that the server is here"
    }
    _log = Logger()

    def __init__(
        self,
        server: str,
        means: HandMeans,
        digest: str = "",
        describe: Callable[[], Description | None] = lambda: None,
        over: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self.digest = digest
        self._server = server
        self._means = means
        self._describe = describe
        self._over = over
        self._description: Description | None = None

    async def admit(self) -> Configuration:
        """Return what the server is. Raises `AlreadyHere`, and `BadRequest` when nobody said."""
        await check_place(self._server, self._means)
        self._description = self._describe()
        if self._description is None:
            raise BadRequest(
                "this node does not know what the server is",
                "run wingsctl receive with --settings FILE, or send it with wingsctl send, which "
                "tells its settings",
            )
        configuration = read(self._description, self._server)
        left_out = mounts_in(self._description)
        if left_out:
            self._log.warn(
                "{server}: {count} mounts of its settings are left out: a move by hand brings "
                "none",
                server=self._server,
                count=left_out,
            )
        return configuration

    def begin(self) -> None:
        """Nothing is to be told of an earlier transfer."""

    async def write_down(self) -> None:
        """Keep what it is: a daemon that dies has nobody to ask. Raises `StorageError`."""
        text = json.dumps(self._description)
        await self._means.journal.describe(self._server, self.digest, text)

    async def ask_again(self) -> tuple[bool, Configuration]:
        """Return whether it was written down that it is here, and what it is."""
        row = await row_of(self._server, self._means)
        if row is None:
            raise UnknownServer("it is not written down what the server is")
        return row.arrived is not None, read_text(row.description, self._server)

    async def tell_success(self, backups: Sequence[str] | None) -> Deferred[bool]:
        """Write down that it is here: from now on it is. Raises `StorageError`."""
        await self._means.journal.arrived(self._server)
        self._over(True)
        return succeed(True)

    async def tell_failure(self) -> None:
        """Forget it. The source reads it in the answer, or asks."""
        self._over(False)
        try:
            await self._means.journal.undescribe(self._server)
        except StorageError as error:
            self._log.error("{server}: {error}", server=self._server, error=error)

    async def welcome(self, server: Server) -> None:
        """Have it keep the settings that came with it."""
        server.by_hand = True
