"""Containers that live, on a real engine: started, watched, spoken to, cut off, ended."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
import trustme
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ServerEndpoint, UNIXServerEndpoint
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.internet.task import Clock
from zope.interface import implementer

from tests.docker.relay import Relay
from tests.docker.watcher import Notes
from tests.support.docker_engine import Engine
from tests.support.present import present
from tests.support.reactor import reactor
from wingsd.config import Config
from wingsd.docker import async_engine
from wingsd.docker import engine as engine_calls
from wingsd.docker.containers import DockerContainers
from wingsd.docker.process import TIMEOUT, ContainerStreams
from wingsd.docker.runtime import Running
from wingsd.errors import ConsoleBlocked, EnvironmentFailed, ServerNotRunning
from wingsd.panel.schemas import Image, Settings
from wingsd.threadio import Workers

#: Says so when it listens, and ends with 5 when it is asked to.
OBEDIENT = "trap 'exit 5' TERM; echo ready; while :; do read line; done"
#: Reads nothing, and has no terminal that would throw away what is too much.
DEAF = "busybox stty raw; echo ready; while :; do sleep 1; done"
#: Answers every line, and ends with 4 after the last.
PARROT = 'while read line; do echo "got $line"; [ "$line" = quit ] && exit 4; done'


@attrs.define
class EngineNode:
    """A node on the engine, and another one whose servers are elsewhere."""

    engine: Engine
    config: Config
    workers: Workers

    @property
    def environment(self) -> DockerContainers:
        return DockerContainers(self.config, self.workers, reactor)

    @property
    def other(self) -> DockerContainers:
        system = attrs.evolve(self.config.system, data="/var/lib/other")
        return DockerContainers(attrs.evolve(self.config, system=system), self.workers, reactor)

    async def start(self, invocation: str, **changes: Any) -> tuple[Settings, Notes, Running]:
        """Return a server that was started, who watches it, and its process."""
        server = attrs.evolve(self.engine.server(invocation), **changes)
        await self.environment.create(server)
        notes = Notes()
        return server, notes, await self.environment.start(server.uuid, notes)

    def state(self, server: Settings) -> dict[str, Any]:
        state: dict[str, Any] = self.engine.client.inspect_container(server.uuid)["State"]
        return state

    def exists(self, server: Settings) -> bool:
        return bool(self.engine.client.containers(all=True, filters={"name": server.uuid}))


@pytest.fixture
def node(engine: Engine, workers: Workers) -> EngineNode:
    return EngineNode(engine, engine.config_without_network(), workers)


async def failure(doing: Any) -> str:
    with pytest.raises(EnvironmentFailed) as failed:
        await doing
    return failed.value.detail


async def test_all_is_reported_from_first_byte_to_end(node: EngineNode) -> None:
    _, notes, running = await node.start("echo first; echo last; exit 3")
    await notes.over()
    assert notes.console == b"first\r\nlast\r\n"
    assert notes.ends == [(3, False)]
    assert notes.told[-1] == (3, False)
    # What is over can be stopped as often as one likes, but not spoken to.
    await running.stop()
    await running.signal("SIGINT")
    await running.kill()
    with pytest.raises(ServerNotRunning):
        await running.command("list")
    assert notes.ends == [(3, False)]


async def test_a_flood_arrives_whole_and_in_small_pieces(node: EngineNode) -> None:
    _, notes, _ = await node.start("exec /bin/busybox seq 1 100000")
    await notes.over()
    assert notes.console.split() == [b"%d" % n for n in range(1, 100001)]
    assert max(len(piece) for piece in notes.told if isinstance(piece, bytes)) <= 128 * 1024


async def test_many_commands_arrive_whole_and_in_order(node: EngineNode) -> None:
    _, notes, running = await node.start(PARROT)
    lines = [f"command {number} äöü" for number in range(40)] + ["quit"]
    await gatherResults([Deferred.fromCoroutine(running.command(line)) for line in lines])
    await notes.over()
    got = re.findall(r"got (.*)\r\n", notes.console.decode())
    assert got == lines
    assert notes.ends == [(4, False)]


async def test_consoles_that_nobody_reads_keep_no_other_server_waiting(
    node: EngineNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_calls, "STDIN_TIMEOUT", 3)
    monkeypatch.setattr(async_engine, "CONSOLE_WRITERS", 3)
    environment = node.environment
    deaf: list[Running] = []
    for _ in range(4):
        server, notes = node.engine.server(DEAF), Notes()
        await environment.create(server)
        deaf.append(await environment.start(server.uuid, notes))
        await notes.seen(b"ready")
    typing = [Deferred.fromCoroutine(running.command("x" * 500_000)) for running in deaf]
    ended = [each.addBoth(lambda outcome: outcome.check(ConsoleBlocked)) for each in typing]
    assert "ready" in (await environment.logs(server.uuid, 9))[0]
    assert not any(each.called for each in ended)
    assert await gatherResults(ended) == [ConsoleBlocked] * 4


@pytest.mark.parametrize(
    ("call", "status"), [(("stop",), 5), (("signal", "SIGTERM"), 5), (("kill",), 137)]
)
async def test_servers_are_stopped(node: EngineNode, call: tuple[str, ...], status: int) -> None:
    _, notes, running = await node.start(OBEDIENT)
    await notes.seen(b"ready")
    await getattr(running, call[0])(*call[1:])
    await notes.over()
    assert notes.ends == [(status, False)]


async def test_what_runs_already_is_adopted(node: EngineNode) -> None:
    server, before, first = await node.start(PARROT)
    await first.command("before")
    await before.seen(b"got before")
    first.detach()

    after = Notes()
    running = present(await node.environment.adopt(server.uuid, after))
    await running.command("after")
    await after.seen(b"got after")
    await after.measured()
    await running.command("quit")
    await after.over()
    assert b"before" not in after.console
    assert after.ends == [(4, False)]
    assert b"after" not in before.console
    assert before.ends == []


async def test_what_does_not_run_is_not_adopted(node: EngineNode) -> None:
    server = node.engine.server()
    assert await node.environment.adopt(server.uuid, Notes()) is None
    await node.environment.create(server)
    assert await node.environment.adopt(server.uuid, Notes()) is None


async def test_another_nodes_container_is_never_touched(node: EngineNode) -> None:
    server, notes, _ = await node.start(OBEDIENT)
    other = node.other
    mine, theirs = f"{node.config.system.data}/{server.uuid}", f"/var/lib/other/{server.uuid}"
    for doing in (other.create(server), other.recreate(server), other.start(server.uuid, Notes())):
        detail = await failure(doing)
        assert mine in detail
        assert theirs in detail
    conflict = await other.name_conflict(server.uuid)
    assert mine in conflict
    assert theirs in conflict
    assert await node.environment.name_conflict(server.uuid) == ""
    await other.remove(server.uuid)
    assert await other.adopt(server.uuid, Notes()) is None
    assert await other.logs(server.uuid, 10) == []
    assert node.state(server)["Running"]
    assert notes.ends == []


async def test_a_container_that_has_nothing_to_do_with_servers_stays(node: EngineNode) -> None:
    server = node.engine.server()
    assert await node.environment.name_conflict(server.uuid) == ""
    node.engine.client.create_container(node.engine.image[1:], "true", name=server.uuid)
    assert "no server's files" in await node.environment.name_conflict(server.uuid)
    assert "no server's files" in await failure(node.environment.create(server))
    await node.environment.remove(server.uuid)
    assert node.exists(server)


async def test_a_container_is_renewed_from_fresh_settings(node: EngineNode) -> None:
    server, notes, running = await node.start(OBEDIENT)
    fresh = attrs.evolve(server, invocation="echo fresh")
    assert "is running" in await failure(node.environment.recreate(fresh))
    await running.kill()
    await notes.over()

    before = node.engine.client.inspect_container(server.uuid)["Id"]
    missing = attrs.evolve(fresh, container=Image("~wingsd-test/none:1"))
    assert "no image" in await failure(node.environment.recreate(missing))
    assert node.engine.client.inspect_container(server.uuid)["Id"] == before

    await node.environment.recreate(fresh)
    notes = Notes()
    await node.environment.start(server.uuid, notes)
    await notes.over()
    assert notes.console == b"fresh\r\n"


async def test_a_start_without_or_of_a_running_container_is_refused(node: EngineNode) -> None:
    server = node.engine.server(OBEDIENT)
    assert "no container" in await failure(node.environment.start(server.uuid, Notes()))
    await node.environment.create(server)
    await node.environment.start(server.uuid, Notes())
    assert "is running" in await failure(node.environment.start(server.uuid, Notes()))


async def test_a_start_that_the_engine_refuses_leaves_nothing_watched(
    engine: Engine, workers: Workers
) -> None:
    node = EngineNode(engine, engine.config(), workers)
    everywhere = "0.0.0.0"  # noqa: S104 - it is what the server asks for
    taken = socket.create_server((everywhere, 0))
    server = node.engine.server()
    allocations = attrs.evolve(
        server.allocations, mappings={everywhere: (taken.getsockname()[1],)}
    )
    await node.environment.create(attrs.evolve(server, allocations=allocations))
    notes = Notes()
    detail = await failure(node.environment.start(server.uuid, notes))
    taken.close()
    assert "Docker refuses: " in detail
    assert "address already in use" in detail
    assert notes.told == []
    assert not node.state(server)["Running"]


async def test_what_is_removed_has_ended(node: EngineNode) -> None:
    server, notes, _ = await node.start(OBEDIENT)
    await notes.seen(b"ready")
    await node.environment.remove(server.uuid)
    await notes.over()
    assert notes.ends in ([(None, False)], [(137, False)])
    assert not node.exists(server)


async def test_the_log_of_a_server_that_is_stopped(node: EngineNode) -> None:
    server, notes, _ = await node.start("echo one; /bin/busybox printf 'two\\xff\\n\\nfour'")
    await notes.over()
    environment = node.environment
    assert await environment.logs(server.uuid, 3) == ["two\ufffd", "", "four"]
    assert await environment.logs(server.uuid, 10) == ["one", "two\ufffd", "", "four"]
    assert await environment.logs(server.uuid, 0) == []
    assert await environment.logs("no-such-server", 3) == []


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


async def started_behind(
    relay: Relay, engine: Engine, workers: Workers, directory: Path, notes: Notes
) -> tuple[str, Running]:
    """Start a server whose node has the engine behind `relay`; return its UUID and process."""
    address = str(directory / "relay.sock")
    await relay.listen(UNIXServerEndpoint(reactor, address))
    environment = DockerContainers(
        through(engine.config_without_network(), address), workers, reactor
    )
    server = engine.server(PARROT)
    await environment.create(server)
    return server.uuid, await environment.start(server.uuid, notes)


async def test_a_cut_console_is_attached_again_while_the_server_goes_on(
    engine: Engine, workers: Workers, relay: Relay, tmp_path: Path
) -> None:
    notes = Notes()
    _, running = await started_behind(relay, engine, workers, tmp_path, notes)
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
    notes = Notes()
    uuid, running = await started_behind(relay, engine, workers, tmp_path, notes)
    await notes.measured()
    assert len(relay.connections) == 2
    running.detach()
    await relay.idle()
    told = list(notes.told)
    # It can still be spoken to.
    await running.command("quit")
    assert engine.client.wait(uuid, timeout=30)["StatusCode"] == 4
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
