"""Downloads from addresses that users give: the hosts that are allowed, and the limits.

Of each URL, those of redirects included, the name is resolved once, and the addresses that the
policy allows are connected to: no second answer of a name server counts. A request has no
credentials, no proxy and no cookie, and its answer no encoding. Nothing of its body is read ahead
of the consumer but what the transport has read already, so that one of any length takes little
memory and no thread.

Public addresses are allowed, and those that the configuration names. The address that is judged
is the one that is connected to, not a name: the answers of a name server change. The system's
resolver waits for a silent name server for ten seconds and more, and cannot be cancelled. Users
choose the names, so threads of their own look them up: neither the node's own connections nor its
end wait for these.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from functools import cache
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import attrs
import h11
from OpenSSL import SSL
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, fail, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.error import TimeoutError as TimedOut
from twisted.internet.interfaces import (
    IConsumer,
    IPushProducer,
    IStreamClientEndpoint,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from wingsd.errors import AddressBlocked, DownloadFailed, TooManyRedirects, UrlInvalid
from wingsd.http_client.exchange import (
    EXPIRED,
    MAX_HEAD,
    NOT_YET_VALID,
    OTHER_NAME,
    UNTRUSTED,
    CertificateRefused,
    CertificateVerifier,
    HttpExchange,
    system_trust,
)
from wingsd.http_client.urls import WebUrl, text_of
from wingsd.threadio import Workers
from wingsd.util.addresses import Address, Network, parse_network
from wingsd.util.net import are_too_small
from wingsd.util.reactor import Reactor, Timer
from wingsd.util.text import escaped, readable_time

#: Networks of IPv4 that are not on the public Internet, of IANA's registry of special addresses:
#: this network, private ones, those of providers (RFC 6598), loopback, link-local, of protocols
#: and documentation, of relays for 6to4, of benchmarks, multicast, reserved and broadcast.
_NOT_PUBLIC_4 = tuple(
    map(
        parse_network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ),
    )
)
#: All of IPv6 that is assigned for unicast. What is outside is loopback, local, multicast, or has
#: an address of IPv4 in it (mapped, compatible, translated, NAT64).
_UNICAST_6 = parse_network("2000::/3")
#: What of it is not public: of protocols (Teredo among them), documentation, and 6to4, which has
#: any address of IPv4 in it.
_NOT_PUBLIC_6 = tuple(map(parse_network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
#: Whether any address of IPv6 can be bound, not only the host's.
_NON_LOCAL_BIND = Path("/proc/sys/net/ipv6/ip_nonlocal_bind")


def is_public(address: Address) -> bool:
    """Return whether an address is one of the public Internet."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    return address in _UNICAST_6 and not any(address in network for network in _NOT_PUBLIC_6)


def is_of_this_host(address: Address) -> bool:
    """Return whether an interface of this host has the address, also where any can be bound."""
    family = socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            if isinstance(address, IPv4Address):  # which has to be one of an interface
                probe.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, address.packed)
            elif _can_bind_any():
                # RFC 6724, rule 1: to the host's own address from the same; nothing is sent
                probe.connect((str(address), 9))
                return ip_address(probe.getsockname()[0]) == address
            else:
                probe.bind((str(address), 0))
        except OSError:
            return False
    return True


def _can_bind_any() -> bool:
    try:
        return _NON_LOCAL_BIND.read_text().strip() != "0"
    except OSError:
        return False


@attrs.frozen
class AddressPolicy:
    """Allowed addresses: public ones that are neither blocked nor this node's own.

    `hosts` (in lower case) and `networks` are allowed whatever they are, `blocked` are not.
    """

    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    blocked: tuple[Network, ...] = ()

    @classmethod
    def of(cls, allowlist: Iterable[str], blocked: Iterable[str] = ()) -> AddressPolicy:
        """Return the policy of an allowlist of names, addresses and networks.

        Raises `ValueError` for a blocked network that is invalid.
        """
        hosts, networks = set(), []
        for text in allowlist:
            try:
                networks.append(parse_network(text.strip("[]")))
            except ValueError:
                hosts.add(text.lower().rstrip("."))
        return cls(frozenset(hosts), tuple(networks), tuple(map(parse_network, blocked)))

    def names(self, host: str) -> bool:
        """Return whether the host, a name or an address, is in the allowlist."""
        if host in self.hosts:
            return True
        try:
            address = ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self.networks)

    def allows(self, host: str, text: str) -> bool:
        """Return whether the host may be connected to at an address."""
        address = ip_address(text)
        if host in self.hosts or any(address in network for network in self.networks):
            return True
        if any(address in network for network in self.blocked):
            return False
        return is_public(address) and not is_of_this_host(address)

    def check(self, host: str, text: str) -> None:
        """Raise `AddressBlocked` unless the host may be connected to at an address."""
        if not self.allows(host, text):
            raise AddressBlocked(host)


