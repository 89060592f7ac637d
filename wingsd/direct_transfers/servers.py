"""Servers of direct transfers: their descriptions, the JSON that a Panel answers for one.

Mounts are left out: only a node's own Panel may give its servers directories of the host.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Collection, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from wingsd.errors import (
    BadRequest,
    InvalidData,
    ServerAlreadyExists,
    ServerNotFound,
    StorageError,
    WingsdError,
)
from wingsd.events import DELETED, Event, EventBus
from wingsd.panel.schemas import Configuration, configuration_from_panel
from wingsd.servers import Servers
from wingsd.statedb import Direction, ServerDescription, StateDatabase, TransferRecord
from wingsd.threadio import Workers
from wingsd.util.text import canonical_uuid

#: Why a server is not started that a direct transfer has moved away, although a Panel has it here.
MOVED_AWAY = "the server has moved to another node, by wingsctl send"

#: `{"settings": ..., "process_configuration": ...}`, as from a Panel's `GET /servers/{uuid}`.
Description = Mapping[str, Any]

_MAX_PORT = 65535


def describe(configuration: Configuration) -> Description:
    """Return the description of a server."""
    return {
        # As the Panel sent them, if possible: they may hold more than this node uses.
        "settings": configuration.raw or attrs.asdict(configuration.settings),
        "process_configuration": attrs.asdict(configuration.process),
    }


def read(description: object, server: str) -> Configuration:
    """Return the configuration in a description of the server with the UUID `server`.

    It is without mounts. Raises `BadRequest` with the paths of the invalid keys.
    """
    try:
        configuration = configuration_from_panel(description)
    except InvalidData as error:
        raise BadRequest(
            "the server's settings are invalid", "; ".join(str(error).split("\n"))
        ) from error
    named = configuration.settings.uuid
    if canonical_uuid(named) != server:
        raise BadRequest("the settings are for another server", f"settings.uuid is {named}")
    return attrs.evolve(
        configuration,
        settings=attrs.evolve(configuration.settings, mounts=()),
        raw={key: value for key, value in configuration.raw.items() if key != "mounts"},
    )


def mounts_in(description: Description) -> int:
    """Return the number of mounts in a description that `read` has accepted."""
    return len(configuration_from_panel(description).settings.mounts)


def read_text(text: str, server: str) -> Configuration:
    """Return the configuration in a description that is kept as JSON."""
    return read(json.loads(text), server)


def with_addresses(description: Description, addresses: Sequence[str]) -> Description:
    """Return the description with other addresses, `IP:PORT`; the first is the server's own.

    Without any it is returned unchanged. Raises `BadRequest` for an invalid one.
    """
    if not addresses:
        return description
    pairs = [_address(each) for each in addresses]
    mappings: dict[str, list[int]] = {}
    for ip, port in pairs:
        mappings.setdefault(ip, []).append(port)
    (ip, port), *_ = pairs
    allocations = {"default": {"ip": ip, "port": port}, "mappings": mappings}
    settings = dict(description["settings"])
    kept = settings.get("allocations")
    settings["allocations"] = (dict(kept) if isinstance(kept, Mapping) else {}) | allocations
    return {**description, "settings": settings}


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    try:
        ip = str(ip_address(host.removeprefix("[").removesuffix("]")))
        number = int(port)
    except ValueError:
        ip, number = "", 0
    if not ip or not 0 < number <= _MAX_PORT:
        raise BadRequest(
            "the address of the server is invalid",
            f"{text!r}: expected IP:PORT, such as 203.0.113.5:25565 or [2001:db8::5]:25565",
        )
    return ip, number


@attrs.define(eq=False, repr=False, slots=False)
class DirectServers:
    """The servers of this node that direct transfers have brought, and no Panel knows here.

    Their descriptions are in the state database. `pool` is the node's storage pool, empty without;
    `disk` are threads for short work.
    """

    _log = Logger()

    _servers: Servers
    _database: StateDatabase
    _bus: EventBus
    _disk: Workers
    pool: str = ""

    async def find(self, server: str) -> ServerDescription | None:
        """Return what is recorded of a server, if there is anything. Raises `StorageError`."""
        rows = await self._database.descriptions()
        return next((row for row in rows if row.server == server), None)

    def has_files(self, server: str) -> Awaitable[bool]:
        """Return whether the server's directory exists."""
        return self._disk.run(os.path.isdir, self._servers.directory(server))

    async def check_absent(self, server: str) -> None:
        """Raise `ServerAlreadyExists` where a server or files of that name are on this node.

        Without a Panel to say whether the files are a server, they are never moved away.
        """
        try:
            known = self._servers.get(server)
        except WingsdError:
            known = None
        if known is not None and not known.disowned:
            raise ServerAlreadyExists("this server is already on this node", known.hold)
        place = self._servers.directory(server)
        if await self._disk.run(os.path.lexists, place):
            raise ServerAlreadyExists(
                "files of this server already exist",
                f"{place} is in the storage pool {self.pool}: where the other node has that too, "
                "it is the server itself, which only the Panel can move; if it is only left over, "
                "move it away"
                if self.pool
                else f"see what {place} is, and move it away or delete it",
            )

    async def remove(self, server: str) -> None:
        """Remove the record of a server. An error is logged."""
        try:
            await self._database.delete_description(server)
        except StorageError as error:
            self._log.error(
                "{server}: its settings were not deleted: {error}", server=server, error=error
            )

    async def load(self, unfinished: Collection[str]) -> None:
        """Make the recorded servers known, except those with an `unfinished` transfer.

        Raises `StorageError`.
        """
        configurations = []
        for row in await self._database.descriptions():
            if row.arrived is None and row.server in unfinished:
                continue
            if row.arrived is None:
                await self._database.delete_description(row.server)
                continue
            if not await self.has_files(row.server):
                await self._drop(row.server)
                continue
            self.watch(row.server)
            configurations += self._configuration(row)
        self._servers.add_moved(configurations)

    async def _drop(self, server: str) -> None:
        """Drop the record of a server without files.

        One that was sent on has moved here before. Nobody knows of another one where it is, and
        its source is to keep its copy.
        """
        last = await self._database.last_move(server)
        if last is not None and last.direction is Direction.OUT:
            await self._database.delete_description(server)
        else:
            await self._database.delete_lost(server)

    async def hold_moved(self, unfinished: Collection[str]) -> None:
        """Hold servers that have moved away, with their files or after their deletion.

        Not those with an `unfinished` transfer, nor where another directory is in the place of the
        one that was sent. Raises `StorageError`.
        """
        for entry in await self._database.moved_directly():
            if entry.server in unfinished:
                continue
            if not await self._disk.run(self._is_replaced, entry):
                self._servers.reserve_moved(entry.server, MOVED_AWAY)

    def _is_replaced(self, entry: TransferRecord) -> bool:
        try:
            found = os.stat(self._servers.directory(entry.server))
        except FileNotFoundError:  # deleted, as it was asked for
            return False
        except OSError:
            return True
        return entry.inode not in (None, found.st_ino)

    def _configuration(self, row: ServerDescription) -> list[Configuration]:
        """Return the server's configuration, nothing where the Panel has it."""
        if not row.description:
            return []
        try:
            return [read_text(row.description, row.server)]
        except (BadRequest, ValueError) as error:
            self._log.error("{server}: not loaded: {error}", server=row.server, error=error)
            return []

    async def release_to_panel(self) -> None:
        """Leave to the Panel the servers that it has here by now. An error is logged."""
        try:
            rows = await self._database.descriptions()
            # One that arrives now is marked as this node's at the end of its transfer.
            under_way = {entry.server for entry in await self._database.unfinished()}
            for row in [row for row in rows if row.server not in under_way]:
                with suppress(ServerNotFound):
                    known = self._servers.get(row.server)
                    if row.description and row.arrived is not None and not known.moved_directly:
                        await self._database.clear_description(row.server)
        except StorageError as error:
            self._log.error("{error}", error=error)

    def watch(self, server: str) -> None:
        """Remove the server's record when it is deleted."""

        def on_event(event: Event) -> None:
            if event.name == DELETED:
                unsubscribe()
                Deferred.fromCoroutine(self.remove(server))

        unsubscribe = self._bus.subscribe(server, on_event)
