"""Two machines in this process, each with a daemon that can die at any point, and one game.

The game writes to its server's files between the calls of the daemons, from its start to its end.
The files that it has left must be there wherever it is started. The machines note what is wrong
when it happens.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import deferLater

from tests.crash.clock import JumpingClock
from tests.crash.mortal import Death, Life, MortalEngine, MortalPools, MortalReactor, outside
from tests.crash.two_nodes import CHANGED
from tests.moves.changing import Changes
from tests.support.archives import seen
from tests.support.environment import FakeContainers, FakeProcess
from tests.support.harness import node_config
from tests.support.node_process import without_mark
from tests.support.panel import Panel
from tests.support.reactor import reactor
from tests.support.sample_server import UUID
from wingsd.api.context import NodeContext
from wingsd.app.wiring import build_node
from wingsd.config import Control, LiveMovesConfig, MovesConfig, SftpConfig, TransfersConfig
from wingsd.docker.runtime import Watcher
from wingsd.errors import ServerNotFound
from wingsd.servers.power_states import PowerState
from wingsd.threadio import Workers

#: Where daemons listen.
PORT = 8080
#: How often the game writes: at one of so many points of a daemon.
WRITES = 60
#: The most seconds that the game takes to stop: some more than it has in a move.
STOPS_WITHIN = 24.0
#: Bytes of the server's files from which on the game removes those that it has made.
MOST = 3 << 20


class Game:
    """The game: where it runs, and the files that it has left. `wrong` is what is wrong."""

    def __init__(self, panel: Panel, seed: int) -> None:
        self.wrong: list[str] = []
        self.runs_at: list[Machine] = []
        self.starts = 0
        #: Whether it was asked to end, and has not yet.
        self.is_ending = False
        #: The machine that it may move to without the Panel.
        self.due_at: Machine | None = None
        self._panel = panel
        self._left: Any = None
        self._random = random.Random(seed)
        self._lock = threading.RLock()

    def put(self, machine: Machine) -> None:
        """Put its files at a machine, where it does not run."""
        world = machine.files / "world"
        world.mkdir(parents=True)
        for number in range(3):
            (world / f"r.{number}.mca").write_bytes(self._random.randbytes(150_000))
        for number in range(40):
            (world / f"{number}.dat").write_bytes(self._random.randbytes(number * 13))
        (machine.files / "changing").mkdir()
        self._left = seen(machine.files)

    def started(self, machine: Machine) -> None:
        with self._lock, outside():
            self.starts += 1
            here = f"it is started at {machine.name}"
            if self.runs_at:
                others = ", ".join(each.name for each in self.runs_at)
                self.wrong.append(f"{here} while it runs at {others}")
            if not self._panel.knows(UUID):
                self.wrong.append(f"{here}, and was deleted")
            elif machine is not self.due_at and self._panel.node_of(UUID) is not machine.node:
                self.wrong.append(f"{here}, which does not have it")
            self.runs_at.append(machine)
            found = seen(machine.files) if machine.files.is_dir() else {}
            every = sorted({*found, *self._left})
            if names := [each for each in every if found.get(each) != self._left.get(each)]:
                pairs = [(_short(found.get(n)), _short(self._left.get(n))) for n in names[:3]]
                self.wrong.append(
                    f"{here} with other files: {len(names)} of {len(self._left)} differ, "
                    f"{names[:3]}: {pairs}"
                )

    def ended(self, machine: Machine) -> None:
        with self._lock:
            self.runs_at.remove(machine)
            self.is_ending = False
            self.note_files(machine)

    def note_files(self, machine: Machine) -> None:
        """Note that its files at a machine are the truth, where it does not run."""
        with self._lock, outside():
            self._left = seen(machine.files)

    def seconds_to_stop(self) -> float:
        """Return how long it takes to stop this time."""
        with self._lock:
            return self._random.choice((0.0, self._random.uniform(0.0, STOPS_WITHIN)))

    def tick(self) -> None:
        """Write to its files, some of the times."""
        with self._lock:
            if self.runs_at and self._random.random() < 1 / WRITES:
                with outside():
                    self._write(self.runs_at[0].files)

    def _write(self, files: Path) -> None:
        rng = self._random
        if rng.random() < 1 / 2:
            with (files / "world" / f"r.{rng.randrange(3)}.mca").open("r+b") as file:
                file.seek(rng.randrange(150_000))
                file.write(rng.randbytes(9_000))
            return
        Changes(files / "changing").run_one_of(CHANGED, rng)

    def prune(self) -> None:
        """Remove what it has made where that has become much, while it runs."""
        with self._lock:
            if not self.runs_at:
                return
            files = self.runs_at[0].files
            walked = ((where, name) for where, _, names in os.walk(files) for name in names)
            if sum(os.lstat(os.path.join(*each)).st_size for each in walked) > MOST:
                shutil.rmtree(files / "changing")
                (files / "changing").mkdir()


def _short(entry: Any) -> Any:
    return None if entry is None else (*entry[:2], len(entry[2]), *entry[3:])


@attrs.define(eq=False)
class _Program(FakeProcess):
    """The game's program, which tells its end; it takes its time to stop."""

    machine: Machine = attrs.field(kw_only=True)

    def is_up(self) -> None:
        """Say so, if it has not ended meanwhile."""
        if self.runs:
            self.say(b"listening on\n")

    def end(
        self, status: int | None = 0, *, out_of_memory: bool = False, of_node: bool = False
    ) -> None:
        if self.runs:
            self.machine.game.ended(self.machine)
            with outside():
                super().end(status, out_of_memory=out_of_memory, of_node=of_node)

    def _obey(self, status: int, *, always: bool = False) -> None:
        seconds = 0.0 if always else self.machine.game.seconds_to_stop()
        if seconds:
            self.machine.game.is_ending = self.runs
            self.machine.clock.callLater(seconds, self.end, status)
        else:
            super()._obey(status, always=always)