T = TypeVar("T")
#: Names that are looked up at a time; others wait for their turn.
LOOKUPS = 8
#: Addresses of one name that are returned: an answer may have thousands, and each is judged.
MAX_ADDRESSES = 64

Resolve = Callable[[str, int], Deferred[list[str]]]
"""Returns the addresses of a name for connections to a port; none where it is not known."""


def host_resolver(workers: Workers) -> Resolve:
    """Return a resolver that asks the system's in these threads.

    A lookup that is cancelled keeps its turn until the system's resolver returns.
    """
    turns = DeferredSemaphore(LOOKUPS)

    def resolve(host: str, port: int) -> Deferred[list[str]]:
        return turns.acquire().addCallback(lambda _: look_up(host, port))

    def look_up(host: str, port: int) -> Deferred[list[str]]:
        found: Deferred[list[str]] = Deferred()
        looked_up = workers.run(_addresses, host, port)
        looked_up.addBoth(end)
        looked_up.chainDeferred(found)
        return found

    def end(result: T) -> T:
        turns.release()
        return result

    return resolve


def _addresses(host: str, port: int) -> list[str]:
    """Return the addresses of a name, each once. Blocking."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    each_once = dict.fromkeys(str(each[4][0]).partition("%")[0] for each in found)
    return list(islice(each_once, MAX_ADDRESSES))


#: Interim answers (1xx) before the final one.
MAX_INTERIM = 16
#: Bytes a second of a body, on average over the time that may pass between two pieces: who sends
#: less would hold one of few turns for days.
LEAST_PACE = 512
#: Bytes of a block, and of what waits when the other server is held back.
BLOCK = 256 << 10
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
#: The faults of certificates.
_FAULTS = {
    NOT_YET_VALID: "is not valid yet",
    EXPIRED: "has expired",
    **dict.fromkeys(UNTRUSTED, "is of an authority that this node does not trust"),
}


@attrs.frozen
class FetchLimits:
    """Limits of one download, in seconds and bytes.

    `connect` is for each address, `answer` from the beginning to the head of the final answer,
    `idle` between two pieces of the body, `total` for all of it. `redirects` are followed at most.
    `body` are the most bytes of a body, None for those that the answer announces.
    """

    connect: float = 10
    answer: float = 60
    idle: float = 60
    total: float = 12 * 3600
    redirects: int = 10
    body: int | None = None


@implementer(IPushProducer)
@attrs.define(eq=False, repr=False, slots=False)
class GuardedExchange(HttpExchange):
    """A request to `url` without a body, and an answer whose body goes to a consumer.

    `check_peer` is called with the address that was connected to, before anything is sent, and
    raises where it may not be. Between two pieces of the body the idle seconds of `limits` may
    pass, in which `LEAST_PACE` is held; its consumer's time does not count.

    When `head` fires, the answer has its `status`, its `headers`, with names in lower case, and a
    `length`: the bytes of the body, None if unknown. It is to be closed.
    """

    url: WebUrl = attrs.field(kw_only=True)
    _check_peer: Callable[[str], None] = attrs.field(kw_only=True)
    _limits: FetchLimits = attrs.field(kw_only=True)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.head: Deferred[h11.Response] = self.answer
        self.status = 0
        self.length: int | None = None
        self.headers: list[tuple[str, str]] = []
        self._total = Timer(self._reactor)
        self._consumer: Any = None
        self._delivery: Deferred[None] | None = None
        self._received = 0
        self._failure: Failure | None = None
        #: Bytes since the time of silence was begun.
        self._heard = 0

    def header(self, name: str) -> str:
        """Return the value of the header of that name (in lower case), empty without it."""
        return ", ".join(value for each, value in self.headers if each == name)

    def deliver(self, consumer: IConsumer) -> Deferred[None]:
        """Write the body to `consumer`, which may pause it; the Deferred fires at its end.

        Fails with `DownloadFailed`, also for a body beyond the limit.
        """
        if self._failure is not None:
            return fail(self._failure)
        delivery = self._delivery = Deferred(lambda _: self.abort(CancelledError()))
        self._consumer = consumer
        consumer.registerProducer(self, True)
        self.resumeProducing()
        return delivery

    def close(self) -> None:
        """Close the connection; a body that is being delivered fails."""
        self._total.cancel()
        self.abort(CancelledError())

    def close_within(self, seconds: float) -> None:
        """Fail the body after `seconds`, when the time limit of the whole download ends."""
        error = DownloadFailed(f"it took longer than {readable_time(self._limits.total)}")
        self._total.start(max(seconds, 0), self.abort, error)

    # What the transport calls

    def connectionMade(self) -> None:
        """Begin, where the address may be connected to."""
        try:
            self._check_peer(self.transport.getPeer().host)
        except Exception as error:
            self.abort(error)
        else:
            super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        """Parse more of the answer."""
        self._heard += len(data)
        if self._limit.is_running and self._heard >= self._least:
            self._expect_data()
        super().dataReceived(data)

    # What the consumer calls

    def pauseProducing(self) -> None:
        """Hand on nothing more for now."""
        self._paused = True
        self._limit.cancel()
        if self.connected:
            self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Hand on more."""
        self._paused = False
        self._expect_data()
        if self.connected:
            self.transport.resumeProducing()
        self._read()

    def stopProducing(self) -> None:
        """Close at once."""
        self.abort(CancelledError())

    # Sending and reading

    def _begin(self) -> None:
        # Not as a producer of the transport: this is one of what is received.
        self._send(self._request)
        self._end_request()

    def _take(self, event: object) -> None:
        match event:
            case h11.InformationalResponse():
                self._interim += 1
                if self._interim > MAX_INTERIM:
                    what = f"it sent more than {MAX_INTERIM} interim answers (1xx)"
                    self.abort(DownloadFailed(what))
            case h11.Response():
                self._note_head(event)
                self.pauseProducing()
                self.head.callback(event)
            case h11.Data():
                self._received += len(event.data)
                self._pieces += 1
                if are_too_small(self._pieces, self._received):
                    self.abort(DownloadFailed("it is sent in pieces of a few bytes"))
                elif (most := self._limits.body) is not None and self._received > most:
                    self.abort(DownloadFailed(f"it sent more than {most} bytes"))
                else:
                    self._consumer.write(bytes(event.data))
            case h11.EndOfMessage():
                self._finish(None)

    def _note_head(self, head: h11.Response) -> None:
        self._head, self.status = head, head.status_code
        self.headers = [(name.decode("latin-1"), text_of(value)) for name, value in head.headers]
        length = self.header("content-length")
        self.length = int(length) if length.isdigit() else None
        if self.header("transfer-encoding"):  # it counts, and not the length, RFC 9112, 6.3
            self.length = None
        if self.status in _WITHOUT_BODY:  # whatever their headers say
            self.length = 0

    def _refuse(self, error: h11.RemoteProtocolError) -> None:
        if error.error_status_hint == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
            what = f"the headers of its answer are longer than {MAX_HEAD // 1024} KiB"
        elif self._lost is None:
            what = f"its answer is not HTTP ({error})"
        elif self._head is None:
            what = "it closed the connection without an answer of HTTP"
        else:
            what = "the connection ended before the file did"
        self.abort(DownloadFailed(what))

    # Ending

    def _conclude(self, *, whole: bool = False) -> None:
        """Leave what has been received to the consumer, which has paused this."""

    def _fail(self, reason: Failure) -> None:
        self._finish(reason)

    def _finish(self, failure: Failure | None) -> None:
        """Close, and end what waits for the head or the body; None is the end of the body."""
        if self._over:
            return
        self._failure = failure
        self._end()
        if failure is None and self.connected:
            self.transport.abortConnection()
        if self._consumer is not None:
            self._consumer.unregisterProducer()
        waiting: Deferred[Any] | None = self._delivery if self._head is not None else self.head
        if waiting is not None and not waiting.called:
            waiting.callback(None) if failure is None else waiting.errback(failure)

    def _expect_data(self) -> None:
        self._heard = 0
        if not self._over:
            self._limit.start(self._limits.idle, self._time_out)

    def _time_out(self) -> None:
        within = readable_time(self._limits.idle)
        if self._heard:
            what = f"it sent less than {self._least / 1024:.0f} KiB in {within}"
        else:
            what = f"it sent nothing for {within}"
        self.abort(DownloadFailed(what))

    @property
    def _least(self) -> float:
        return LEAST_PACE * self._limits.idle


