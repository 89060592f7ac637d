"""Incoming direct transfers: which servers are expected, and which have arrived."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs
from twisted.internet.defer import succeed
from twisted.logger import Logger

from wingsd.auth.tokens import TransferToken, direct_token, transfer_token
from wingsd.backups.local import Backup
from wingsd.callbacks import PendingReport
from wingsd.config import Config
from wingsd.direct_transfers.servers import (
    Description,
    DirectServers,
    mounts_in,
    read,
    read_text,
    with_addresses,
)
from wingsd.errors import (
    BadRequest,
    ServerAlreadyExists,
    ServerNotFound,
    TokenInvalid,
    TransferCancelled,
    TryAgain,
)
from wingsd.panel.schemas import Configuration
from wingsd.servers import Server
from wingsd.statedb import Direction, StateDatabase
from wingsd.transfers.coordinator import ReceivingCoordinator
from wingsd.transfers.incoming.transfer import IncomingTransfer
from wingsd.transfers.manager import IncomingTransfers
from wingsd.transfers.steps import ReceiveStep

__all__ = ["DirectReceiving", "IncomingDirectTransfers", "Invitation"]


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
        self, server: str, direct: IncomingDirectTransfers, expected: _Expected | None = None
    ) -> None:
        self.digest = expected.digest if expected is not None else ""
        self._server = server
        self._direct = direct
        self._servers = direct.servers
        self._expected = expected
        self._description: Description | None = None

    async def admit(self) -> Configuration:
        """Return the configuration. Raises `ServerAlreadyExists`, `BadRequest` without one."""
        await self._servers.check_absent(self._server)
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

    async def save(self) -> None:
        """Record the description: a later daemon has no Panel to ask. Raises `StorageError`."""
        await self._servers.add(self._server, self.digest, self._description)

    async def recheck(self) -> tuple[bool, Configuration]:
        """Return whether it is recorded that the server is here, and its configuration."""
        row = await self._servers.find(self._server)
        if row is None:
            raise ServerNotFound("the server's settings are not in the state database")
        return row.arrived is not None, read_text(row.description, self._server)

    async def report_success(self, backups: Sequence[Backup]) -> PendingReport:
        """Record that the server is here, which decides it. Raises `StorageError`."""
        await self._servers.set_arrived(self._server)
        self._direct.on_over(self._server, self._expected, arrived=True)
        return PendingReport(succeed(True))

    async def report_failure(self, *, is_known: bool) -> None:
        """Remove the record. The source reads the failure in the answer, or asks."""
        self._direct.on_over(self._server, self._expected, arrived=False)
        await self._servers.remove(self._server)

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


@attrs.define(eq=False, repr=False, slots=False)
class IncomingDirectTransfers:
    """Direct transfers to this node. Expected servers are forgotten when the daemon ends.

    `now` returns the seconds since the epoch.
    """

    _log = Logger()

    servers: DirectServers
    _receiver: IncomingTransfers
    _database: StateDatabase
    _config: Config
    _now: Callable[[], float]

    def __attrs_post_init__(self) -> None:
        self.use(self._config)
        self._expected: dict[str, _Expected] = {}
        #: The digests of the tokens of this daemon: what is recorded of these is all there is.
        #: By when each expires.
        self._issued: dict[str, float] = {}

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
    ) -> Invitation:
        """Expect a server for so many seconds; an earlier invitation for it becomes void.

        `addresses` replace those of its settings, see `with_addresses`. With `follow` a copy may
        be kept up to date here before the server moves, and it is started then if it ran. Raises
        `ServerAlreadyExists`, and `BadRequest` where settings or addresses are invalid.
        """
        with_addresses({"settings": {}}, addresses)
        if description is not None:
            read(description, server)
            description = with_addresses(description, addresses)
        in_progress = self._receiver.find(server)
        if in_progress is not None and self._gives_way(in_progress):
            pass  # it ends, and what has arrived stays, when the next one begins
        elif in_progress is not None and not in_progress.has_failed:
            raise ServerAlreadyExists(
                "this server is being received", in_progress.progress.step_text
            )
        else:
            await self.servers.check_absent(server)
        now, config, address = self._now(), self._config, self._config.api.public_url
        self._prune(now)
        token = direct_token(server, config.token, now, now + seconds, address)
        parsed = transfer_token(
            f"Bearer {token}", config.token, config.family, address, accept_expired=True
        )
        self._issued[parsed.digest] = parsed.expires
        self._expected[server] = _Expected(
            parsed.digest,
            parsed.expires,
            tuple(addresses),
            description,
            is_fixed=description is not None,
            may_follow=follow,
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

    def cancel(self, server: str) -> bool:
        """Expect a server no longer; return whether it was expected."""
        return self._expected.pop(server, None) is not None

    @property
    def expected(self) -> dict[str, float]:
        """Until when each server is expected that is not arriving: seconds since the epoch."""
        now = self._now()
        return {
            uuid: each.expires
            for uuid, each in self._expected.items()
            if each.expires > now and not self._is_arriving(uuid, each.digest)
        }

    def _gives_way(self, transfer: IncomingTransfer) -> bool:
        """Return whether a transfer is one that the next one of its server may end."""
        return transfer.coordinator.is_direct and transfer.gives_way

    def _is_arriving(self, server: str, digest: str) -> bool:
        """Return whether a transfer by the token with that digest is in progress."""
        transfer = self._receiver.find(server)
        if transfer is None or transfer.has_failed:
            return False
        return getattr(transfer.coordinator, "digest", None) == digest

    # Called for the source

    def describe(self, token: TransferToken, description: Description) -> None:
        """Accept the source's description. Raises `Unauthorized`, `BadRequest`."""
        expected = self._find(token)
        read(description, token.server)
        if not expected.is_fixed:
            expected.description = with_addresses(description, expected.addresses)

    def coordinator(self, token: TransferToken, follow: bool = False) -> DirectReceiving:
        """Return the coordinator of a transfer by that token, or with `follow` of a seed.

        Raises `Unauthorized`, and `BadRequest` where no seed is expected.
        """
        expected, server = self._find(token), token.server
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
        await self._database.use_token(token.digest, token.expires)
        expected = self._expected.get(server)
        if expected is not None and expected.digest == token.digest:
            self.cancel(server)
        if await self._continues(token):
            raise TryAgain("the server is still being received")
        row = await self.servers.find(server)
        if row is None or row.digest != token.digest:
            # Of a server that was deleted here since, or sent on, this alone is left.
            if await self._database.has_arrived(token.digest):
                return True
            await self._check_records(token)
            return False
        if row.arrived is not None:
            # While that is looked for it may have been deleted.
            return await self.servers.has_files(server) or await self._has_left(token)
        if await self._may_be_resumed(server):
            raise TryAgain("this node is still starting, or has not recorded that it failed")
        return False

    async def _check_records(self, token: TransferToken) -> None:
        """Raise `TryAgain` where a server is here of which the state database knows nothing.

        It may be an older one than the server: it was replaced or restored since.
        """
        if token.digest not in self._issued and await self.servers.has_files(token.server):
            raise TryAgain(
                "files of the server are on this node, and its state database does not know how "
                "they came",
                "it may have been replaced since they did; see whether the server runs here: if "
                "not, move its directory away, and the source keeps the server; if it does, "
                "cancel the transfer at the source, and do not start it there",
            )

    async def _has_left(self, token: TransferToken) -> bool:
        """Return whether a server that was here was deleted since, or sent on."""
        if await self.servers.find(token.server) is None:
            # Not so one that a start has just found to be without files.
            return await self._database.has_arrived(token.digest)
        last = await self._database.last_move(token.server)
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
            row = await self.servers.find(token.server)
            digest = row.digest if row is not None else None
        if digest != token.digest:
            return False
        return not transfer.abort(TransferCancelled(), verified=True)

    async def _may_be_resumed(self, server: str) -> bool:
        """Return whether this daemon or the next one may go on with what is recorded of it."""
        unfinished = await self._database.unfinished()
        ours = (each for each in unfinished if each.direction is Direction.IN and each.direct)
        left = (each for each in ours if each.step != ReceiveStep.FAILED.name)
        return any(each.server == server for each in left)

    def _find(self, token: TransferToken) -> _Expected:
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
            self.servers.watch(server)
