"""`twistd wingsd`: the command's options, and where everything is made and wired together."""

from __future__ import annotations

import pwd
import signal
from typing import Any, ClassVar

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore, maybeDeferred
from twisted.internet.endpoints import quoteStringArgument, serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.python.usage import Options as UsageOptions

from wingsd import __version__
from wingsd.bridge import Workers
from wingsd.config import DEFAULT_PATH, Config, load
from wingsd.environment import DockerEnvironment, Environment, NoEnvironment
from wingsd.errors import ConfigError, StorageError
from wingsd.events import EventBus
from wingsd.panel import Panel
from wingsd.tls import ServerCertificate
from wingsd.transfers.incoming import Means
from wingsd.transfers.receiver import Receiver
from wingsd.transfers.staging import Staging
from wingsd.web.site import NodeSite, NotFound
from wingsd.web.transfers import TransfersResource

__all__ = ["Node", "Options", "makeService"]

#: Archives extracted at a time; what comes beyond them is slowed down until it is its turn.
EXTRACTORS = 8
#: Threads for renames, syncs and removals, and for the engine. Few: their work is short.
DISK_WORKERS = 4
ENGINE_WORKERS = 2
# Seconds, when the daemon has to go: until a transfer past its verification is given up as well,
# for clients to read their answers, and until the end whatever goes on.
ABANDON_AFTER = 6.0
DRAIN_WITHIN = 2.0
STOP_WITHIN = 9.0


class Options(UsageOptions):
    """The command line. A configuration that cannot be used is refused here."""

    optParameters: ClassVar[list[list[str | None]]] = [
        ["config", "c", DEFAULT_PATH, "The node's configuration, as the Panel prints it."],
        [
            "endpoint",
            "e",
            None,
            "Where to listen, as a Twisted endpoint (systemd:domain=INET:index=0, "
            "tcp:8080, ...), in place of api.host and api.port.",
        ],
    ]
    config: Config
    unknown: list[str]

    def postOptions(self) -> None:
        """Read the configuration."""
        try:
            self.config, self.unknown = load(self["config"])
        except ConfigError as error:
            # Not a UsageError: older versions of twistd exit with 0 on that.
            raise SystemExit(f"wingsd: {error}") from error


