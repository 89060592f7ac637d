"""The paths of transfers to this node and from it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from twisted.internet.interfaces import IReactorTime

from wingsd.api.resource import LaterEndpoint
from wingsd.config import Config
from wingsd.direct_transfers.incoming import IncomingDirectTransfers
from wingsd.servers.registry import Servers
from wingsd.statedb import StateDatabase
from wingsd.threadio import TokenBucket
from wingsd.transfers.incoming.multistream import StreamGroups
from wingsd.transfers.manager import IncomingMoves, IncomingTransfers, OutgoingTransfers

__all__ = ["TRANSFER_PATHS", "direct_endpoint", "endpoints", "move_endpoints"]

_SENDING = LaterEndpoint("transfers", "OutgoingEndpoint")
_UPLOADS = LaterEndpoint("transfers", "TransfersEndpoint")
_RECEIVING = LaterEndpoint("transfers", "IncomingEndpoint")
_CANCELLED = LaterEndpoint("transfers", "CancelledTransferEndpoint")
_DIRECT = LaterEndpoint("direct_transfers", "DirectTransferEndpoint")
_MOVE = "/api/transfers/{uuid}/move"
_BEGINNING = LaterEndpoint("moves", "MovesEndpoint")
_MOVES: Mapping[str, LaterEndpoint] = {
    f"{_MOVE}/{{move}}": LaterEndpoint("moves", "MoveEndpoint"),
    f"{_MOVE}/{{move}}/resume": LaterEndpoint("moves", "MoveResumeEndpoint"),
    f"{_MOVE}/{{move}}/tree": LaterEndpoint("moves", "MoveTreeEndpoint"),
    f"{_MOVE}/{{move}}/batches/{{number}}": LaterEndpoint("moves", "MoveBatchEndpoint"),
    f"{_MOVE}/{{move}}/rounds/{{number}}": LaterEndpoint("moves", "MoveRoundEndpoint"),
    f"{_MOVE}/{{move}}/attachments/{{name}}": LaterEndpoint("moves", "MoveAttachmentEndpoint"),
    f"{_MOVE}/{{move}}/prepare": LaterEndpoint("moves", "MovePrepareEndpoint"),
    f"{_MOVE}/{{move}}/room": LaterEndpoint("moves", "MoveRoomEndpoint"),
    f"{_MOVE}/{{move}}/commit": LaterEndpoint("moves", "MoveCommitEndpoint"),
}
TRANSFER_PATHS: Mapping[str, LaterEndpoint] = {
    "/api/servers/{uuid}/transfer": _SENDING,
    "/api/transfer": _CANCELLED,
    "/api/transfers": _UPLOADS,
    "/api/transfers/{uuid}": _RECEIVING,
    "/api/transfers/{uuid}/by-hand": _DIRECT,
    _MOVE: _BEGINNING,
    **_MOVES,
}


def endpoints(
    config: Config,
    servers: Servers,
    receiver: IncomingTransfers,
    sender: OutgoingTransfers,
    streams: StreamGroups,
    direct: IncomingDirectTransfers,
    bucket: TokenBucket | None = None,
) -> list[partial[Any]]:
    """Return all but `direct_endpoint`. `bucket` limits the rate of all uploads together."""
    return [
        partial(_UPLOADS, config, receiver, streams, direct, bucket),
        partial(_RECEIVING, config, receiver),
        partial(_CANCELLED, config, receiver),
        partial(_SENDING, config, servers, sender),
    ]


def direct_endpoint(
    config: Config, direct: IncomingDirectTransfers, database: StateDatabase
) -> partial[Any]:
    """Return the endpoint of one direct transfer, for its source."""
    return partial(_DIRECT, config, direct, database)


def move_endpoints(
    config: Config,
    moves: IncomingMoves,
    direct: IncomingDirectTransfers,
    reactor: IReactorTime,
    bucket: TokenBucket | None = None,
) -> list[partial[Any]]:
    """Return the endpoints of moves to this node. `bucket` is that of all uploads."""
    return [
        partial(_BEGINNING, config, moves, direct),
        *(partial(each, config, moves, reactor, bucket) for each in _MOVES.values()),
    ]
