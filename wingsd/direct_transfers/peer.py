"""The destination of a direct transfer, as its source asks it: see docs/control.md."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

import attrs

from wingsd.statedb import MoveRecord, StateDatabase
from wingsd.transfers.errors import DestinationRefused
from wingsd.transfers.peer.answers import plain
from wingsd.util.serialization import structure

if TYPE_CHECKING:
    from wingsd.http_upload.exchange import Answer
    from wingsd.transfers.peer.client import PeerClient

__all__ = ["DirectPeer", "EndsMoves"]


@attrs.frozen(eq=False, repr=False)
class _Conclusion:
    """The destination's answer to whether a server has moved there."""

    moved: bool


class EndsMoves(Protocol):
    """What ends moves that resume."""

    async def end_move(self, record: MoveRecord) -> None:
        """Have the destination of a move end it, and keep what has arrived.

        Raises `DestinationError` where it gives no answer.
        """


class DirectPeer:
    """The destination of one direct transfer. Methods raise the errors of `PeerClient.ask`."""

    def __init__(self, client: PeerClient, moves: EndsMoves, database: StateDatabase) -> None:
        self._client = client
        self._moves = moves
        self._database = database

    async def describe(self, description: str) -> None:
        """Send the server's description, JSON; what cannot be accepted is refused early."""
        await self._client.ask("PUT", description.encode())

    async def has_server(self, transfer: int | None, *, keep: bool) -> bool:
        """Return whether it has the server of a transfer with that number.

        The question ends the transfer where it has not: no server arrives after the answer. With
        `keep` what has arrived by a move stays there for the next one. Any other answer than the
        node's own, as a proxy's page, raises `DestinationRefused`. Raises `StorageError`.
        """
        if keep and transfer is not None:
            await self._end_move(transfer)
        answer = await self._client.ask("DELETE")
        try:
            return _moved_in(answer)
        except (ValueError, RecursionError) as error:
            raise DestinationRefused(
                "the destination node's answer is invalid",
                f"{error}; see whether a proxy in front of it answers in its place",
                answer.code,
            ) from error

    async def _end_move(self, transfer: int) -> None:
        record = await self._database.move(transfer)
        if record is not None and record.move:
            await self._moves.end_move(record)


def _moved_in(answer: Answer) -> bool:
    """Return what the node says. Raises `ValueError`, `RecursionError` for another answer."""
    kind = plain(answer.header("content-type").partition(";")[0].lower())
    if (answer.code, kind) != (HTTPStatus.OK, "application/json"):
        raise ValueError(f"{answer.code}, {kind or 'no content type'}")
    return structure(json.loads(answer.body), _Conclusion).moved
