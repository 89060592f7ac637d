"""The direct transfers of a node, which an operator initiates: to this node and from it.

`DirectTransfers` knows which servers are expected, and which have arrived. The description of a
server is the JSON that a Panel answers for one. Mounts are left out: only a node's own Panel may
give its servers directories of the host.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.auth.tokens import TransferToken, direct_token, transfer_token
from wingsd.backups.store import Backup
from wingsd.callbacks import PendingReport
from wingsd.config import Config
from wingsd.direct_transfers.pair_use import PairUse
from wingsd.errors import (
    BadRequest,
    Conflict,
    DestinationError,
    DestinationRefused,
    InvalidData,
    PairPlacesNothing,
    ServerAlreadyExists,
    ServerNotFound,
    ServersNotLoaded,
    StorageError,
    TokenInvalid,
    TransferCancelled,
    TryAgain,
    WingsdError,
)
from wingsd.events import DELETED, Event, EventBus
from wingsd.http_client.exchange import Answer, plain
from wingsd.panel.schemas import Configuration, Settings, configuration_from_panel
from wingsd.servers import Server
from wingsd.servers.operations import Hold, Operation
from wingsd.statedb import (
    DirectDestination,
    Direction,
    MoveRecord,
    ServerDescription,
    TransferRecord,
)
from wingsd.transfers.cancellation import CancelScope
from wingsd.transfers.coordinator import (
    OWNERSHIP_BACKOFF,
    Initiator,
    ReceivingCoordinator,
    SendingCoordinator,
)
from wingsd.transfers.manager import IncomingTransfers, OutgoingTransfers
from wingsd.transfers.outgoing.move import end_move
from wingsd.transfers.outgoing.source import MOVED, SeedOrder, TransferRequest, is_seed, seed_of
from wingsd.transfers.peer.client import PeerClient
from wingsd.transfers.steps import ReceiveStep, SendStep
from wingsd.util.serialization import structure
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


#: Seconds after a token has expired in which its source may still ask what became of the server.
ASKED_FOR = 30 * 24 * 3600.0


class DirectReceiving(ReceivingCoordinator):
    """The coordinator of an incoming direct transfer.

    `expected` is None after a restart: the `digest` of its token is only in the state database.
    """

    is_direct = True
    step_texts: Mapping[ReceiveStep, str] = {
        ReceiveStep.REPORT: "recording that the server is here"
    }
    _log = Logger()

    def __init__(
        self,
        server: str,
        direct: DirectTransfers,
        expected: _Expected | None = None,
        pair: PairUse | None = None,
    ) -> None:
        self.digest = expected.digest if expected is not None else ""
        self.pair = expected.pair if expected is not None else pair
        self.pair_identity = "" if self.pair is None else self.pair.record.identity
        self._server = server
        self._direct = direct
        self._expected = expected
        self._description: Description | None = None

    def room(self) -> int | None:
        """Return the bytes that the copy may take by its pair; None for any other transfer."""
        return None if self.pair is None else self.pair.room(self._server)

    def brings(self, charge: Callable[[], int], over: Deferred[None]) -> None:
        """Count what the seed takes, if it comes by a pair."""
        if self.pair is not None:
            self.pair.add(self._server, charge, over)

    async def admit(self) -> Configuration:
        """Return the configuration. Raises `ServerAlreadyExists`, `BadRequest` without one."""
        await self._direct.check_absent(self._server)
        self._description = self._expected.description if self._expected is not None else None
        if self._description is None:
            raise BadRequest(
                "this node does not have the server's settings",
                "run wingsctl receive with --settings FILE, or send it with wingsctl send, which "
                "sends its settings",
            )
        configuration = read(self._description, self._server)
        left_out = mounts_in(self._description)
        if left_out:
            self._log.warn(
                "{server}: {count} mounts of its settings are left out: a direct transfer has "
                "none",
                server=self._server,
                count=left_out,
            )
        return configuration

    async def begin(self) -> None:
        """Record the description: no Panel can be asked after a restart. Raises `StorageError`."""
        description = json.dumps(self._description)
        await self._direct.database.add_description(self._server, self.digest, description)

    async def recheck(self) -> tuple[bool, Configuration]:
        """Return whether it is recorded that the server is here, and its configuration."""
        row = await self._direct.find(self._server)
        if row is None:
            raise ServerNotFound("the server's settings are not in the state database")
        return row.arrived is not None, read_text(row.description, self._server)

    async def report_success(self, backups: Sequence[Backup]) -> PendingReport:
        """Record that the server is here, which decides it. Raises `StorageError`."""
        await self._direct.database.mark_arrived(self._server)
        self._direct.on_over(self._server, self._expected, arrived=True)
        return PendingReport(succeed(True))

    async def report_failure(self, *, is_known: bool) -> None:
        """Remove the record. The source reads the failure in the answer, or asks."""
        self._direct.on_over(self._server, self._expected, arrived=False)
        await self._direct.remove(self._server)

    async def complete(self, server: Server) -> None:
        """Let the server keep the settings that came with it."""
        server.moved_directly = True


@attrs.frozen(eq=False, repr=False)
class Invitation:
    """A token to send a server here. `expires` is in seconds since the epoch."""

    token: str = attrs.field(repr=False)
    expires: float


@attrs.define(eq=False, repr=False)
class _Expected:
    """A server that may arrive by the token with that digest."""

    digest: str
    expires: float
    addresses: tuple[str, ...]
    description: Description | None
    #: Whether that was given here, and takes precedence over the source's.
    is_fixed: bool
    may_follow: bool
    #: The pair by which it comes, and is only followed; None for what an operator expects.
    pair: PairUse | None


@attrs.frozen(eq=False, repr=False)
class _Conclusion:
    """The destination's answer to whether a server has moved there."""

    moved: bool