class Node(Service):
    """The running daemon: its listening port, its threads, and its transfers under way."""

    _log = Logger()

    def __init__(self, config: Config, endpoint: str, reactor: Any) -> None:
        self._config = config
        self._endpoint = endpoint
        self._reactor = reactor
        self._certificate = _certificate(config, endpoint)
        self._port: IListeningPort | None = None
        owner = (config.system.user.uid, config.system.user.gid)
        durable = config.system.transfers.durable
        self._staging = Staging(config.system.data, owner, durable=durable)
        self._extractors = Workers(reactor, "extract", EXTRACTORS)
        self._disk = Workers(reactor, "disk", DISK_WORKERS)
        self._engine = Workers(reactor, "engine", ENGINE_WORKERS)
        self.bus = EventBus()
        self.receiver = Receiver(
            Means(
                reactor=reactor,
                panel=Panel(config, reactor),
                environment=self._environment(),
                staging=self._staging,
                bus=self.bus,
                owner=owner,
                extractors=self._extractors,
                slots=DeferredSemaphore(EXTRACTORS),
                disk=self._disk,
            )
        )
        self._site = self._make_site()

    def _environment(self) -> Environment:
        if not self._config.docker.enabled:
            return NoEnvironment()
        return DockerEnvironment(self._config, self._engine)

    def startService(self) -> None:
        """Clean up, then listen. Exits with one line when either cannot be done."""
        super().startService()
        self._prepare_staging()
        for workers in (self._extractors, self._disk, self._engine):
            workers.start()
        signal.signal(signal.SIGHUP, self._on_hangup)
        self._listen()

    async def _stop(self) -> None:
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)
        abandoning = self._reactor.callLater(ABANDON_AFTER, self.receiver.abandon)
        limit: Deferred[None] = deferLater(self._reactor, STOP_WITHIN)
        # Not a cancellation at the limit: what still goes on may as well go on to the very end.
        done = Deferred.fromCoroutine(self._wind_up())
        done.addErrback(lambda failure: self._log.failure("winding up failed", failure))
        await DeferredList([done, limit], fireOnOneCallback=True, consumeErrors=True)
        for server in self.receiver.servers:
            self._log.critical("{server}: not finished in time", server=server)
        if abandoning.active():
            abandoning.cancel()
        limit.addErrback(lambda _: None)
        limit.cancel()
        for workers in (self._extractors, self._disk, self._engine):
            workers.stop()
        self._staging.close()

    async def _wind_up(self) -> None:
        await self.receiver.stop()
        # The answers must be out before the process is gone.
        await self._site.drain(DRAIN_WITHIN)

    def stopService(self) -> Deferred[None]:
        """Give up unverified transfers, finish the others, and end the threads."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    def _prepare_staging(self) -> None:
        try:
            leftovers = self._staging.prepare()
        except StorageError as error:
            raise SystemExit(f"wingsd: {error.detail}") from error
        for name in leftovers:
            self._log.warn("{server}: removed an unfinished transfer of before", server=name)

    def _make_site(self) -> NodeSite:
        root = NotFound()
        api = NotFound()
        root.putChild(b"api", api)
        api.putChild(b"transfers", TransfersResource(self.receiver, self._config.token))
        timeout = self._config.system.transfers.stall_timeout
        return NodeSite(root, reactor=self._reactor, timeout=timeout)

    def _listen(self) -> None:
        factory: Any = self._site
        if self._certificate is not None:
            factory = TLSMemoryBIOFactory(self._certificate, False, factory)
        failures: list[Failure] = []
        try:
            endpoint = serverFromString(self._reactor, self._endpoint)
        except (ValueError, TypeError, LookupError) as error:
            raise SystemExit(
                f"wingsd: {self._endpoint!r} is not an endpoint ({error}); "
                "examples: tcp:8080, systemd:domain=INET:index=0"
            ) from error
        endpoint.listen(factory).addCallback(self._listening).addErrback(failures.append)
        for failure in failures:
            why = failure.getErrorMessage()
            raise SystemExit(f"wingsd: cannot listen on {self._endpoint}: {why}")

    def _listening(self, port: IListeningPort) -> None:
        self._port = port
        scheme = "http" if self._certificate is None else "https"
        self._log.info(
            "wingsd {version} listens on {scheme}://{address}, for the Panel {remote}",
            version=__version__,
            scheme=scheme,
            address=_readable(port.getHost()),
            remote=self._config.remote,
        )

    def _on_hangup(self, *_: object) -> None:
        # A signal handler may interrupt anything; the reactor does it when it is safe.
        self._reactor.callFromThread(self._reload)

    def _reload(self) -> None:
        if self._certificate is None:
            return
        try:
            self._certificate.reload()
        except ConfigError as error:
            self._log.error("the certificate in use stays: {error}", error=error)
        else:
            self._log.info("the certificate was read anew")


def makeService(options: Options, reactor: Any = None) -> Service:
    """Return the node that `options` describe. `reactor` defaults to the one that is installed."""
    if reactor is None:
        # Importing it installs one, which must be left to whoever starts the program.
        from twisted.internet import reactor  # noqa: PLC0415
    if options.unknown:
        Logger().warn("configuration keys not known: {keys}", keys=", ".join(options.unknown))
    config = with_system_user(options.config)
    try:
        return Node(config, options["endpoint"] or _endpoint(config), reactor)
    except ConfigError as error:
        raise SystemExit(f"wingsd: {error}") from error


def with_system_user(config: Config) -> Config:
    """Return `config` with the ids of the account `system.username`, if there is one."""
    user = config.system.user
    if user.rootless.enabled:
        return config
    try:
        account = pwd.getpwnam(config.system.username)
    except KeyError:
        return config
    user = attrs.evolve(user, uid=account.pw_uid, gid=account.pw_gid)
    return attrs.evolve(config, system=attrs.evolve(config.system, user=user))


def _certificate(config: Config, endpoint: str) -> ServerCertificate | None:
    # An endpoint that speaks TLS itself is not wrapped in it once more.
    if not config.api.ssl.enabled or endpoint.startswith("ssl:"):
        return None
    return ServerCertificate(config.api.ssl.cert, config.api.ssl.key)


def _endpoint(config: Config) -> str:
    kind = "tcp6" if ":" in config.api.host else "tcp"
    return f"{kind}:{config.api.port}:interface={quoteStringArgument(config.api.host)}"


def _readable(address: Any) -> str:
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if host is None:
        return str(address)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
