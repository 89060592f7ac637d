"""Requests of one move to the other node, on connections that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

import attrs
import h11
from twisted.internet.defer import CancelledError, Deferred

from wingsd import __version__
from wingsd.http_upload.blocks_body import Block, BlocksBody
from wingsd.http_upload.exchange import Answer
from wingsd.http_upload.kept import KeptConnections, KeptExchange
from wingsd.moves.snapshot import MAX_PART
from wingsd.threadio import TokenBucket
from wingsd.transfers.errors import DestinationDisconnected
from wingsd.transfers.peer.address import PeerAddress
from wingsd.util.reactor import Reactor

__all__ = ["MoveRequest", "MoveRequests"]

#: Bytes of a page of what the destination holds, and the seconds that it takes.
MAX_PAGE = MAX_PART + 1
PAGE_WITHIN = 300.0
#: Seconds in which a request without a large body is answered. Proxies end it after a minute; a
#: node that is asked what it holds may take longer.
ANSWERED_WITHIN = 120.0
JSON = "application/json"
#: Statuses of refusals whose bodies say what follows.
_NEEDS_BODY = (HTTPStatus.BAD_REQUEST, HTTPStatus.CONFLICT)


@attrs.frozen(eq=False, repr=False)
class MoveRequest:
    """A request: `target` is below the address of transfers. A large body comes as `blocks`.

    `is_page` tells that the answer may be large.
    """

    method: str
    target: str
    authorization: str = attrs.field(repr=False)
    content: bytes = b""
    content_type: str = JSON
    blocks: Sequence[Block] | None = None
    is_page: bool = False


class MoveRequests:
    """Sends requests to a node, at the rate of `bucket`.

    The node may leave what it is sent unacknowledged for `stall_timeout` seconds.
    """

    def __init__(
        self,
        address: PeerAddress,
        reactor: Reactor,
        stall_timeout: float,
        bucket: TokenBucket | None = None,
    ) -> None:
        #: Bytes of large bodies that were handed over for sending.
        self.bytes_out = 0
        #: Those of them that the node has not taken: they are sent again.
        self.bytes_again = 0
        #: Whether large bodies that are begun now leave a part of the rate to others.
        self.yields = False
        self._address = address
        self._reactor = reactor
        self._stall_timeout = stall_timeout
        self._bucket = bucket
        self._connections = KeptConnections(reactor)
        self._under_way: set[KeptExchange] = set()

    async def send(self, asked: MoveRequest) -> Answer:
        """Return the answer, whatever its status.

        Raises `DestinationUnreachable`, `DestinationDisconnected` without one, or where it broke
        off and says nothing without its body, and `CancelledError` after `interrupt`.
        """
        body = None if asked.blocks is None else _CountedBody(self, asked.blocks, self._bucket)
        route = self._address.route()
        verify = route.verifier.verify_name if route.verifier is not None else None
        exchange = KeptExchange(
            self._reactor, self._head(asked), body, verify, self._stall_timeout, asked.content
        )
        exchange.taken_within = max(self._stall_timeout, ANSWERED_WITHIN)
        if asked.is_page:
            exchange.max_answer, exchange.answer_within = MAX_PAGE, PAGE_WITHIN
        self._under_way.add(exchange)
        starting = self._connections.start(exchange, route.endpoint, ANSWERED_WITHIN)
        answer: Deferred[Answer] = starting
        answer.addErrback(
            lambda failure: self._address.explain(
                failure,
                route.verifier,
                begun=exchange.begun,
                uploads=True,
                request_sent=False,
            )
        )
        is_taken = False
        try:
            found = await answer
            if not found.whole and (found.good or found.code in _NEEDS_BODY):
                raise DestinationDisconnected("its answer broke off", body_sent=False)
            is_taken = found.good
        finally:
            self._under_way.discard(exchange)
            if body is not None and not is_taken:
                self.bytes_again += body.bytes_out
        return found

    def interrupt(self) -> None:
        """End all that is under way."""
        for exchange in tuple(self._under_way):
            exchange.abort(CancelledError())

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def _head(self, asked: MoveRequest) -> h11.Request:
        blocks = asked.blocks
        length = len(asked.content) if blocks is None else sum(len(block) for block in blocks)
        headers = [
            ("Host", self._address.netloc),
            ("User-Agent", f"wingsd/{__version__}"),
            ("Authorization", asked.authorization),
        ]
        if asked.method not in ("GET", "DELETE"):
            headers += [("Content-Type", asked.content_type), ("Content-Length", str(length))]
        target = self._address.target(asked.target)
        return h11.Request(method=asked.method, target=target, headers=headers)


class _CountedBody(BlocksBody):
    """A body whose bytes are counted with all others."""

    def __init__(
        self, requests: MoveRequests, blocks: Sequence[Block], bucket: TokenBucket | None
    ) -> None:
        super().__init__(blocks, bucket, yields=requests.yields)
        self.bytes_out = 0
        self._requests = requests

    def _hand_over(self, block: bytes) -> None:
        self.bytes_out += len(block)
        self._requests.bytes_out += len(block)
        super()._hand_over(block)