def _moved_in(answer: Answer) -> bool:
    """Return what the node says. Raises `ValueError`, `RecursionError` for another answer."""
    kind = plain(answer.header("content-type").partition(";")[0].lower())
    if (answer.code, kind) != (HTTPStatus.OK, "application/json"):
        raise ValueError(f"{answer.code}, {kind or 'no content type'}")
    return structure(json.loads(answer.body), _Conclusion).moved


_SENDING_TEXTS = {
    SendStep.ASK: "sending the server's settings to the destination",
    SendStep.SETTLE: "asking the destination whether it has the server",
}


@attrs.define(eq=False, repr=False, slots=False)
class DirectSending(SendingCoordinator):
    """The coordinator of an outgoing direct transfer, by `destination`.

    `transfer` is the number of one that an earlier daemon has recorded. With `seed` a copy follows
    the server first.
    """

    is_direct = True
    # There is no `answer_grace`: the question itself cancels what the destination has not
    # finished.
    step_texts = _SENDING_TEXTS
    _log = Logger()

    _server: str
    _destination: DirectDestination
    _sender: OutgoingTransfers
    _transfer: int | None = None
    seed: SeedOrder | None = None

    def __attrs_post_init__(self) -> None:
        parts, destination = self._sender.parts, self._destination
        url, ca_file = f"{destination.url}/{self._server}/by-hand", parts.config.ca_file
        self._client = PeerClient(url, destination.token, parts.reactor, ca_file, "after --to")
        self._database, self._servers = parts.database, parts.servers
        self._asking: CancelScope | None = None
        #: Whether a person has cancelled it: nothing of it is kept then.
        self._is_cancelled = False

    async def save(self, entry: int) -> None:
        """Record the destination and the server's description, to go on after a restart."""
        self._transfer = entry
        await self._database.add_destination(entry, self._destination)

    async def announce(self) -> None:
        """Send the description; the destination refuses early what it cannot accept.

        Raises the errors of `PeerClient.ask`.
        """
        await self._client.ask("PUT", self._destination.description.encode())

    async def has_moved(self, *, lost: bool = False, refused: bool = False) -> bool | None:
        """Ask the destination until it answers, or `stop_waiting` is called: then return None.

        The question itself cancels the transfer: no server arrives after it was answered. Nothing
        but its own answer decides: not a refusal, which may be a proxy's, nor silence.
        """
        self._asking = asking = CancelScope()
        pauses = iter(OWNERSHIP_BACKOFF)
        while asking.reason is None:
            pause = next(pauses)
            try:
                return await asking.wait(Deferred.fromCoroutine(self._ask()))
            except (DestinationError, StorageError) as error:
                self._log_unknown(error, pause)
            except WingsdError:
                break
            try:
                await asking.wait(deferLater(self._sender.parts.reactor, pause))
            except WingsdError:
                break
        self._servers.leave_off(self._server)
        self._log.warn(
            "{server}: it stays here and is not started, since its transfer was cancelled before "
            "it was known whether it has moved; before you start it, see whether {url} has it, "
            "and delete one of them",
            server=self._server,
            url=self._destination.url,
        )
        return None

    def stop_waiting(self, reason: WingsdError) -> None:
        """Ask no longer whether it has moved."""
        self._is_cancelled = isinstance(reason, TransferCancelled)
        if self._asking is not None:
            self._asking.cancel(reason)

    async def clean_up(self, server: Server) -> None:
        """Delete it here, if that was requested; else leave its files where they are."""
        self._servers.leave_off(self._server)
        try:
            await self._database.delete_description(self._server)
            if self._destination.remove:
                await self._servers.delete(self._server)
                return
        except WingsdError as error:
            self._log.error(
                "{server}: it has moved, and was not deleted here: {error}",
                server=self._server,
                error=error,
            )
        self._log.info("{server}: its files here are kept", server=self._server)

    async def _ask(self) -> bool:
        """Return whether the destination has the server.

        The question ends the transfer where it has not: no server arrives after the answer. What
        has arrived by a move stays there for the next one, unless a person has cancelled it. Any
        other answer than the node's own, as a proxy's page, raises `DestinationRefused`. Raises
        the errors of `PeerClient.ask`, and `StorageError`.
        """
        if self._transfer is not None and not self._is_cancelled:
            record = await self._database.move(self._transfer)
            if record is not None and record.move:
                await end_move(self._sender.parts, record, 0.0)
        answer = await self._client.ask("DELETE")
        try:
            return _moved_in(answer)
        except (ValueError, RecursionError) as error:
            raise DestinationRefused(
                "the destination node's answer is invalid",
                f"{error}; see whether a proxy in front of it answers in its place",
                answer.code,
            ) from error


