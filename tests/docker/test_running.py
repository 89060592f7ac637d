"""Containers that live, on a real engine: started, watched, spoken to, ended."""

from __future__ import annotations

import re
import socket
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred, gatherResults

from tests.docker.watcher import Notes
from tests.support.docker_engine import Engine
from tests.support.reactor import reactor
from wingsd.config import Config
from wingsd.docker import async_engine
from wingsd.docker import engine as engine_calls
from wingsd.docker.containers import DockerContainers
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


async def test_an_out_of_memory_kill_is_reported(node: EngineNode) -> None:
    _, notes, _ = await node.start("exec /bin/busybox tail /dev/zero")
    await notes.over()
    assert notes.ends == [(137, True)]


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


async def test_an_unknown_signal_is_refused_by_the_engine(node: EngineNode) -> None:
    _, _, running = await node.start(OBEDIENT)
    assert "Docker refuses: " in (detail := await failure(running.signal("SIGNONSENSE")))
    assert "SIGNONSENSE" in detail


async def test_usage_is_reported(node: EngineNode) -> None:
    _, notes, running = await node.start(OBEDIENT)
    await notes.measured()
    used = notes.usages[0]
    assert 0 < used.memory_bytes < used.memory_limit_bytes
    # The kernel counts in pages.
    assert used.memory_limit_bytes == pytest.approx(73_600_000, abs=4096)
    assert 0 <= used.uptime < 60_000
    await running.kill()
    await notes.over()


async def test_what_runs_already_is_adopted(node: EngineNode) -> None:
    server, before, first = await node.start(PARROT)
    await first.command("before")
    await before.seen(b"got before")
    first.detach()

    after = Notes()
    running = await node.environment.adopt(server.uuid, after)
    assert running is not None
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


async def test_renewing_what_is_missing_makes_it(node: EngineNode) -> None:
    server = node.engine.server()
    await node.environment.recreate(server)
    assert node.state(server)["Status"] == "created"


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
