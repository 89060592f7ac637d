"""Streams from the Docker engine: a container's console, and its statistics.

The arithmetic of statistics is that of Wings (its `environment/docker/stats.go`) and of `docker
stats`, so that a Panel shows the usual figures.

The streams last as long as a server runs, so each is a connection of the reactor, without a
thread. Data is passed on at once, in the pieces it is received in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from docker.errors import DockerException
from docker.tls import TLSConfig
from docker.utils import parse_host
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    PrivateCertificate,
    optionsForClientTLS,
)
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from wingsd.docker import engine
from wingsd.docker.engine import parse_time
from wingsd.docker.runtime import ContainerUsage
from wingsd.errors import EnvironmentFailed
from wingsd.util.reactor import Reactor

if TYPE_CHECKING:
    from treq.client import HTTPClient

__all__ = ["ContainerStreams", "Samples", "Stream", "usage"]

#: Bytes of a sample; that of a host with many cores has some ten thousand.
MAX_SAMPLE = 1024 * 1024


class Samples:
    """Parses a stream of samples, one line of JSON each, from pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Yield the samples that are complete with `data`; an invalid line is ignored."""
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest if len(rest) <= MAX_SAMPLE else b""
        for line in lines:
            try:
                sample = json.loads(line)
            except ValueError:
                continue
            if isinstance(sample, dict):
                yield sample


def usage(sample: Mapping[str, Any], started: datetime | None) -> ContainerUsage | None:
    """Return the usage of a container that was started then; None when it does not run."""
    read = parse_time(sample.get("read"))
    if read is None:
        return None
    memory = sample.get("memory_stats") or {}
    networks = [network or {} for network in (sample.get("networks") or {}).values()]
    return ContainerUsage(
        memory_bytes=_memory(memory),
        memory_limit_bytes=_count(memory, "limit"),
        cpu_absolute=_cpu(sample.get("precpu_stats") or {}, sample.get("cpu_stats") or {}),
        rx_bytes=sum(_count(network, "rx_bytes") for network in networks),
        tx_bytes=sum(_count(network, "tx_bytes") for network in networks),
        rx_packets=sum(_count(network, "rx_packets") for network in networks),
        tx_packets=sum(_count(network, "tx_packets") for network in networks),
        uptime=max((read - started) // timedelta(milliseconds=1), 0) if started else 0,
        disk_read_bytes=_disk_io(sample, "read"),
        disk_written_bytes=_disk_io(sample, "write"),
    )


def _count(of: Mapping[str, Any], name: str) -> int:
    return int(of.get(name) or 0)


def _disk_io(sample: Mapping[str, Any], operation: str) -> int:
    """Return the bytes that an operation has moved on all disks."""
    counters = (sample.get("blkio_stats") or {}).get("io_service_bytes_recursive") or ()
    # `Read` in cgroup v1, `read` in v2.
    return sum(_count(of, "value") for of in counters if of.get("op", "").lower() == operation)


def _memory(memory: Mapping[str, Any]) -> int:
    """Return the bytes in use, without the part of the file cache that can be dropped."""
    used = _count(memory, "usage")
    details = memory.get("stats") or {}
    # The names of cgroup v1 and v2. v1 has both, and its second excludes child cgroups.
    for name in ("total_inactive_file", "inactive_file"):
        if name in details and _count(details, name) < used:
            return used - _count(details, name)
    return used


def _cpu(before: Mapping[str, Any], now: Mapping[str, Any]) -> float:
    """Return the percentage of one core that was used between two samples."""
    used = _cpu_time(now) - _cpu_time(before)
    passed = _count(now, "system_cpu_usage") - _count(before, "system_cpu_usage")
    if used <= 0 or passed <= 0:
        return 0.0
    cores = _count(now, "online_cpus") or len(_cpu_usage(now).get("percpu_usage") or ()) or 1
    return round(used / passed * cores * 100, 3)


def _cpu_usage(cpu: Mapping[str, Any]) -> Mapping[str, Any]:
    return cpu.get("cpu_usage") or {}


def _cpu_time(cpu: Mapping[str, Any]) -> int:
    return _count(_cpu_usage(cpu), "total_usage")


#: Seconds within which the engine must begin a stream.
TIMEOUT = 30

_UNIX = "http+unix://"

# Twisted's factory logs two lines for each connection.
_QuietFactory: Any = type("_QuietFactory", (HTTPConnectionPool._factory,), {"noisy": False})


class Stream(Protocol):
    """One stream; `over` fires when it has ended, for any reason."""

    def __init__(self, take: Callable[[bytes], object]) -> None:
        self._take = take
        self.over: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        """Pass a piece on."""
        self._take(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Fire `over`."""
        self.over.callback(None)

    def close(self) -> None:
        """Pass nothing more on, and close the connection."""
        self._take = len
        if self.transport is not None:
            self.transport.loseConnection()


