"""`/v1/transfers`, `/v1/send` and `/v1/receive`: transfers listed, started and cancelled."""

from __future__ import annotations

from contextlib import suppress
from http import HTTPStatus
from typing import Any

import attrs

from wingsd.control.status import (
    ControlEndpoint,
    Json,
    ended_transfer,
    reachable_at,
    running_transfer,
    unfinished_transfer,
    waiting_report,
)
from wingsd.errors import BadRequest, Conflict, ServerNotFound, ServersNotLoaded, TransferNotActive
from wingsd.http.operations import Success, Topic, call
from wingsd.http.request import StreamingRequest
from wingsd.statedb import StateDatabase
from wingsd.transfers.outgoing.source import SeedOrder
from wingsd.util.text import canonical_uuid

__all__ = [
    "ControlServersEndpoint",
    "ControlTransfersEndpoint",
    "KeptEndpoint",
    "ReceiveEndpoint",
    "SendEndpoint",
    "TransferEndpoint",
]

#: Seconds that a server is expected, by default and at most.
DEFAULT_SECONDS = 3600
MAX_SECONDS = 7 * 24 * 3600
#: Ended transfers in an answer, by default and at most.
DEFAULT_PAST = 20
MAX_PAST = 10_000


@attrs.frozen(eq=False, repr=False)
class ExpectedServer:
    """A server that is to be received. `settings` are in the form of a Panel's answer.

    With `follow` a copy may be kept up to date here before.
    """

    server: str
    settings: dict[str, Any] | None = None
    addresses: tuple[str, ...] = ()
    seconds: int = DEFAULT_SECONDS
    follow: bool = False


@attrs.frozen(eq=False, repr=False)
class SendRequest:
    """A server that is to be sent to the node at `url`; `remove` deletes it here afterwards.

    With `follow` a copy is kept up to date there, until a transfer is ordered; or until `stop_at`,
    in seconds since the epoch: then the server is sent.
    """

    server: str
    url: str
    token: str = attrs.field(repr=False)
    settings: dict[str, Any] | None = None
    remove: bool = False
    follow: bool = False
    stop_at: float | None = None


async def _last_transfer(database: StateDatabase, server: str) -> int:
    """Return the number of a server's last transfer; 0 without one. Numbers ascend."""
    last = await database.ended(1, server)
    return last[0].id if last else 0


class ReceiveEndpoint(ControlEndpoint):
    """`/v1/receive`."""

    topic = Topic.TRANSFERS

    @call("POST", Success(HTTPStatus.CREATED, "The server is expected."))
    async def expect_server(self, request: StreamingRequest, body: ExpectedServer) -> Json:
        """Expect a server; return the token and the address for its source."""
        server = _uuid(body.server)
        if not 0 < body.seconds <= MAX_SECONDS:
            raise BadRequest("seconds is out of range", f"expected 1 to {MAX_SECONDS}, a week")
        after = await _last_transfer(self._node.database, server)
        invitation = await self._node.direct_transfers.incoming.expect(
            server,
            seconds=body.seconds,
            description=body.settings,
            addresses=body.addresses,
            follow=body.follow,
        )
        url, certain = await self._node.disk.run(reachable_at, self._config, self._node.address())
        return {
            "server": server,
            "url": url,
            "url_is_certain": certain,
            "token": invitation.token,
            "expires": invitation.expires,
            "after": after,
        }


class SendEndpoint(ControlEndpoint):
    """`/v1/send`."""

    topic = Topic.TRANSFERS

    @call("POST", Success(HTTPStatus.ACCEPTED, "The transfer has started."))
    async def begin_sending(self, request: StreamingRequest, body: SendRequest) -> Json:
        """Start to send a server; its progress is at `/v1/transfers/{uuid}`."""
        server = _uuid(body.server)
        if body.stop_at is not None and not body.follow:
            raise BadRequest("stop_at needs follow", "without it the server is sent at once")
        after = await _last_transfer(self._node.database, server)
        await self._node.direct_transfers.send(
            server,
            body.url,
            body.token,
            description=body.settings,
            remove=body.remove,
            seed=SeedOrder(body.stop_at) if body.follow else None,
        )
        # Only the Panel knows which of them are the server's.
        backups = self._config.system.backup_directory
        return {"server": server, "after": after, "backups_stay_in": backups}


def _uuid(text: str) -> str:
    uuid = canonical_uuid(text)
    if uuid is None:
        raise BadRequest("a server is identified by its UUID", f"{text!r} is not a UUID")
    return uuid


