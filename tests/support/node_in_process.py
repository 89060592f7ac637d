"""Nodes in this process, without a Panel: their files, threads and HTTP on loopback are real.

A node can be stopped as if it were killed, and another one take its place in the same directory.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, DeferredSemaphore

from tests.support.environment import FakeContainers
from tests.support.harness import Harness, node_config
from tests.support.reactor import reactor, until
from tests.support.sample_server import UUID
from tests.support.scripted_panel import ScriptedPanel
from tests.support.settings import process_configuration, server_settings
from wingsd.config import Control, MovesConfig, TransfersConfig
from wingsd.control import ControlListener, StatusEndpoint
from wingsd.direct_transfers.initiator import Invitation
from wingsd.docker.runtime import DockerInformation
from wingsd.errors import DaemonStopping, PanelUnreachable, ServerNotFound, ServersNotLoaded
from wingsd.http.request import StreamingRequest
from wingsd.panel.schemas import configuration_from_panel
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.servers.server import Server
from wingsd.statedb import TransferRecord
from wingsd.threadio import Workers
from wingsd.transfers.cancellation import SharedSlots
from wingsd.transfers.incoming.moves.transfer import MoveTransfer
from wingsd.transfers.recovery import Recovery, clear_leftovers

LEVEL = bytes(range(256)) * 500
#: Settings of nodes that send and take servers as one stream only.
STREAMING = TransfersConfig(moves=MovesConfig(enabled=False))


def description(**settings: Any) -> dict[str, Any]:
    """Return a Panel's description of the server."""
    return {
        "settings": server_settings(UUID, **settings),
        "process_configuration": process_configuration(),
    }


class _LossyRequest(StreamingRequest):
    """A request whose answer can be lost."""

    def answer(self, *args: Any, **kwargs: Any) -> None:
        if self.channel is not None and self.channel.site.lose(self):
            self.channel.abortConnection()
        else:
            super().answer(*args, **kwargs)


class NodeInProcess(Harness):
    """A node in `directory`, which listens; its files outlive it."""

    def __init__(
        self,
        directory: Path,
        workers: Workers,
        port: int = 0,
        transfers: TransfersConfig | None = None,
        **system: Any,
    ) -> None:
        """`system` is more of the configuration's `system`."""
        self.directory = directory
        self.panel: Any = ScriptedPanel()
        # It does not take part.
        self.panel.faults["failure"] = PanelUnreachable("the request failed", "it is silent")
        self.environment = FakeContainers()
        config = node_config(
            directory,
            attrs.evolve(transfers or TransfersConfig(), concurrent=1, waiting=2, durable=False),
            uuid=directory.name,
            token=f"the-secret-token-of-the-node-{directory.name}",
            **system,
        )
        super().__init__(config, workers, self.panel, self.environment, port=port)
        slots = DeferredSemaphore(2)
        self.sender.parts = attrs.evolve(self.sender.parts, slots=slots, max_streams=0)
        self.staging.prepare()
        #: Whether a request's answer is lost on its way.
        self.lose: Callable[[StreamingRequest], bool] = lambda _: False
        #: The paths of the requests that it has answered.
        self.asked: list[str] = []
        site: Any = self.http.site
        site.requestFactory = _LossyRequest
        site.lose = self._loses
        self.http.open()

    def _loses(self, request: StreamingRequest) -> bool:
        self.asked.append(request.path.decode())
        return self.lose(request)

    @property
    def slots(self) -> SharedSlots:
        return self.receiver.parts.slots

    @property
    def url(self) -> str:
        return self.http.address

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def set_engine(self, engine: Callable[[], Coroutine[Any, Any, DockerInformation]]) -> None:
        """Have an engine that is asked for its version by `engine`."""
        self.ask_engine = lambda: Deferred.fromCoroutine(engine())

    def status(self) -> StatusEndpoint:
        request: Any = None
        return StatusEndpoint(self, {}, request, {})

    def control_socket(self, settings: Control) -> ControlListener:
        return ControlListener(settings, self)

    def die_at(self, last: str) -> None:
        """Have every transfer end without a word once a step is recorded, as if it were killed."""
        database: Any = self.database
        enter = database.enter

        def dies(transfer: int, step: str) -> Deferred[None]:
            written: Deferred[None] = enter(transfer, step)
            return written.addCallback(lambda _: Deferred()) if step == last else written

        database.enter = dies

    async def invite(self, **options: Any) -> Invitation:
        return await self.direct_transfers.expect(UUID, **{"seconds": 60} | options)

    async def recover(self) -> Recovery:
        """Resume what an earlier node in this directory left, as a daemon does at its start."""
        unfinished: list[TransferRecord] = self.store.unfinished()
        moves = self.store.open_moves()
        clear_leftovers(unfinished, self.staging, self.received_backups, (), moves)
        self.staging.delete_cleared()
        self.receiver.maintenance = self.store.maintenance()
        await self.pairs.load()
        await self.direct_transfers.load(unfinished)
        recovery = self.make_recovery(unfinished, moves)
        recovery.begin()
        return recovery

    @property
    def hold(self) -> str:
        return self.servers.get(UUID).hold

    @property
    def reason(self) -> str:
        return self.store.ended(1)[0].reason

    @property
    def knows_server(self) -> bool:
        try:
            self.servers.get(UUID)
        except (ServerNotFound, ServersNotLoaded):
            return False
        return True

    def entries(self) -> list[tuple[str, str | None]]:
        """Return direction and outcome of the transfers in the state database."""
        return [
            (entry.direction.value, entry.outcome and entry.outcome.value)
            for entry in self.store.transfers()
        ]

    def is_at_rest(self) -> bool:
        """Return whether no transfer is under way, and all of them are recorded."""
        under_way = self.sender.servers or self.receiver.servers
        return not under_way and not self.store.unfinished()

    async def close(self) -> None:
        """End it, as if it were killed: what is under way does not continue."""
        self.left_backups.stop()
        await self.http.close()
        await self.http.site.drain(0)
        await self._close_moves()
        await self.servers.stop()
        self.panel.waits["failure"] = Deferred()
        self.cut_off()
        self.store.close()
        self.staging.close()

    async def _close_moves(self) -> None:
        """Close the files of moves that are under way."""
        for sent in tuple(self.sender._open.values()):
            if sent._move is not None:
                sent._is_left = True
                sent._cancel(DaemonStopping())
                await sent._sending.close()
        for received in tuple(self.receiver._open.values()):
            if isinstance(received, MoveTransfer) and received._inbox is not None:
                await received._inbox.close(DaemonStopping())


