"""A server's process in its container: its output, usage and end go to its watcher.

Its console lasts as long as it runs, so it is a connection of the reactor, without a thread. So
are the engine's statistics, where control groups cannot be read (`docker.cgroups`). Data is passed
on at once, in the pieces it is received in.

The connection to a console can break while the server runs, as when the engine is restarted with
`live-restore`. It is then made again; only an answer of the engine that the container is stopped
or gone counts as the end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import attrs
from docker.errors import DockerException
from docker.tls import TLSConfig
from docker.utils import parse_host
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    PrivateCertificate,
    optionsForClientTLS,
)
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from wingsd.docker import engine
from wingsd.docker.async_engine import AsyncEngine, EngineSession
from wingsd.docker.cgroups import KILLED, Meter, Readings, throttled_seconds
from wingsd.docker.engine import parse_time
from wingsd.docker.runtime import (
    ContainerState,
    ContainerUsage,
    DiskIo,
    NetworkUsage,
    Watcher,
)
from wingsd.errors import EnvironmentFailed
from wingsd.util.deferreds import failure_logger
from wingsd.util.reactor import Reactor
from wingsd.util.retry import Backoff

T = TypeVar("T")

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
    """Return the usage of a container that was started then; None when it does not run.

    The arithmetic is that of Wings (its `environment/docker/stats.go`) and of `docker stats`, so
    that a Panel shows the usual figures.
    """
    read = parse_time(sample.get("read"))
    if read is None:
        return None
    memory, cpu = sample.get("memory_stats") or {}, sample.get("cpu_stats") or {}
    networks = [network or {} for network in (sample.get("networks") or {}).values()]
    totals = ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets")
    moved = _disk(sample, "io_service_bytes_recursive")
    operations = _disk(sample, "io_serviced_recursive")
    throttling = cpu.get("throttling_data") or {}
    return ContainerUsage(
        memory_bytes=_memory(memory),
        memory_limit_bytes=_count(memory, "limit"),
        cpu_absolute=_cpu(sample.get("precpu_stats") or {}, cpu),
        network=(
            NetworkUsage(*(sum(_count(each, name) for each in networks) for name in totals))
            if networks
            else None
        ),
        disk_io=moved and DiskIo(*moved),
        uptime=max((read - started) // timedelta(milliseconds=1), 0) if started else 0,
        cpu_seconds=_count(_cpu_usage(cpu), "total_usage") / 1e9 if _cpu_usage(cpu) else None,
        throttled_seconds=(
            throttled_seconds(
                _count(throttling, "throttled_time") / 1e9, _count(throttling, "throttled_periods")
            )
            if throttling
            else None
        ),
        # Only version 1 has it.
        memory_peak_bytes=_count(memory, "max_usage") or None,
        disk_operations=operations,
        processes=_count(sample.get("pids_stats") or {}, "current") or None,
    )


def _count(of: Mapping[str, Any], name: str) -> int:
    return int(of.get(name) or 0)


def _disk(sample: Mapping[str, Any], name: str) -> tuple[int, int] | None:
    """Return a count of reading and one of writing, of all disks; None without such counts."""
    counts = (sample.get("blkio_stats") or {}).get(name)
    if not counts:
        return None
    # `Read` in cgroup v1, `read` in v2.
    read, written = (
        sum(_count(of, "value") for of in counts if of.get("op", "").lower() == operation)
        for operation in ("read", "write")
    )
    return read, written


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
    used = _count(_cpu_usage(now), "total_usage") - _count(_cpu_usage(before), "total_usage")
    passed = _count(now, "system_cpu_usage") - _count(before, "system_cpu_usage")
    if used <= 0 or passed <= 0:
        return 0.0
    cores = _count(now, "online_cpus") or len(_cpu_usage(now).get("percpu_usage") or ()) or 1
    return round(used / passed * cores * 100, 3)


def _cpu_usage(cpu: Mapping[str, Any]) -> Mapping[str, Any]:
    return cpu.get("cpu_usage") or {}


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
        self._http = HTTPClient(Agent.usingEndpointFactory(reactor, endpoints, pool))

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
        cert, key = (Path(path).read_bytes() for path in tls.cert)
        ours = PrivateCertificate.loadPEM(cert + b"\n" + key)
    if not tls.verify:
        return ours.options() if ours else CertificateOptions()
    authority = Certificate.loadPEM(Path(tls.ca_cert).read_bytes()) if tls.ca_cert else None
    return optionsForClientTLS(host, authority, ours)


# Seconds between tries: an engine tells of a container's end some milliseconds after its console
# has ended, while one that is upgraded may be away for minutes.
BACKOFF = Backoff(0.1, 3.0, factor=1.5)
#: Seconds after which things count as well again.
STEADY = 30.0


@attrs.define
class _Pauses:
    """Pauses that grow as long as one follows another."""

    _reactor: IReactorTime
    _pauses: Iterator[float] = attrs.field(factory=lambda: iter(BACKOFF))
    _last: float = 0.0

    def pause(self) -> Deferred[None]:
        now = self._reactor.seconds()
        if now - self._last > STEADY:
            self._pauses = iter(BACKOFF)
        seconds = next(self._pauses)
        self._last = now + seconds
        return deferLater(self._reactor, seconds)


@attrs.define(eq=False)
class ContainerProcess:
    """The `Running` of a container, begun by `start` or `join`."""

    _log = Logger()

    _uuid: str
    #: The container's id: one of the same name may take its place.
    _container: str
    _watcher: Watcher
    _engine: AsyncEngine
    _streams: ContainerStreams
    _readings: Readings
    _reactor: IReactorTime
    #: Whether the engine did not answer at some time since `follow`.
    was_lost: bool = attrs.field(default=False, init=False)
    _console: Stream | None = attrs.field(default=None, init=False)
    _watching: Deferred[None] | None = attrs.field(default=None, init=False)
    _measuring: Deferred[None] | None = attrs.field(default=None, init=False)
    #: None where its control group is not read, or not yet.
    _meter: Meter | None = attrs.field(default=None, init=False)

    async def attach(self) -> None:
        """Connect to the console: output from now on goes to the watcher.

        Raises `EnvironmentFailed`.
        """
        output = partial(self._notify, self._watcher.output)
        self._console = await self._streams.console(self._container, output)

    async def start(self, session: EngineSession) -> None:
        """Attach, start the container and follow it; nothing is attached when that fails.

        Raises `EnvironmentFailed`.
        """
        await self._attached(session, engine.start_container)
        self.follow()

    async def join(self, session: EngineSession) -> bool:
        """Attach to a running container and follow it; return whether it still runs then.

        Raises `EnvironmentFailed`.
        """
        # An end before the attachment would not be noticed later.
        now = await self._attached(session, engine.look)
        if now is None or not now.running:
            self.detach()
            return False
        self.follow()
        return True

    async def _attached(
        self, session: EngineSession, work: Callable[[engine.DockerClient, str], T]
    ) -> T:
        await self.attach()
        try:
            return await session.call(work, self._container)
        except BaseException:
            self.detach()
            raise

    def follow(self) -> None:
        """Watch the process until its end. It must run, and be attached to."""
        failed = failure_logger(self._log, "{server}: no longer watched", server=self._uuid)
        self._measuring = Deferred.fromCoroutine(self._measure()).addErrback(failed)
        self._watching = Deferred.fromCoroutine(self._watch()).addErrback(failed)

    # Running

    async def command(self, line: str) -> None:
        """Type a line into the console; return when the server's terminal has read it."""
        typed = f"{line}\n".encode(errors="replace")
        async with self._engine.exclusive_session(f"console of {self._container}") as session:
            await self._engine.console_writers.run(
                session.call, engine.type_line, self._container, typed
            )

    async def signal(self, name: str) -> None:
        """Send a signal, by name, if the process has not ended."""
        async with self._engine.session() as session:
            await session.call(engine.send_signal, self._container, name)

    async def stop(self) -> None:
        """Send the stop signal that the image names, by default SIGTERM."""
        async with self._engine.session() as session:
            await session.call(engine.stop_container, self._container)

    async def kill(self) -> None:
        """Send SIGKILL."""
        await self.signal("SIGKILL")

    def detach(self) -> None:
        """End the connections; the watcher gets nothing more."""
        for task in (self._watching, self._measuring):
            if task is not None:
                task.cancel()
        self._close_console()

    # Watching

    async def _watch(self) -> None:
        losses = _Pauses(self._reactor)
        state = None
        while self._console is not None:
            await self._console.over
            state = await self._resume(losses)
        if self._measuring is not None:
            self._measuring.cancel()
        status = state.exit_status if state else None
        out_of_memory, of_node = bool(state and state.out_of_memory), False
        if self._meter is None:
            # The engine says so, too, of a container that went on after the kill of a process.
            out_of_memory = out_of_memory and status == KILLED
        else:
            out_of_memory, of_node = await self._readings.cause(
                self._meter, status, reported=out_of_memory
            )
        ended = partial(self._watcher.ended, out_of_memory=out_of_memory, of_node=of_node)
        self._notify(ended, status)

    async def _resume(self, losses: _Pauses) -> ContainerState | None:
        """Attach to the console again, unless the container has ended; return its state then."""
        self._console = None
        pauses = _Pauses(self._reactor)
        logged = False
        while True:
            try:
                state = await self._attach_again(losses)
            except EnvironmentFailed as error:
                self._close_console()
                self.was_lost = True
                if not logged:
                    self._log.warn(
                        "{server}: its console is disconnected: {error}",
                        server=self._uuid,
                        error=error,
                    )
                logged = True
                await pauses.pause()
                continue
            if logged:
                self._log.info("{server}: its console is connected again", server=self._uuid)
            return state

    async def _attach_again(self, losses: _Pauses) -> ContainerState | None:
        state = await self._look()
        if state is None or not state.running:
            return state
        # Short after a first loss: every line that is written meanwhile is lost.
        await losses.pause()
        await self.attach()
        # It may have ended meanwhile, and a console attached after that never ends.
        state = await self._look()
        if state is None or not state.running:
            self._close_console()
        return state

    async def _measure(self) -> None:
        pauses = _Pauses(self._reactor)
        while True:
            try:
                await self._measure_once()
            except EnvironmentFailed as error:
                self._log.debug("{server}: not measured: {error}", server=self._uuid, error=error)
            await pauses.pause()

    async def _measure_once(self) -> None:
        state = await self._look()
        if state is None or not state.running:
            return
        meter = await self._readings.meter(state)
        if meter is not None:
            self._meter = meter
            await self._readings.follow(meter, partial(self._notify, self._watcher.usage))
            return
        started, samples = state.started, Samples()

        def take(data: bytes) -> None:
            for sample in samples.feed(data):
                used = usage(sample, started)
                if used is not None:
                    self._notify(self._watcher.usage, used)

        stream = await self._streams.stats(self._container, take)
        try:
            await stream.over
        finally:
            stream.close()

    async def _look(self) -> ContainerState | None:
        async with self._engine.session() as session:
            return await session.call(engine.look, self._container)

    def _close_console(self) -> None:
        console, self._console = self._console, None
        if console is not None:
            console.close()

    def _notify(self, watcher: Callable[[Any], None], what: Any) -> None:
        # A failing watcher must still get the next piece.
        try:
            watcher(what)
        except Exception:
            self._log.failure(
                "{server}: an event of its container was not handled", server=self._uuid
            )
