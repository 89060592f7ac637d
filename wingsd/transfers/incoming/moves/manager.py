"""All moves to this node: begun once for each token, found by their ids, also after their end."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from hmac import compare_digest

import attrs
from twisted.internet.defer import Deferred

from wingsd.auth.tokens import TransferToken, token_was_used
from wingsd.config import MovesConfig
from wingsd.errors import ServerAlreadyExists, TransferCancelled, WingsdError
from wingsd.filesystem.attributes import NOTHING, AttributesKept
from wingsd.statedb import Direction, MoveRecord, Outcome, StateDatabase, TransferRecord
from wingsd.transfers.coordinator import ReceivingCoordinator
from wingsd.transfers.incoming.moves.attachments import check_announced
from wingsd.transfers.incoming.moves.errors import (
    MoveBusy,
    MoveKeyInvalid,
    MoveNotFound,
    recorded_failure,
)
from wingsd.transfers.incoming.moves.inbox import MoveBeginning, MoveIdentity, MoveTerms
from wingsd.transfers.incoming.moves.transfer import IncomingSeed, MoveTransfer
from wingsd.transfers.incoming.transfer import IncomingParts
from wingsd.transfers.manager import IncomingTransfers
from wingsd.util.deferreds import when_fired

__all__ = ["EndedMove", "IncomingMoves", "key_digest"]


def key_digest(key: str) -> str:
    """Return the SHA-256 of a move's key, as it is kept."""
    return sha256(key.encode()).hexdigest()


@attrs.frozen(eq=False, repr=False)
class EndedMove:
    """How a move has ended; the texts and the code are empty after a success."""

    outcome: Outcome
    error: str = ""
    detail: str = ""
    code: str = ""


@attrs.define(eq=False, repr=False)
class _Beginning:
    """A move that is being admitted: the SHA-256 of its key, and when that has ended."""

    key: str
    over: Deferred[None] = attrs.field(factory=Deferred)


class IncomingMoves:
    """The moves to this node."""

    def __init__(
        self,
        receiver: IncomingTransfers,
        database: StateDatabase,
        settings: MovesConfig,
        *,
        starts: bool,
    ) -> None:
        """With `starts` servers are started here that were running when they were moved."""
        self.settings = settings
        self._starts = starts
        self._receiver = receiver
        self._database = database
        self._beginning: dict[str, _Beginning] = {}

    async def begun(self, token: TransferToken, key: str) -> str | None:
        """Return the id of the move that was begun with a token and a key, None without.

        The source may have lost the answer to the first request, which may still be under way.
        Raises `TokenUsed` for another key.
        """
        digest = key_digest(key)
        first = self._beginning.get(token.digest)
        if first is not None:
            _check_key(digest, first.key)
            await when_fired(first.over)
        known = await self._database.find_admitted(token.digest)
        if known is None:
            return None
        _check_key(digest, known.key)
        return known.move

    async def attributes_kept(self, version: int) -> AttributesKept:
        """Return which extended attributes servers keep in moves of a version.

        The file system is asked each time: it may have been full before.
        """
        return NOTHING if version == 1 else await self._receiver.attributes_kept()

    async def begin(
        self,
        token: TransferToken,
        key: str,
        beginning: MoveBeginning,
        coordinator: Callable[[], ReceivingCoordinator | None],
    ) -> str:
        """Begin a move; return its id.

        Raises `MoveRequestInvalid`, `TokenUsed`, and why the server is not admitted.
        """
        check_announced(beginning.backups, beginning.log)
        if await self._database.was_used(token.digest, token.expires):
            raise token_was_used()
        if token.digest in self._beginning:
            raise ServerAlreadyExists(
                "this move is being begun already", "it was asked for by several requests at once"
            )
        identity = MoveIdentity(
            secrets.token_hex(16), key_digest(key), token.digest, token.expires
        )
        self._beginning[token.digest] = mine = _Beginning(identity.key)
        try:
            make = partial(self._make, identity, beginning)
            transfer = self._receiver.open_as(make, token.server, coordinator(), token.issued)
            await transfer.begin()
        except TransferCancelled:
            # The source may have sent the request twice: the second one must not begin it again.
            await self._database.use_token(token.digest, token.expires)
            raise
        finally:
            del self._beginning[token.digest]
            mine.over.callback(None)
        return identity.move

    async def withdraw(self, token: TransferToken, key: str) -> str:
        """Use up a token, so that no move can be begun with it; return the id of one that was.

        Raises `MoveNotFound` without one, and `TokenUsed` for another key.
        """
        if not await self._database.use_token(token.digest, token.expires):
            known = await self.begun(token, key)
            if known is not None:
                return known
        raise MoveNotFound

    def resume(
        self, entry: TransferRecord, record: MoveRecord, coordinator: ReceivingCoordinator | None
    ) -> None:
        """Go on with a move that an earlier daemon has left open."""
        identity = MoveIdentity(record.move, record.key, record.token)
        beginning, failure = MoveBeginning.decode(record.request), recorded_failure(record.state)
        make = partial(self._make, identity, beginning, failure=failure)
        self._receiver.resume_as(make, entry, coordinator)

    def find(self, server: str, move: str) -> MoveTransfer | None:
        """Return a move that has not ended."""
        transfer = self._receiver.find(server)
        if isinstance(transfer, MoveTransfer) and transfer.terms.identity.move == move:
            return transfer
        return None

    def authorized(self, server: str, move: str, key: str) -> MoveTransfer | None:
        """Return a move that has not ended, for its source. Raises `MoveKeyInvalid`."""
        transfer = self.find(server, move)
        if transfer is not None:
            if not compare_digest(key_digest(key), transfer.terms.identity.key):
                raise MoveKeyInvalid
            transfer.hear()
        return transfer

    async def ended(self, server: str, move: str, key: str) -> EndedMove:
        """Return how a move has ended, for its source.

        Raises `MoveNotFound`, `MoveKeyInvalid`, and `MoveBusy` for one that an earlier daemon has
        left open.
        """
        record = await self._database.find_move(Direction.IN, move)
        if record is None or record.server != server:
            raise MoveNotFound
        if not compare_digest(key_digest(key), record.key):
            raise MoveKeyInvalid
        entry = await self._database.transfer(record.transfer)
        if entry is None:
            raise MoveNotFound
        if entry.outcome is Outcome.SUCCESS:
            return EndedMove(Outcome.SUCCESS)
        if entry.outcome is None:
            transfer = self.find(server, move)
            # It may have been resumed since the request came, while the database was asked.
            if transfer is None or not transfer.has_failed:
                raise MoveBusy("this node is still starting; send it again")
        state = json.loads(record.state)
        return EndedMove(
            Outcome.FAILURE,
            state.get("error", "the transfer failed"),
            state.get("detail", entry.reason),
            state.get("code", "internal-error"),
        )

    def _make(
        self,
        identity: MoveIdentity,
        beginning: MoveBeginning,
        server: str,
        coordinator: ReceivingCoordinator,
        parts: IncomingParts,
        *,
        failure: WingsdError | None = None,
    ) -> MoveTransfer:
        kind = IncomingSeed if beginning.follow else MoveTransfer
        # A server that a direct transfer brings is not started, unless a seed had followed it.
        starts = self._starts and (beginning.follow or not coordinator.is_direct)
        terms = MoveTerms(
            identity, beginning, self.settings, starts, self._database, failure=failure
        )
        return kind(server, coordinator, parts, terms)


def _check_key(found: str, expected: str) -> None:
    if not compare_digest(found, expected):
        raise token_was_used()