class NodePair:
    """A source that has the server, a destination that has not, and what runs their threads."""

    def __init__(self, directory: Path, transfers: TransfersConfig | None = None) -> None:
        """`transfers` are the settings of both."""
        self._transfers = transfers
        self.workers = Workers(reactor, "test", 8)
        self.workers.start()
        for name in ("source", "destination"):
            (directory / name).mkdir()
        self.source = NodeInProcess(directory / "source", self.workers, 0, transfers)
        self.destination = NodeInProcess(directory / "destination", self.workers, 0, transfers)
        world = self.source.data / UUID / "world"
        world.mkdir(parents=True)
        (world / "level.dat").write_bytes(LEVEL)
        self.configuration = configuration_from_panel(description(name="Lobby"))
        self.source.servers.get_or_add(self.configuration)

    async def send(self, invitation: Invitation, **options: Any) -> None:
        await self.source.direct_transfers.send(
            UUID, self.destination.url, invitation.token, **options
        )

    async def send_now(self, **options: Any) -> None:
        """Invite the server, and send it."""
        await self.send(await self.destination.invite(), **options)

    async def move(self, *, remove: bool = False, **invited: Any) -> None:
        """Move the server, which is to be a success; `invited` are options of the invitation."""
        await self.send(await self.destination.invite(**invited), remove=remove)
        await (self.assert_moved_and_deleted() if remove else self.assert_moved())

    async def run(self) -> Server:
        """Have the server run at the source, by whose Panel it is known."""
        server = self.source.servers.get(UUID)
        self.source.panel.known[UUID] = self.configuration
        await server.power(PowerAction.START)
        self.source.environment.running[UUID].say(b"listening on\n")
        await until(lambda: server.state is PowerState.RUNNING)
        return server

    async def dies_at(self, name: str, step: str, **options: Any) -> None:
        """Send the server; return when a node has died at a step."""
        node: NodeInProcess = getattr(self, name)
        node.die_at(step)
        await self.send_now(**options)
        await until(lambda: [entry.step for entry in node.store.transfers()] == [step])

    async def next(self, name: str, transfers: Any = None) -> NodeInProcess:
        """Have a node end as if killed; return the next one, which goes on with its work."""
        node = await self.restart(name, transfers)
        await node.recover()
        return node

    async def settled(self) -> None:
        """Return when no transfer is under way at either node, and all of them are recorded."""
        for node in (self.source, self.destination):
            await until(node.is_at_rest)

    def is_sent_and_waits(self) -> bool:
        """Return whether all is sent, and the destination's transfer waits for a slot."""
        steps = [progress.step.name for progress in self.source.sender.progress]
        return steps == ["AWAIT"] and self.destination.receiver.waiting == 1

    def arrived(self) -> bool:
        """Return whether the destination has the server whole."""
        level = self.destination.data / UUID / "world" / "level.dat"
        return level.exists() and level.read_bytes() == LEVEL

    async def assert_stayed(self) -> None:
        """Check that the server is whole and startable at the source, and not at the other."""
        await self.settled()
        (direction, outcome), hold = self.source.entries()[-1], self.source.hold
        assert (direction, hold) == ("out", "")
        assert outcome in ("failure", "cancelled")
        assert self.destination.left() == []
        assert self.destination.environment.containers == {}
        assert not self.destination.knows_server
        assert (self.source.data / UUID / "world" / "level.dat").exists()

    async def assert_moved(self) -> None:
        """Check that the server is whole at the destination, and startable only there."""
        await self.settled()
        assert self.arrived()
        assert self.source.entries()[-1] == ("out", "success")
        assert self.destination.entries()[-1] == ("in", "success")
        assert self.destination.hold == ""
        assert self.destination.servers.get(UUID).moved_directly

    async def assert_moved_and_deleted(self) -> None:
        """Check that the server has moved, and is deleted at the source."""
        await self.settled()
        assert self.arrived()
        await until(lambda: self.source.left() == [])
        assert not self.source.knows_server

    async def restart(self, name: str, transfers: Any = None, **system: Any) -> NodeInProcess:
        previous: NodeInProcess = getattr(self, name)
        port = previous.port
        await previous.close()
        settings = transfers or self._transfers
        node = NodeInProcess(previous.directory, self.workers, port, settings, **system)
        setattr(self, name, node)
        return node

    async def close(self) -> None:
        await self.source.close()
        await self.destination.close()
        self.workers.stop()


def running_pair(directory: Path, transfers: TransfersConfig | None = None) -> Iterator[NodePair]:
    """Yield two nodes with these settings, and close them."""
    made = NodePair(directory, transfers)
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[NodePair]:
    yield from running_pair(tmp_path)