#: The path of a node's uploads, below its address.
UPLOADS = "/api/transfers"


@attrs.define(eq=False, repr=False, slots=False)
class DirectTransfers(Initiator):
    """The direct transfers of this node. Expected servers are forgotten when the daemon ends.

    `now` returns the seconds since the epoch.
    """

    _log = Logger()
    hold = "the server was being moved when this node ended, and its destination is asked about it"

    _receiver: IncomingTransfers
    _sender: OutgoingTransfers
    _bus: EventBus
    _config: Config
    _now: Callable[[], float]

    def __attrs_post_init__(self) -> None:
        parts = self._sender.parts
        self._servers, self.database, self._disk = parts.servers, parts.database, parts.disk
        #: The node's storage pool, empty without.
        self._pool = parts.volume.pool
        self._expected: dict[str, _Expected] = {}
        #: The digests of the tokens of this daemon: what is recorded of these is all there is.
        #: By when each expires.
        self._issued: dict[str, float] = {}
        #: The pairs by which seeds may come, by their names.
        self.pairs: dict[str, PairUse] = {}

    def use(self, config: Config) -> None:
        """Sign later invitations with the token of another configuration."""
        self._config = config

    # Called for the operator

    async def expect(
        self,
        server: str,
        *,
        seconds: float,
        description: Description | None = None,
        addresses: Sequence[str] = (),
        follow: bool = False,
        pair: PairUse | None = None,
    ) -> Invitation:
        """Expect a server for so many seconds; an earlier invitation for it becomes void.

        `addresses` replace those of its settings, see `with_addresses`. With `follow` a copy may
        be kept up to date here before the server moves, and it is started then if it ran. By a
        `pair` nothing else may come than such a copy, in the place of none but its own, and
        nothing moves with it. Raises `NodeInMaintenance`, `ServerAlreadyExists`, `BadRequest`
        where settings or addresses are invalid, and as `PairUse.check`.
        """
        self._receiver.require_open()
        with_addresses({"settings": {}}, addresses)
        if description is not None:
            read(description, server)
            description = with_addresses(description, addresses)
        found, waiting = self._receiver.find(server), self._expected.get(server)
        is_others = pair is not None and waiting is not None and waiting.pair is not pair
        if is_others and waiting is not None and waiting.expires > self._now():
            raise ServerAlreadyExists(
                "this server is expected already", "by wingsctl receive, or another pair"
            )
        # One that gives way ends, and what has arrived stays, when the next one begins.
        gives_way = found is not None and found.coordinator.is_direct and found.gives_way
        if gives_way and pair is not None:
            identity = pair.record.identity
            gives_way = found is not None and found.coordinator.pair_identity == identity
        if not gives_way:
            if found is not None and not found.has_failed:
                raise ServerAlreadyExists(
                    "this server is being received", found.progress.step_text
                )
            await self.check_absent(server)
        now, config, address = self._now(), self._config, self._config.api.public_url
        self._prune(now)
        if pair is not None:  # which may have ended by now
            others = (uuid for uuid, each in self._expected.items() if each.pair is pair)
            pair.check(server, now, others)
        token = direct_token(server, config.token, now, now + seconds, address)
        parsed = transfer_token(
            f"Bearer {token}", config.token, config.family, address, accept_expired=True
        )
        if pair is None:  # nothing is ever concluded by the token of a copy
            self._issued[parsed.digest] = parsed.expires
        self._expected[server] = _Expected(
            parsed.digest,
            parsed.expires,
            tuple(addresses),
            description,
            is_fixed=description is not None,
            may_follow=follow,
            pair=pair,
        )
        self._log.info("{server}: expected, by a direct transfer", server=server)
        return Invitation(token, parsed.expires)

    def _prune(self, now: float) -> None:
        """Forget invitations that have expired, and tokens about which no source asks any more."""
        self._expected = {
            uuid: each
            for uuid, each in self._expected.items()
            if each.expires > now or self._is_arriving(uuid, each.digest)
        }
        self._issued = {
            digest: expires
            for digest, expires in self._issued.items()
            if expires + ASKED_FOR > now
        }

    def expect_no_more(self, pair: PairUse) -> None:
        """Expect nothing by a pair any more."""
        kept = {uuid: each for uuid, each in self._expected.items() if each.pair is not pair}
        self._expected = kept

    @property
    def expected(self) -> dict[str, float]:
        """Until when each server is expected that is not arriving: seconds since the epoch."""
        now = self._now()
        return {
            uuid: each.expires
            for uuid, each in self._expected.items()
            if each.expires > now and not self._is_arriving(uuid, each.digest)
        }

    def _is_arriving(self, server: str, digest: str) -> bool:
        """Return whether a transfer by the token with that digest is in progress."""
        transfer = self._receiver.find(server)
        if transfer is None or transfer.has_failed:
            return False
        return getattr(transfer.coordinator, "digest", None) == digest

    # Called for the source

    def describe(self, token: TransferToken, description: Description) -> None:
        """Accept the source's description. Raises `Unauthorized`, `BadRequest`."""
        expected = self._expected_by(token)
        read(description, token.server)
        if not expected.is_fixed:
            expected.description = with_addresses(description, expected.addresses)

    def coordinator(self, token: TransferToken, follow: bool = False) -> DirectReceiving:
        """Return the coordinator of a transfer by that token, or with `follow` of a seed.

        Raises `Unauthorized`, `BadRequest` where no seed is expected, and `PairPlacesNothing` and
        `PairLimitReached` of a pair.
        """
        expected, server = self._expected_by(token), token.server
        if expected.pair is not None:
            if not follow:
                raise PairPlacesNothing
            expected.pair.check(server, self._now())
        if follow and not expected.may_follow:
            raise BadRequest(
                "this node does not expect a copy that follows the server",
                "run wingsctl receive there with --follow, or send the server without it",
            )
        return DirectReceiving(server, self, expected)

    async def conclude(self, token: TransferToken) -> bool:
        """Return whether the server has moved here by that token; if not, it never will.

        Raises `TryAgain` while that is not known yet, `StorageError`.
        """
        server = token.server
        # First, so that no request on its way can begin any more.
        await self.database.use_token(token.digest, token.expires)
        expected = self._expected.get(server)
        if expected is not None and expected.digest == token.digest:
            del self._expected[server]
        if await self._continues(token):
            raise TryAgain("the server is still being received")
        row = await self.find(server)
        if row is None or row.digest != token.digest:
            # Of a server that was deleted here since, or sent on, this alone is left.
            if await self.database.has_arrived(token.digest):
                return True
            await self._check_records(token)
            return False
        if row.arrived is not None:
            # While that is looked for it may have been deleted.
            return await self.has_files(server) or await self._has_left(token)
        if await self._may_be_resumed(server):
            raise TryAgain("this node is still starting, or has not recorded that it failed")
        return False

    async def _check_records(self, token: TransferToken) -> None:
        """Raise `TryAgain` where a server is here of which the state database knows nothing.

        It may be an older one than the server: it was replaced or restored since.
        """
        if token.digest not in self._issued and await self.has_files(token.server):
            raise TryAgain(
                "files of the server are on this node, and its state database does not know how "
                "they came",
                "it may have been replaced since they did; see whether the server runs here: if "
                "not, move its directory away, and the source keeps the server; if it does, "
                "cancel the transfer at the source, and do not start it there",
            )

    async def _has_left(self, token: TransferToken) -> bool:
        """Return whether a server that was here was deleted since, or sent on."""
        if await self.find(token.server) is None:
            # Not so one that a start has just found to be without files.
            return await self.database.has_arrived(token.digest)
        last = await self.database.last_move(token.server)
        if last is None or last.direction is Direction.IN:
            return False
        if last.outcome is None:
            raise TryAgain("the server is being sent on")
        return True

    async def _continues(self, token: TransferToken) -> bool:
        """Cancel the transfer by that token; return whether it is too late for that."""
        transfer = self._receiver.find(token.server)
        if transfer is None or transfer.has_failed or transfer.has_arrived:
            return False
        digest = getattr(transfer.coordinator, "digest", None)
        if digest == "":  # of an earlier daemon
            row = await self.find(token.server)
            digest = row.digest if row is not None else None
        if digest != token.digest:
            return False
        return not transfer.abort(TransferCancelled(), verified=True)

    async def _may_be_resumed(self, server: str) -> bool:
        """Return whether this daemon or the next one may go on with what is recorded of it."""
        unfinished = await self.database.unfinished()
        ours = (each for each in unfinished if each.direction is Direction.IN and each.direct)
        left = (each for each in ours if each.step != ReceiveStep.FAILED.name)
        return any(each.server == server for each in left)

    def _expected_by(self, token: TransferToken) -> _Expected:
        expected = self._expected.get(token.server)
        if expected is None or expected.digest != token.digest:
            raise TokenInvalid(
                "The token is not valid",
                "this node does not expect the server by it any more: run wingsctl receive there "
                "again",
            )
        return expected

    def on_over(self, server: str, expected: _Expected | None, *, arrived: bool) -> None:
        """Expect a server no longer whose transfer has ended."""
        if expected is not None and self._expected.get(server) is expected:
            del self._expected[server]
        if arrived:
            self.watch(server)

    # From this node

    async def send(
        self,
        server: str,
        url: str,
        token: str,
        *,
        description: Description | None = None,
        remove: bool = False,
        seed: SeedOrder | None = None,
    ) -> None:
        """Begin to send a server to the node at `url` by its `token`.

        With `seed` a copy is kept up to date there first, while the server is used as ever.

        `description` replaces the one that this node has. When the server has moved its files
        stay, or with `remove` they are deleted here. Raises `ServerNotFound`, `Conflict` where the
        server is in a storage pool and may be another node's, `BadRequest`,
        `DestinationUnreachable` where the certificates to trust cannot be read, and the errors of
        `OutgoingTransfers.start`.
        """
        if description is not None:
            read(description, server)
        known = await self._find(server, description)
        destination = DirectDestination(
            _upload_url(url),
            f"Bearer {token}",
            remove,
            json.dumps(description or describe(known.configuration)),
        )
        request = TransferRequest(destination.url, destination.token)
        await self._sender.start(
            known, request, DirectSending(server, destination, self._sender, seed=seed)
        )

    async def _find(self, server: str, description: Description | None) -> Server:
        try:
            return self._servers.get(server)
        except (ServersNotLoaded, ServerNotFound) as error:
            if not await self.has_files(server):
                if isinstance(error, ServersNotLoaded):
                    raise
                raise ServerNotFound(
                    "this node has no such server, and no files of it",
                    "compare the UUID with the Panel's, and run wingsctl send on the node that "
                    "has the server",
                ) from error
            why = (
                "its Panel has not listed its servers yet"
                if isinstance(error, ServersNotLoaded)
                else "its Panel does not have it here"
            )
            if pool := self._pool:
                raise Conflict(
                    "the server may belong to another node",
                    f"{why}, and its files are in the storage pool {pool}; send it from the node "
                    "that has it",
                ) from error
            if description is None:
                raise BadRequest(
                    "this node has the server's files, but not its settings",
                    f"{why}; give the server's settings with --settings FILE",
                ) from error
        return self._servers.get_or_add(read(description, server))

    # After a restart

    async def load(self, unfinished: Sequence[TransferRecord]) -> None:
        """Make the servers known that direct transfers have brought, and hold those sent away.

        Servers with an `unfinished` transfer are left out. One that was sent away is held whether
        its files are still here or deleted, but not where another directory is in their place.
        Raises `StorageError`.
        """
        configurations, arriving = [], {entry.server for entry in unfinished if entry.direct}
        for row in await self.database.descriptions():
            if row.arrived is None and row.server in arriving:
                continue
            if row.arrived is None:
                await self.database.delete_description(row.server)
                continue
            if not await self.has_files(row.server):
                await self._drop(row.server)
                continue
            self.watch(row.server)
            configurations += self._configuration(row)
        self._servers.add_moved(configurations)
        under_way = {entry.server for entry in unfinished}
        for entry in await self.database.moved_directly():
            if entry.server in under_way:
                continue
            if not await self._disk.run(self._is_replaced, entry):
                # its files are still here
                self._servers.hold_later(entry.server, Hold(Operation.MOVED, MOVED_AWAY))

    def cancel(self, server: str) -> bool:
        """Expect a server no longer, nor ask whether one has moved; return whether either was so.

        The one asked about is one that an earlier daemon was sending.
        """
        was_asked = self._sender.stop_asking(server, is_direct=True)
        return self._expected.pop(server, None) is not None or was_asked

    def receiving(self, server: str, pair: str = "") -> DirectReceiving:
        """Return the coordinator of a transfer to this node that an earlier daemon left."""
        uses = (each for each in self.pairs.values() if each.record.identity == pair)
        return DirectReceiving(server, self, pair=next(uses, None))

    async def resumed(
        self, entry: TransferRecord, record: MoveRecord
    ) -> tuple[Server, DirectSending] | None:
        """Return the server, without a Panel as it was recorded, and a coordinator."""
        destination = await self.database.destination(entry.id)
        if destination is None or not destination.description:
            return None
        if is_seed(entry, record):
            server, seed = self._servers.get(entry.server), seed_of(record)  # as users have it
        else:
            described = read_text(destination.description, entry.server)
            server, seed = self._servers.get_or_add(described), None
        return server, DirectSending(entry.server, destination, self._sender, entry.id, seed)

    async def has_moved(self, entry: TransferRecord) -> bool | None:
        """Ask the destination; see `Initiator`."""
        destination = await self.database.destination(entry.id)
        if destination is None:
            return False
        coordinator = DirectSending(entry.server, destination, self._sender, entry.id)
        return await self._sender.has_moved(entry.server, coordinator)

    async def clean_up(self, entry: TransferRecord) -> None:
        """Delete or keep a server that has moved, as it was ordered."""
        destination = await self.database.destination(entry.id)
        if destination is None:
            return
        # A server that is not known, too, can be deleted: that needs no settings.
        server = self._servers.get_or_add(Configuration(Settings(entry.server)))
        server.disown(MOVED)
        await DirectSending(entry.server, destination, self._sender).clean_up(server)

    # The servers that direct transfers have brought, and no Panel knows here

    async def find(self, server: str) -> ServerDescription | None:
        """Return what is recorded of a server, if there is anything. Raises `StorageError`."""
        rows = await self.database.descriptions()
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
                f"{place} is in the storage pool {self._pool}: where the other node has that too, "
                "it is the server itself, which only the Panel can move; if it is only left over, "
                "move it away"
                if self._pool
                else f"see what {place} is, and move it away or delete it",
            )

    async def remove(self, server: str) -> None:
        """Remove the record of a server. An error is logged."""
        try:
            await self.database.delete_description(server)
        except StorageError as error:
            self._log.error(
                "{server}: its settings were not deleted: {error}", server=server, error=error
            )

    async def _drop(self, server: str) -> None:
        """Drop the record of a server without files.

        One that was sent on has moved here before. Of another one it is not known where
        it is, and its source is to keep its copy.
        """
        last = await self.database.last_move(server)
        if last is not None and last.direction is Direction.OUT:
            await self.database.delete_description(server)
        else:
            await self.database.delete_lost(server)

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
            rows = await self.database.descriptions()
            # One that arrives now is marked as this node's at the end of its transfer.
            under_way = {entry.server for entry in await self.database.unfinished()}
            for row in [row for row in rows if row.server not in under_way]:
                with suppress(ServerNotFound):
                    known = self._servers.get(row.server)
                    if row.description and row.arrived is not None and not known.moved_directly:
                        await self.database.clear_description(row.server)
        except StorageError as error:
            self._log.error("{error}", error=error)

    def watch(self, server: str) -> None:
        """Remove the server's record when it is deleted."""

        def on_event(event: Event) -> None:
            if event.name == DELETED:
                unsubscribe()
                Deferred.fromCoroutine(self.remove(server))

        unsubscribe = self._bus.subscribe(server, on_event)


def _upload_url(url: str) -> str:
    """Return where the node at an address takes uploads; the path may be in it already."""
    address = url.rstrip("/")
    try:
        path = urlsplit(address).path
    except ValueError:
        return url  # The client that is made with it raises the error.
    return address if path else f"{address}{UPLOADS}"
