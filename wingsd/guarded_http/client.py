"""A client for addresses that users give: what is connected to, and how much is received.

Of each URL, those of redirects included, the name is resolved once, and the addresses that the
policy allows are connected to: no second answer of a name server counts. A request has no
credentials, no proxy and no cookie, and its answer no encoding.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from ipaddress import ip_address

import attrs
import h11
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.error import TimeoutError as TimedOut
from twisted.internet.interfaces import IConsumer, IDelayedCall, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from wingsd.errors import AddressBlocked, DownloadFailed, TooManyRedirects, UrlInvalid
from wingsd.guarded_http.exchange import GuardedExchange
from wingsd.guarded_http.limits import FetchLimits
from wingsd.guarded_http.policy import AddressPolicy
from wingsd.guarded_http.resolver import Resolve
from wingsd.guarded_http.tls import CertificateCheck
from wingsd.guarded_http.urls import WebUrl, text_of
from wingsd.util.certificates import system_trust
from wingsd.util.reactor import Reactor
from wingsd.util.text import escaped, readable_time

__all__ = ["GuardedAnswer", "GuardedClient"]

#: Addresses of one name that are tried.
_TRIED = 4
_WITHOUT_BODY = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
_REDIRECTS = frozenset(
    {
        HTTPStatus.MOVED_PERMANENTLY,
        HTTPStatus.FOUND,
        HTTPStatus.SEE_OTHER,
        HTTPStatus.TEMPORARY_REDIRECT,
        HTTPStatus.PERMANENT_REDIRECT,
    }
)


class GuardedAnswer:
    """An answer: its head, and its body once it is asked for. To be closed.

    `url` is the one that has answered. `length` are the bytes of the body, None if unknown.
    """

    def __init__(
        self, url: WebUrl, head: h11.Response, exchange: GuardedExchange, most: int | None
    ) -> None:
        self.url = url
        self.status = head.status_code
        #: Names in lower case, with values.
        self.headers = [(name.decode("latin-1"), text_of(value)) for name, value in head.headers]
        length = self.header("content-length")
        self.length = int(length) if length.isdigit() else None
        if self.header("transfer-encoding"):  # it counts, and not the length, RFC 9112, 6.3
            self.length = None
        if head.status_code in _WITHOUT_BODY:  # whatever their headers say
            self.length = 0
        self._exchange = exchange
        self._most = most
        self._timer: IDelayedCall | None = None

    def header(self, name: str) -> str:
        """Return the value of the header of that name (in lower case), empty without it."""
        return ", ".join(value for each, value in self.headers if each == name)

    async def deliver(self, consumer: IConsumer) -> None:
        """Write the body to `consumer`, which may pause it. Raises `DownloadFailed`."""
        await self._exchange.deliver(consumer, self._most)

    def close(self) -> None:
        """Close the connection; a body that is being delivered fails."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._exchange.abort()

    def close_within(self, reactor: Reactor, seconds: float, limit: float) -> None:
        """Have the body fail in `seconds`, where the limit of the whole is `limit` seconds."""
        error = DownloadFailed(f"it took longer than {readable_time(limit)}")
        self._timer = reactor.callLater(max(seconds, 0), self._exchange.abort, error)