@implementer(IConsumer)
class BodyBlocks:
    """The body of one answer."""

    def __init__(self, answer: GuardedExchange) -> None:
        self._answer = answer
        self._producer: Any = None
        # One buffer: pieces may be of two bytes each, which take 20 times as much as objects.
        self._waiting = bytearray()
        self._began = self._is_over = False
        self._failure: Failure | None = None
        #: Fires when there is a block, or the end.
        self._asked: Deferred[None] = succeed(None)

    async def next(self) -> bytes:
        """Return the next block, empty at the end; it may be cancelled.

        Raises `DownloadFailed`.
        """
        if len(self._waiting) < BLOCK and not self._is_over:
            self._asked = Deferred()
            if not self._began:
                self._began = True
                self._answer.deliver(self).addBoth(self._end)
            elif self._producer is not None:
                self._producer.resumeProducing()
            await self._asked
        if self._failure is not None:
            self._failure.raiseException()
        data = bytes(self._waiting)
        self._waiting.clear()
        return data

    # What the answer calls

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Take what is paused."""
        self._producer = producer

    def unregisterProducer(self) -> None:
        """Forget it."""
        self._producer = None

    def write(self, data: bytes) -> None:
        """Take a piece of the body."""
        self._waiting += data
        if len(self._waiting) >= BLOCK:
            self._producer.pauseProducing()
            self._wake()

    def _end(self, result: Failure | None) -> None:
        self._is_over, self._failure = True, result
        self._wake()

    def _wake(self) -> None:
        if not self._asked.called:
            self._asked.callback(None)


@attrs.define(eq=False, repr=False, slots=False)
class GuardedClient:
    """Requests files from addresses that users give."""

    _log = Logger()

    _reactor: Reactor
    _policy: AddressPolicy
    _user_agent: str
    _resolve: Resolve

    def __attrs_post_init__(self) -> None:
        self._trust = cache(system_trust)  # reading them takes 10 ms

    async def get(
        self, url: str, limits: FetchLimits, *, is_trusted: bool = False
    ) -> GuardedExchange:
        """Return the answer to GET, after redirects. The caller is to close it.

        The host of a URL that `is_trusted` may have any address; those that it redirects to are
        judged by the policy. The status is any but that of a redirect. Raises `UrlInvalid`,
        `AddressBlocked`, `DownloadFailed` and `TooManyRedirects`.
        """
        begun = self._reactor.seconds()
        following = self._follow(url, limits, is_trusted)
        asked: Deferred[GuardedExchange] = Deferred.fromCoroutine(following)
        limit = min(limits.answer, limits.total)
        asked.addTimeout(limit, self._reactor)
        try:
            answer = await asked
        except DeferredTimeout as error:
            raise DownloadFailed(f"there was no answer within {readable_time(limit)}") from error
        answer.close_within(begun + limits.total - self._reactor.seconds())
        return answer

    async def _follow(self, text: str, limits: FetchLimits, is_trusted: bool) -> GuardedExchange:
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

    async def _ask(
        self, url: WebUrl, policy: AddressPolicy, limits: FetchLimits
    ) -> GuardedExchange:
        if not (url.has_usual_port or policy.names(url.host)):
            raise UrlInvalid(f"port {url.port} is not one of files; use 80, 443 or one from 1024")
        addresses = await self._addresses(url, policy)
        answer = await self._exchange(url, policy, addresses, limits)
        if answer.header("content-encoding").strip().lower() not in ("", "identity"):
            answer.close()
            coding = escaped(answer.header("content-encoding")[:60])
            raise DownloadFailed(f"it is sent encoded with {coding}, which was not asked for")
        return answer

    async def _addresses(self, url: WebUrl, policy: AddressPolicy) -> list[str]:
        """Return the addresses of the host that may be connected to. Raises `AddressBlocked`."""
        is_address = isIPAddress(url.host) or isIPv6Address(url.host)
        found = [url.host] if is_address else await self._resolve(url.host, url.port)
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
    ) -> GuardedExchange:
        """Return the answer, on the first connection that an address accepts."""
        headers = [
            ("Host", url.authority),
            ("User-Agent", self._user_agent),
            ("Accept", "*/*"),
            ("Accept-Encoding", "identity"),
            ("Connection", "close"),
        ]
        fault: Exception | None = None
        for address in addresses:
            certificate = CertificateVerifier(self._trust(), url.host) if url.is_tls else None
            exchange = GuardedExchange(
                self._reactor,
                h11.Request(method="GET", target=url.target, headers=headers),
                url=url,
                check_peer=lambda peer: policy.check(url.host, peer),
                certificate=certificate,
                limits=limits,
            )
            kind = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
            endpoint: IStreamClientEndpoint = kind(
                self._reactor, address, url.port, limits.connect
            )
            try:
                await exchange.start(endpoint, None)
            except ConnectError as error:
                fault = error
            except (CertificateRefused, SSL.Error, ConnectionDone, ConnectionLost) as error:
                raise DownloadFailed(_why_unanswered(error, url)) from error
            else:
                return exchange
        raise DownloadFailed(_unreachable(fault, url.authority)) from fault


def _unreachable(error: Exception | None, where: str) -> str:
    if isinstance(error, Refused):
        return f"no server listens at {where}"
    if isinstance(error, TimedOut):
        return f"{where} does not answer"
    return f"this node has no route to {where}"


def _why_unanswered(error: Exception, url: WebUrl) -> str:
    if isinstance(error, CertificateRefused):
        if error.code == OTHER_NAME:
            return f"the certificate of {url.host} is for another name"
        unknown = f"is refused by OpenSSL (verification error {error.code})"
        return f"the certificate of {url.host} {_FAULTS.get(error.code, unknown)}"
    if isinstance(error, SSL.Error):
        return f"TLS could not be set up with {url.authority}"
    return "it closed the connection unanswered"