@attrs.define(eq=False)
class _Engine(FakeContainers):
    """A machine's engine."""

    machine: Machine = attrs.field(kw_only=True)

    def _run(self, uuid: str, watcher: Watcher | None) -> FakeProcess:
        self.machine.game.started(self.machine)
        program = _Program(uuid, self, watcher, machine=self.machine)
        self.running[uuid] = program
        self.machine.clock.callLater(0.5, program.is_up)
        return program


class Machine:
    """A machine with its disk, its engine and its daemon."""

    def __init__(
        self,
        directory: Path,
        panel: Panel,
        game: Game,
        workers: Workers,
        host: str,
        clock: JumpingClock,
    ) -> None:
        self.name = directory.name
        self.directory = directory
        self.game, self.clock, self.host = game, clock, host
        self.engine = _Engine(machine=self)
        self.node = panel.add_node(f"http://{host}:{PORT}", reachable=True)
        self.deaths = 0
        self.daemon: NodeContext
        self.life: Life
        self._mortal: MortalReactor
        #: Whether the daemon has died, and the next one is not there yet.
        self.is_dead = False
        #: Whether the machine goes down with the daemon: then the game ends, too.
        self.loses_power = False
        #: Returns the point at which each next daemon dies, if one does.
        self.next_death: Callable[[], Death | None] = lambda: None
        self._workers = workers
        #: How many points are left before something is done, and what.
        self._left, self._act = 0, lambda: None
        self._lock = threading.Lock()
        #: All of its daemons: what dead ones have begun must not be collected.
        self._services: list[Any] = []
        transfers = TransfersConfig(
            durable=False,
            answer_grace=60,
            stop_grace=20,
            stall_timeout=60,
            moves=MovesConfig(batch=1, patience=600),
            live=LiveMovesConfig(final_patience=30, max_rounds=4),
        )
        self.config = node_config(
            directory,
            transfers,
            uuid=directory.name,
            token_id=self.node.token_id,
            token=self.node.token,
            remote=panel.url,
            control=Control(socket=""),
            sftp=SftpConfig(enabled=False),
        )
        self._staging = Path(self.config.system.data).parent / ".volumes.staging"

    @property
    def files(self) -> Path:
        return Path(self.config.system.data) / UUID

    @property
    def staged(self) -> Path:
        """The directory of the server while it arrives."""
        return self._staging / UUID

    def start(self, death: Death | None = None) -> None:
        """Start a daemon, which dies at a point: as a whole, but for its engine."""
        self.life = life = Life(self.name, self._died, self._passed)
        life.plan(death)
        self._mortal = MortalReactor(life, self.clock)
        mortal: Any = self._mortal
        pools: Any = MortalPools(self._workers, life)
        engine: Any = MortalEngine(self.engine, life)
        endpoint = f"tcp:{PORT}:interface={self.host}"
        made = build_node(self.config, endpoint, mortal, pools=pools, containers=engine)
        self._services.append(made)
        self.daemon = made.context
        vars(made)["_log_shortcomings"] = lambda: None
        self.is_dead = self._is_booted = False
        life.run(self._start, made)

    def _start(self, made: Any) -> None:
        made.startService()
        made.booted.addCallback(self._booted)

    def _booted(self, result: object) -> None:
        self._is_booted = True

    def left_open(self) -> str:
        """Return what it has begun and not ended, empty for nothing."""
        if not self._is_booted:
            return "it does not start"
        store = self.daemon.store
        under_way = {
            "transfers": [f"{each.direction.value} {each.step}" for each in store.unfinished()],
            "reports": [each.kind.value for each in store.unsettled()],
            "starts": [each.server for each in store.arrived_to_start()],
            "sent": self.daemon.sender.servers,
            "received": self.daemon.receiver.servers,
        }
        return ", ".join(f"{what}: {found}" for what, found in under_way.items() if found)

    @property
    def has_server(self) -> bool:
        """True if its daemon knows the server."""
        try:
            self.daemon.servers.get(UUID)
        except ServerNotFound:
            return False
        return True

    def stuck(self, *, runs: bool, suspended: bool) -> str:
        """Return why the server, which is this node's, is not as it should be."""
        server = self.daemon.servers.get(UUID)
        if server.operations.hold is not None:
            return f"the server is held: {server.operations.hold}"
        if suspended != server.suspended:
            return f"the server is {'not ' * suspended}suspended according to the Panel"
        if suspended and server.state is not PowerState.OFFLINE:
            return f"the server is suspended, and {server.state.value}"
        if runs and not suspended and server.state is not PowerState.RUNNING:
            return f"the server is {server.state.value}"
        return ""

    @property
    def is_up(self) -> bool:
        """True if its daemon lives, and has started."""
        return not self.is_dead and not self.life.is_dead and self._is_booted

    @property
    def is_busy(self) -> bool:
        """True while it is being started again, or threads work for its daemon."""
        return self.is_dead or self.life.is_dead or self.life.waiting > 0

    @property
    def count(self) -> int:
        """How much has happened."""
        return self.life.calls + (self.deaths << 32)

    def after(self, points: int, act: Callable[[], None]) -> None:
        """Do something after so many points of its daemons, 0 for never."""
        with self._lock:
            self._left, self._act = points, act

    def rest(self) -> None:
        """Let nothing happen to its daemons any more."""
        self.after(0, lambda: None)
        self.next_death = lambda: None
        self.life.plan(None)
        self.loses_power = False

    def _passed(self) -> None:
        self.game.tick()
        with self._lock:
            self._left -= 1
            is_due = self._left == 0
        if is_due:
            with outside():
                reactor.callFromThread(self._act)

    def _died(self) -> None:
        with outside():
            reactor.callFromThread(self._bury)

    def _bury(self) -> None:
        if not self.is_dead:
            self.is_dead = True
            self.deaths += 1
            if self.loses_power:
                self.loses_power = False
                for program in [*self.engine.running.values()]:
                    program.end(None)
            Deferred.fromCoroutine(self._replace()).addErrback(self._failed)

    async def _replace(self) -> None:
        await self.end()
        self.start(self.next_death())

    def _failed(self, failure: Any) -> None:
        self.game.wrong.append(f"{self.name}: {failure.getTraceback()}")

    async def restart(self) -> None:
        """End the daemon, and start the next one."""
        self.is_dead = True
        await self.end()
        self.start()

    async def end(self) -> None:
        """End the daemon, as by SIGKILL; return when nothing of it is under way any more."""
        self.life.die()
        self.is_dead = True
        mortal = self._mortal
        for port in mortal.ports:
            await maybeDeferred(port.stopListening)
        while not mortal.is_quiet:
            mortal.cut()
            await deferLater(reactor, 0.001)
        with outside():
            self.daemon.store.close()
            self.daemon.staging.close()
        while not self._is_unlocked():
            await deferLater(reactor, 0.001)

    def _is_unlocked(self) -> bool:
        """Return whether the daemon gets the staging area after its restart.

        A process that the other one has just begun, to delete files, has all descriptors until
        its program runs.
        """
        with outside(), (self._staging / ".lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            # Closed alone, it would stay with a process that was begun in this moment.
            fcntl.flock(file, fcntl.LOCK_UN)
        return True

    def left(self) -> list[str]:
        """Return the paths that have the server's name, but for those that may stay."""
        found = []
        for directory, directories, files in os.walk(self.directory):
            names = [name for name in (*directories, *files) if UUID in name]
            found += [os.path.relpath(f"{directory}/{name}", self.directory) for name in names]
        found = list(dict.fromkeys(map(without_mark, found)))
        return [path for path in found if ".quarantine" not in path and "/.kept" not in path]

    def forget_moved(self) -> None:
        """Remove the files that are kept of servers that have moved."""
        shutil.rmtree(self._staging / ".quarantine", ignore_errors=True)