class ContainerStreams:
    """The streams of the engine at `address`."""

    def __init__(self, reactor: Reactor, address: str) -> None:
        self._reactor = reactor
        self._address = address
        pool = HTTPConnectionPool(reactor, persistent=False)
        pool._factory = _QuietFactory
        endpoints = _Endpoints(reactor, address)
        self._agent = Agent.usingEndpointFactory(reactor, endpoints, pool)

    @cached_property
    def _http(self) -> HTTPClient:
        # Here, since a node that runs no servers saves the 5 ms that treq takes.
        from treq.client import HTTPClient  # noqa: PLC0415

        return HTTPClient(self._agent)

    async def console(self, container: str, take: Callable[[bytes], object]) -> Stream:
        """Attach to a container, started or not, and call `take` with its output.

        Raises `EnvironmentFailed`.
        """
        path = f"/containers/{container}/attach?stream=1&stdout=1&stderr=1"
        return await self._open("POST", path, take)

    async def stats(self, container: str, take: Callable[[bytes], object]) -> Stream:
        """Call `take` with a container's statistics, every second: lines of JSON, in pieces.

        Raises `EnvironmentFailed`.
        """
        return await self._open("GET", f"/containers/{container}/stats?stream=1", take)

    async def _open(self, method: str, path: str, take: Callable[[bytes], object]) -> Stream:
        try:
            response = await self._within(
                self._http.request(method, f"http://engine{path}", unbuffered=True)
            )
            if response.code == HTTPStatus.OK:
                stream = Stream(take)
                response.deliverBody(stream)
                return stream
            why = await self._within(response.text())
        except Exception as error:
            if _cancelled(error):
                raise CancelledError from error
            raise EnvironmentFailed(
                f"the Docker engine at {self._address} does not answer: {_explain(error)}"
            ) from error
        raise EnvironmentFailed(f"Docker refuses: {why.strip()}")

    def _within(self, waiting: Deferred[Any]) -> Deferred[Any]:
        return waiting.addTimeout(TIMEOUT, self._reactor, _timed_out)


def _timed_out(_: object, seconds: float) -> None:
    raise TimeoutError(f"no answer within {seconds:g} s")


def _reasons(error: BaseException) -> list[BaseException]:
    """Return the errors that a connection ended with, which twisted.web wraps."""
    return [reason.value for reason in getattr(error, "reasons", ())] or [error]


def _cancelled(error: BaseException) -> bool:
    kinds = (CancelledError, ConnectingCancelledError)
    return any(isinstance(reason, kinds) for reason in _reasons(error))


def _explain(error: BaseException) -> str:
    return "; ".join(engine.explain(reason) for reason in _reasons(error))


@implementer(IAgentEndpointFactory)
class _Endpoints:
    """The engine's address as an endpoint, parsed as by docker-py."""

    def __init__(self, reactor: Reactor, address: str) -> None:
        self._reactor = reactor
        self._address = address

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """Return the engine's endpoint for any `uri`."""
        tls = engine.tls_config()
        address: Any = parse_host(self._address, tls=tls is not None)
        if address.startswith(_UNIX):
            path = address.removeprefix(_UNIX)
            return UNIXClientEndpoint(self._reactor, path if path[:1] == "/" else f"/{path}")
        url = urlsplit(address)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise DockerException("docker.socket must be a path, unix://PATH or tcp://HOST:PORT")
        endpoint = HostnameEndpoint(self._reactor, url.hostname, url.port or 0)
        if url.scheme == "http":
            return endpoint
        return wrapClientTLS(_tls_options(url.hostname, tls or TLSConfig()), endpoint)


def _tls_options(host: str, tls: TLSConfig) -> Any:
    """Return the client's certificate and the verification of the engine's, as in docker-py."""
    ours = None
    if tls.cert:
        cert, key = (_read(path) for path in tls.cert)
        ours = PrivateCertificate.loadPEM(cert + b"\n" + key)
    if not tls.verify:
        return ours.options() if ours else CertificateOptions()
    authority = Certificate.loadPEM(_read(tls.ca_cert)) if tls.ca_cert else None
    return optionsForClientTLS(host, authority, ours)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