class GuardedClient:
    """Requests files from addresses that users give."""

    _log = Logger()

    def __init__(
        self,
        reactor: Reactor,
        policy: AddressPolicy,
        user_agent: str,
        resolve: Resolve,
    ) -> None:
        self._reactor = reactor
        self._policy = policy
        self._user_agent = user_agent
        self._resolve = resolve
        self._trust: SSL.Context | None = None

    async def get(
        self, url: str, limits: FetchLimits, *, is_trusted: bool = False
    ) -> GuardedAnswer:
        """Return the answer to GET, after redirects. The caller is to close it.

        The host of a URL that `is_trusted` may have any address; those that it redirects to are
        judged by the policy. The status is any but that of a redirect. Raises `UrlInvalid`,
        `AddressBlocked`, `DownloadFailed` and `TooManyRedirects`.
        """
        begun = self._reactor.seconds()
        following = self._follow(url, limits, is_trusted)
        asked: Deferred[GuardedAnswer] = Deferred.fromCoroutine(following)
        limit = min(limits.answer, limits.total)
        asked.addTimeout(limit, self._reactor)
        try:
            answer = await asked
        except DeferredTimeout as error:
            raise DownloadFailed(f"there was no answer within {readable_time(limit)}") from error
        left = begun + limits.total - self._reactor.seconds()
        answer.close_within(self._reactor, left, limits.total)
        return answer

    async def _follow(self, text: str, limits: FetchLimits, is_trusted: bool) -> GuardedAnswer:
        url, policy = WebUrl.parse(text), self._policy
        if is_trusted:
            policy = attrs.evolve(policy, hosts=policy.hosts | {url.host})
        seen: set[WebUrl] = set()
        while True:
            if url in seen:
                raise TooManyRedirects(f"its redirects lead back to {escaped(str(url))}")
            seen.add(url)
            answer = await self._ask(url, policy, limits)
            if answer.status not in _REDIRECTS or not answer.header("location"):
                return answer
            answer.close()
            if len(seen) > limits.redirects:
                raise TooManyRedirects(
                    f"it redirects more than {limits.redirects} times"
                    if limits.redirects
                    else "it redirects to another URL, and this node follows no redirects"
                )
            url, policy = self._next(url, answer.header("location")), self._policy

    def _next(self, url: WebUrl, location: str) -> WebUrl:
        """Return where a redirect leads. Raises `DownloadFailed`."""
        try:
            found = url.joined(location)
        except UrlInvalid as error:
            raise DownloadFailed(f"it redirects to an invalid URL: {error.reason}") from error
        if url.is_tls and not found.is_tls:
            raise DownloadFailed(
                "it redirects from https to http, where nothing proves that the file is the right "
                "one; use an http URL if you trust the way to it"
            )
        return found

    async def _ask(self, url: WebUrl, policy: AddressPolicy, limits: FetchLimits) -> GuardedAnswer:
        if not (url.has_usual_port or policy.names(url.host)):
            raise UrlInvalid(f"port {url.port} is not one of files; use 80, 443 or one from 1024")
        addresses = await self._addresses(url, policy)
        exchange, head = await self._exchange(url, policy, addresses, limits)
        answer = GuardedAnswer(url, head, exchange, limits.body)
        if answer.header("content-encoding").strip().lower() not in ("", "identity"):
            answer.close()
            coding = escaped(answer.header("content-encoding")[:60])
            raise DownloadFailed(f"it is sent encoded with {coding}, which was not asked for")
        return answer

    async def _addresses(self, url: WebUrl, policy: AddressPolicy) -> list[str]:
        """Return the addresses of the host that may be connected to. Raises `AddressBlocked`."""
        found = [url.host] if _is_address(url.host) else await self._resolve(url.host, url.port)
        if not found:
            raise DownloadFailed(f"no name server knows {url.host}")
        allowed = [each for each in found if policy.allows(url.host, each)]
        if not allowed:
            self._log.info(
                "download refused: {host} is at {addresses}, to which users may not connect "
                "through this node",
                host=url.host,
                addresses=", ".join(found[:_TRIED]),
            )
            raise AddressBlocked(url.host)
        return allowed[:_TRIED]

    async def _exchange(
        self, url: WebUrl, policy: AddressPolicy, addresses: Iterable[str], limits: FetchLimits
    ) -> tuple[GuardedExchange, h11.Response]:
        """Return the first connection that an address accepts, and the answer's head."""
        fault: Exception | None = None
        for address in addresses:
            certificate = CertificateCheck(self._trusted(), url.host) if url.is_tls else None
            exchange = GuardedExchange(
                self._reactor,
                self._request(url),
                lambda peer: policy.check(url.host, peer),
                certificate,
                limits.idle,
            )
            endpoint = self._endpoint(address, url.port, limits.connect)
            if certificate is not None:
                endpoint = wrapClientTLS(certificate, endpoint)
            try:
                await endpoint.connect(_factory(exchange))
            except ConnectError as error:
                fault = error
                continue
            return exchange, await self._head(exchange, url)
        raise DownloadFailed(_unreachable(fault, url.authority)) from fault

    async def _head(self, exchange: GuardedExchange, url: WebUrl) -> h11.Response:
        try:
            return await exchange.head
        except (SSL.Error, ConnectionDone, ConnectionLost) as error:
            what = "TLS could not be set up with" if isinstance(error, SSL.Error) else ""
            text = f"{what} {url.authority}" if what else "it closed the connection unanswered"
            raise DownloadFailed(text) from error

    def _endpoint(self, address: str, port: int, timeout: float) -> IStreamClientEndpoint:
        kind = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
        endpoint: IStreamClientEndpoint = kind(self._reactor, address, port, timeout)
        return endpoint

    def _request(self, url: WebUrl) -> h11.Request:
        headers = [
            ("Host", url.authority),
            ("User-Agent", self._user_agent),
            ("Accept", "*/*"),
            ("Accept-Encoding", "identity"),
            ("Connection", "close"),
        ]
        return h11.Request(method="GET", target=url.target, headers=headers)

    def _trusted(self) -> SSL.Context:
        if self._trust is None:  # reading them takes 10 ms
            self._trust = system_trust()
        return self._trust


def _factory(exchange: GuardedExchange) -> Factory[GuardedExchange]:
    factory: Factory[GuardedExchange] = Factory.forProtocol(lambda: exchange)
    factory.noisy = False
    return factory


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _unreachable(error: Exception | None, where: str) -> str:
    if isinstance(error, Refused):
        return f"no server listens at {where}"
    if isinstance(error, TimedOut):
        return f"{where} does not answer"
    return f"this node has no route to {where}"