class _TransfersPath(ControlEndpoint):
    """A path about the transfers of this node, as JSON."""

    topic = Topic.TRANSFERS

    async def running(self) -> list[Json]:
        """Return the transfers in progress, the oldest first.

        One that ends meanwhile is in `past`, when that is called afterwards.
        """
        # Read first: a transfer that begins meanwhile is in `progress`.
        unfinished = await self._node.database.unfinished()
        now = self._node.now()
        found = [
            running_transfer(each, now)
            for each in (*self._node.receiver.progress, *self._node.sender.progress)
        ]
        shown = {each["server"] for each in found}
        found += [
            unfinished_transfer(entry, self._node.started)
            for entry in unfinished
            if entry.server not in shown
        ]
        return sorted(found, key=lambda each: float(each["begun"]))

    def expected(self) -> list[Json]:
        """Return the servers that direct transfers may bring."""
        expected = self._node.direct_transfers.incoming.expected
        return [{"server": uuid, "expires": until} for uuid, until in expected.items()]

    async def kept(self) -> list[Json]:
        """Return what is kept of failed moves, the oldest first. Raises `StorageError`."""
        return [
            {"server": each.server, "bytes": each.bytes, "since": each.since}
            for each in await self._node.long.run(self._node.partial_copies.kept)
        ]

    async def forget(self, server: str) -> None:
        """Remove what is kept of a server, or the copy that follows it.

        Raises `ServerNotFound`, `StorageError`.
        """
        if self._node.receiver.forget(server):
            return
        if not await self._node.long.run(self._forget, server):
            raise ServerNotFound(
                "nothing is kept of this server",
                "wingsctl transfers lists what is kept of moves that have failed",
            )

    def _forget(self, server: str) -> int:
        found = self._node.partial_copies.forget(server)
        if found:
            self._node.received_backups.discard(server)
        return found

    async def past(self, most: int, server: str | None = None) -> list[Json]:
        """Return the last transfers that have ended, of all servers or of one."""
        return [ended_transfer(entry) for entry in await self._node.database.ended(most, server)]

    async def reports(self, server: str) -> list[Json]:
        """Return the reports on a server that the Panel has not confirmed."""
        reports = await self._node.database.unsettled()
        return [waiting_report(each) for each in reports if each.server == server]

    def cancel(self, server: str) -> None:
        """Cancel a server's transfer, or stop expecting it. Raises `Conflict`."""
        for transfers in (self._node.sender, self._node.receiver):
            with suppress(Conflict):
                transfers.cancel(server)
                return
        if not self._node.direct_transfers.cancel(server):
            raise TransferNotActive(
                "this server has no transfer that can be cancelled",
                "none is under way or expected here, or its success was reported already; "
                "wingsctl transfers lists them",
            )


@attrs.frozen(eq=False, repr=False)
class PastQuery:
    """How many ended transfers to return. A string, so that the handler words the error."""

    past: str = ""


class ControlTransfersEndpoint(_TransfersPath):
    """`/v1/transfers`: all transfers of the node."""

    @call("GET", Success(HTTPStatus.OK, "The transfers."))
    async def list_transfers(self, request: StreamingRequest, query: PastQuery) -> Json:
        """Return the transfers in progress, the expected ones, and the last that have ended."""
        most = _number(query.past)
        answer: Json = {
            "running": await self.running(),
            "expected": self.expected(),
            "kept": await self.kept(),
        }
        return answer | {"past": await self.past(most)}


class KeptEndpoint(_TransfersPath):
    """`/v1/kept/{uuid}`: what is kept of a move that has failed."""

    @call("DELETE", Success(HTTPStatus.NO_CONTENT, "It is removed."))
    async def forget_kept(self, request: StreamingRequest) -> None:
        """Remove what is kept of a server."""
        await self.forget(self.uuid)


class ControlServersEndpoint(ControlEndpoint):
    """`/v1/servers`: the servers of the node by their names."""

    topic = Topic.SERVERS

    @call("GET", Success(HTTPStatus.OK, "The servers."))
    async def list_servers(self, request: StreamingRequest) -> Json:
        """Return the UUID and the name of each server. Raises `ServersNotLoaded`."""
        return {
            "servers": [
                {"server": each.uuid, "name": each.configuration.settings.meta.name}
                for each in self._node.servers.all()
            ]
        }


class TransferEndpoint(_TransfersPath):
    """`/v1/transfers/{uuid}`: the transfers of one server."""

    @call("GET", Success(HTTPStatus.OK, "Its transfers."))
    async def show_transfers(self, request: StreamingRequest) -> Json:
        """Return all that is known of a server's transfers. Raises `ServerNotFound`."""
        uuid = self.uuid
        answer: Json = {
            "server": self._server(uuid),
            "running": _only(await self.running(), uuid),
            "expected": _only(self.expected(), uuid),
        }
        answer["past"] = await self.past(MAX_PAST, uuid)
        answer["reports_waiting"] = await self.reports(uuid)
        if not any(answer.values()):
            raise ServerNotFound(
                "this node has no such server, and no transfer of it",
                "wingsctl transfers lists the transfers of the last 90 days",
            )
        return {"uuid": uuid} | answer

    @call("DELETE", Success(HTTPStatus.ACCEPTED, "The transfer is being cancelled."))
    async def cancel_transfer(self, request: StreamingRequest) -> None:
        """Cancel a server's transfer, or stop expecting it. Raises `Conflict`."""
        self.cancel(self.uuid)

    def _server(self, uuid: str) -> Json | None:
        try:
            server = self._node.servers.get(uuid)
        except (ServersNotLoaded, ServerNotFound):
            return None
        server.files.measure_if_stale()
        return {
            "name": server.configuration.settings.meta.name,
            "state": server.state.value,
            "hold": server.hold,
            "by_hand": server.moved_directly,
            "disk_bytes": server.disk_bytes,
        }


def _only(found: list[Json], uuid: str) -> Json | None:
    return next((each for each in found if each["server"] == uuid), None)


def _number(text: str) -> int:
    try:
        number = int(text or DEFAULT_PAST)
    except ValueError:
        number = -1
    if not 0 <= number <= MAX_PAST:
        raise BadRequest("past is out of range", f"expected a number from 0 to {MAX_PAST}")
    return number
