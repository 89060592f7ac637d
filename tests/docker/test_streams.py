"""The streams of a real engine, reached in other ways, and cut."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
import trustme
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import (
    SSL4ServerEndpoint,
    TCP4ServerEndpoint,
    UNIXServerEndpoint,
)
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.internet.task import Clock
from zope.interface import implementer

from tests.docker.relay import Relay
from tests.docker.watcher import Notes
from tests.support.docker_engine import Engine
from tests.support.reactor import reactor
from wingsd.config import Config
from wingsd.docker.containers import DockerContainers
from wingsd.docker.process import TIMEOUT, ContainerStreams
from wingsd.errors import EnvironmentFailed
from wingsd.threadio import Workers

PARROT = 'while read line; do echo "got $line"; [ "$line" = quit ] && exit 4; done'


def socket_of(engine: Engine) -> str:
    adapter: Any = engine.client.adapters["http+docker://"]
    path: str = adapter.socket_path
    return path


@pytest_twisted.async_yield_fixture
async def relay(engine: Engine) -> AsyncIterator[Relay]:
    relay = Relay(reactor, socket_of(engine))
    yield relay
    await relay.close()


def through(config: Config, address: str) -> Config:
    return attrs.evolve(config, docker=attrs.evolve(config.docker, socket=address))


@implementer(IOpenSSLContextFactory)
class _TLSServer:
    """Takes only those who have a certificate of the authority."""

    def __init__(self, authority: trustme.CA, certificate: trustme.LeafCert) -> None:
        self._context = SSL.Context(SSL.TLS_SERVER_METHOD)
        self._context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        certificate.configure_cert(self._context)
        authority.configure_trust(self._context)
        mode = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
        self._context.set_verify(mode, lambda *found: bool(found[-1]))

    def getContext(self) -> SSL.Context:
        return self._context


async def lives(engine: Engine, environment: DockerContainers) -> None:
    """See a server start, answer, be measured, and end."""
    server, notes = engine.server(PARROT), Notes()
    await environment.create(server)
    running = await environment.start(server.uuid, notes)
    await running.command("hello")
    await notes.seen(b"got hello")
    await notes.measured()
    await running.command("quit")
    await notes.over()
    assert notes.ends == [(4, False)]


async def test_an_engine_on_a_tcp_port(engine: Engine, workers: Workers, relay: Relay) -> None:
    host = await relay.listen(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"))
    config = through(engine.config_without_network(), f"tcp://127.0.0.1:{host.port}")
    await lives(engine, DockerContainers(config, workers, reactor))


@pytest.mark.parametrize("verify", ["1", ""])
async def test_an_engine_behind_tls(
    engine: Engine,
    workers: Workers,
    relay: Relay,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    verify: str,
) -> None:
    authority = trustme.CA()
    ours = authority.issue_cert("wingsd")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    ours.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    ours.private_key_pem.write_to_path(tmp_path / "key.pem")
    # To requests these would count for more than what docker-py tells it.
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    monkeypatch.setenv("DOCKER_TLS_VERIFY", verify)
    # Without verification, not even the right name is asked for.
    theirs = authority.issue_cert("127.0.0.1" if verify else "elsewhere.example")
    server = _TLSServer(authority, theirs)
    host = await relay.listen(SSL4ServerEndpoint(reactor, 0, server, interface="127.0.0.1"))
    config = through(engine.config_without_network(), f"tcp://127.0.0.1:{host.port}")
    await lives(engine, DockerContainers(config, workers, reactor))


async def test_a_cut_console_is_attached_again_while_the_server_goes_on(
    engine: Engine, workers: Workers, relay: Relay, tmp_path: Path
) -> None:
    address = str(tmp_path / "relay.sock")
    await relay.listen(UNIXServerEndpoint(reactor, address))
    environment = DockerContainers(
        through(engine.config_without_network(), address), workers, reactor
    )
    server, notes = engine.server(PARROT), Notes()
    await environment.create(server)
    running = await environment.start(server.uuid, notes)
    await running.command("before")
    await notes.seen(b"got before")
    await notes.measured()

    attached, measured = relay.attached(), len(notes.usages)
    relay.cut()
    await attached
    await running.command("after")
    await notes.seen(b"got after")
    await notes.measured(measured + 1)
    await running.command("quit")
    await notes.over()
    assert notes.ends == [(4, False)]
    assert notes.console.count(b"got before") == 1


async def test_detaching_closes_the_connections(
    engine: Engine, workers: Workers, relay: Relay, tmp_path: Path
) -> None:
    address = str(tmp_path / "relay.sock")
    await relay.listen(UNIXServerEndpoint(reactor, address))
    environment = DockerContainers(
        through(engine.config_without_network(), address), workers, reactor
    )
    server, notes = engine.server(PARROT), Notes()
    await environment.create(server)
    running = await environment.start(server.uuid, notes)
    await notes.measured()
    assert len(relay.connections) == 2
    running.detach()
    await relay.idle()
    told = list(notes.told)
    # It can still be spoken to.
    await running.command("quit")
    assert engine.client.wait(server.uuid, timeout=30)["StatusCode"] == 4
    assert notes.told == told


async def test_an_engine_that_does_not_answer_is_named() -> None:
    for address in ("unix:///nonexistent.sock", "tcp://127.0.0.1:1", "ssh://engine", "what://"):
        with pytest.raises(EnvironmentFailed, match=address):
            await ContainerStreams(reactor, address).console("any", len)


async def test_a_missing_container_is_the_engines_error(engine: Engine) -> None:
    streams = ContainerStreams(reactor, f"unix://{socket_of(engine)}")
    with pytest.raises(EnvironmentFailed, match=r"Docker refuses: .*[Nn]o such container"):
        await streams.console("no-such-container", len)


@pytest.fixture
def deaf(tmp_path: Path) -> Iterator[str]:
    """Yield the address of an engine that listens and says nothing."""
    path = str(tmp_path / "deaf.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        yield f"unix://{path}"


class _Timed(Clock):
    """Real sockets, and time that the test makes pass."""

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


async def test_a_silent_engine_times_out(deaf: str) -> None:
    timed: Any = _Timed()
    opening = Deferred.fromCoroutine(ContainerStreams(timed, deaf).stats("any", len))
    timed.advance(TIMEOUT)
    with pytest.raises(EnvironmentFailed, match="no answer within 30 s"):
        await opening


async def test_a_cancelled_call_reports_no_failure(deaf: str) -> None:
    opening = Deferred.fromCoroutine(ContainerStreams(reactor, deaf).stats("any", len))
    opening.cancel()
    with pytest.raises(CancelledError):
        await opening
