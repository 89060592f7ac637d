"""The address of another node: how it is connected to, and why that fails, for people."""

from __future__ import annotations

from typing import NoReturn
from urllib.parse import SplitResult, urlsplit

import attrs
import h11
from OpenSSL import SSL
from twisted.internet.defer import CancelledError
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost, DNSLookupError
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.error import TimeoutError as TimedOut
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.python.failure import Failure

from wingsd.panel.http_client import MAX_HEAD
from wingsd.transfers.errors import (
    DestinationDisconnected,
    DestinationUnreachable,
    InvalidDestination,
)
from wingsd.transfers.peer.answers import MAX_QUOTE, plain
from wingsd.transfers.peer.tls import PeerTls, PeerVerifier
from wingsd.util.reactor import Reactor

__all__ = ["CONNECT_WITHIN", "PeerAddress", "Route"]

#: Seconds to connect in, TLS included; for a question, to be answered in.
CONNECT_WITHIN = 30
PORTS = {"http": 80, "https": 443}
#: What to do when there is no connection.
HINTS: tuple[tuple[type[Exception], str], ...] = (
    (DNSLookupError, "the name {host} is not known; correct it {there}, or this node's DNS"),
    (Refused, "nothing listens at {address}; start that node, or correct its port {there}"),
    (TimedOut, "{address} is silent; let this node through the firewall in front of it"),
    (ConnectError, "there is no way to {address} ({error}); see this node's network"),
    (ConnectionDone, "{address} closed the connection before anything could be sent"),
    (ConnectionLost, "{address} closed the connection before anything could be sent"),
)


@attrs.frozen(eq=False, repr=False)
class Route:
    """How one connection is made: the endpoint, and what verifies the other node; None of HTTP."""

    endpoint: IStreamClientEndpoint
    verifier: PeerVerifier | None


class PeerAddress:
    """The node at `url`. `source` is where the address was given, and can be corrected."""

    def __init__(self, url: str, reactor: Reactor, tls: PeerTls, source: str) -> None:
        """Raise `BadRequest` for an invalid URL.

        Raises `DestinationUnreachable` when the certificates to trust cannot be read.
        """
        self._url = _parse(url)
        self._host = self._url.hostname or ""
        self._reactor = reactor
        self._source = source
        self._context = tls.context() if self._url.scheme == "https" else None

    @property
    def netloc(self) -> str:
        """Host and port, as in the URL."""
        return self._url.netloc

    def target(self, below: str = "") -> str:
        """Return the target of a request: the URL's path with its query, or what is below it."""
        path = self._url.path
        if below:
            return path.rstrip("/") + below
        return (path or "/") + (f"?{self._url.query}" if self._url.query else "")

    def route(self) -> Route:
        """Return how the next connection is made."""
        port = self._url.port or PORTS[self._url.scheme]
        endpoint: IStreamClientEndpoint = HostnameEndpoint(
            self._reactor, self._host, port, CONNECT_WITHIN
        )
        if self._context is None:
            return Route(endpoint, None)
        verifier = PeerVerifier(self._context, self._host)
        return Route(wrapClientTLS(verifier, endpoint), verifier)

    def explain(
        self,
        failure: Failure,
        verifier: PeerVerifier | None,
        *,
        begun: bool,
        uploads: bool,
        request_sent: bool,
    ) -> NoReturn:
        """Raise the error for the reason that there is no answer.

        `begun` is whether the node may have some of the request, `uploads` whether that has a
        large body.
        """
        error = failure.value
        if isinstance(error, CancelledError | DestinationUnreachable):
            raise error
        if begun:
            reason = _ending(error)
            if self._context is None and not uploads:
                reason += "; if it serves TLS, its address begins with https://"
            sent = uploads and request_sent
            raise DestinationDisconnected(reason, body_sent=sent) from error
        if verifier is not None and verifier.fault is not None:
            raise verifier.fault from error
        raise DestinationUnreachable(
            "the destination node cannot be reached",
            _why_unreachable(error, self._host, self._url.netloc, self._source),
        ) from error


def _parse(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        fault = _fault(url, parts, parts.port)
    except ValueError as error:  # of brackets or of the port
        fault = str(error)
    if fault:
        raise InvalidDestination(
            "the destination's URL is invalid", f"{url[:MAX_QUOTE]!r}: {fault}"
        )
    return parts


def _fault(url: str, parts: SplitResult, port: int | None) -> str:
    if parts.scheme not in PORTS or not parts.hostname:
        return "it must be an http or https URL with a host"
    if port == 0:
        return "nothing listens at port 0"
    if parts.username is not None:
        return "it must not have a user in it"
    if not url.isascii() or not url.isprintable() or " " in url:
        return "write it in ASCII alone, an international name in its xn-- form"
    return ""


def _ending(error: object) -> str:
    match error:
        case ConnectionDone():
            return "it closed the connection"
        case ConnectionLost():
            return "the connection to it broke"
        case TimedOut():
            return str(error.args[0])
        case h11.RemoteProtocolError(error_status_hint=431):
            return f"the headers of its answer are longer than {MAX_HEAD // 1024} KiB"
        case h11.RemoteProtocolError():
            return f"what it said is not HTTP ({error})"
    return plain(str(error)) or type(error).__name__


def _why_unreachable(error: object, host: str, address: str, source: str) -> str:
    if isinstance(error, SSL.Error):
        reason = "; ".join(each[-1] for each in error.args[0]) if error.args else ""
        return (
            f"there is no TLS at {address} that this node can speak ({reason or 'no reason'}); "
            "see whether that is the node's port, and whether it serves HTTPS there"
        )
    for kind, hint in HINTS:
        if isinstance(error, kind):
            return hint.format(host=host, address=address, error=error, there=source)
    return f"{address}: {plain(str(error)) or type(error).__name__}"
