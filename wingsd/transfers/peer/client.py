"""An HTTP client of the other node of a transfer: asks it, and uploads to it.

Each request is one `HttpExchange`; each way it can fail is a class in `wingsd.transfers.errors`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from http import HTTPStatus

import h11
from twisted.internet.defer import CancelledError, Deferred

from wingsd import __version__
from wingsd.http_upload.exchange import Answer, HttpExchange
from wingsd.threadio import Outflow
from wingsd.transfers.errors import InvalidDestination
from wingsd.transfers.peer.address import CONNECT_WITHIN, PeerAddress
from wingsd.transfers.peer.answers import GATEWAYS, judge
from wingsd.transfers.peer.tls import PeerTls
from wingsd.util.reactor import Reactor

__all__ = ["PeerClient", "PeerUpload"]


class PeerClient:
    """A client of the node at `url`, with the whole value of the header `Authorization`.

    `address_source` is where the address was given, and can be corrected.
    """

    def __init__(
        self,
        url: str,
        authorization: str,
        reactor: Reactor,
        tls: PeerTls,
        address_source: str = "in the Panel",
    ) -> None:
        """Raise `BadRequest` for an invalid URL or header.

        Raises `DestinationUnreachable` when the certificates to trust cannot be read.
        """
        self._address = PeerAddress(url, reactor, tls, address_source)
        self._reactor = reactor
        self._headers = [
            ("Host", self._address.netloc),
            ("User-Agent", f"wingsd/{__version__}"),
            ("Authorization", authorization),
            ("Connection", "close"),
        ]
        try:
            self._request("OPTIONS")
        except (h11.LocalProtocolError, UnicodeEncodeError) as error:
            raise InvalidDestination(
                "the destination's URL or token has invalid characters", "start the transfer again"
            ) from error

    async def features(self, headers: Iterable[tuple[str, str]] = ()) -> frozenset[str]:
        """Return the features of the node, by which it keeps more of a server than others.

        wingsd answers OPTIONS with them, in the header `Transfer-Features`, a comma list, and in
        the body, which every proxy passes on; other nodes give some other answer, and no
        features. `headers` are those of the request.
        Raises `DestinationUnreachable`, `DestinationDisconnected` without an answer, and
        `DestinationRefused` for that of a proxy which has none of the node's: it may have any.
        """
        answer = await self._start(self._request("OPTIONS", headers))[1]
        if answer.code in (*GATEWAYS, HTTPStatus.TOO_MANY_REQUESTS):
            judge(answer)
        if not answer.good:
            return frozenset()
        features = [*answer.header("transfer-features").split(","), *_listed(answer.body)]
        return frozenset(each.strip().lower() for each in features if each.strip())

    async def ask(self, method: str, content: bytes = b"") -> Answer:
        """Return the answer of success to a request with the JSON `content`.

        Raises `DestinationUnreachable`, `DestinationDisconnected`, and `DestinationRefused` for
        any other.
        """
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
        request = self._request(method, headers)
        answer = await self._start(request, content=content)[1]
        judge(answer)
        return answer

    def upload(
        self,
        content_type: str,
        body: Outflow,
        stall_timeout: float,
        headers: Iterable[tuple[str, str]] = (),
        *,
        may_be_early: bool = False,
    ) -> PeerUpload:
        """Begin to send `body`, which is closed if the upload ends before it does.

        The node may leave data unacknowledged for `stall_timeout` seconds. `headers` are further
        ones of the request. With `may_be_early` the answer may come before the body was sent.
        """
        usual = [("Content-Type", content_type), ("Transfer-Encoding", "chunked")]
        request = self._request("POST", [*usual, *headers])
        exchange, answer = self._start(request, body, stall_timeout)
        return PeerUpload(exchange, answer, may_be_early=may_be_early)

    def _request(self, method: str, headers: Iterable[tuple[str, str]] = ()) -> h11.Request:
        target = self._address.target()
        return h11.Request(method=method, target=target, headers=[*self._headers, *headers])

    def _start(
        self,
        request: h11.Request,
        body: Outflow | None = None,
        stall_timeout: float | None = None,
        content: bytes = b"",
    ) -> tuple[HttpExchange, Deferred[Answer]]:
        route = self._address.route()
        verify = route.verifier.verify_name if route.verifier is not None else None
        exchange = HttpExchange(self._reactor, request, body, verify, stall_timeout, content)
        answer = exchange.start(route.endpoint, CONNECT_WITHIN)
        answer.addErrback(
            lambda failure: self._address.explain(
                failure,
                route.verifier,
                begun=exchange.begun,
                uploads=body is not None,
                request_sent=exchange.request_sent,
            )
        )
        return exchange, answer


class PeerUpload:
    """An upload in progress.

    `answer` gives None when the node has accepted it: a 2xx after the whole body was sent, or at
    any time where it `may_be_early`. It fails with `DestinationUnreachable`, `DestinationRefused`
    (any other answer, whenever it comes), `DestinationDisconnected` (none), and with
    `CancelledError` after `abort`.
    """

    def __init__(
        self, exchange: HttpExchange, answer: Deferred[Answer], *, may_be_early: bool = False
    ) -> None:
        self._exchange = exchange
        self.answer: Deferred[None] = answer.addCallback(judge, may_be_early=may_be_early)

    @property
    def begun(self) -> bool:
        """Whether the node may have the headers."""
        return self._exchange.begun

    @property
    def body_sent(self) -> bool:
        """Whether the last byte was handed over for sending: before, the node cannot have all."""
        return self._exchange.request_sent

    def abort(self) -> None:
        """Close the connection at once."""
        self._exchange.abort(CancelledError())


def _listed(body: bytes) -> list[str]:
    """Return the features in the body of an answer."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return []
    listed = found.get("features") if isinstance(found, dict) else None
    if not isinstance(listed, list):
        return []
    return [each for each in listed if isinstance(each, str)]
