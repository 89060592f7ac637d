"""Moves of a running server, in whose course daemons die at any point: without processes.

Each move goes from the machine that has the server to the other one. After it the Panel has the
server at one node, where it runs if it ran before, and was not suspended; nothing is under way any
more. Of a server that was deleted meanwhile nothing is left.

Some moves begin as a copy that follows the server. It is begun while daemons die at any point, and
in whose course the server's files may be replaced, as a restore does. None is forgotten: it
follows until the Panel orders the transfer, which goes on with it, or until its time has come.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack, suppress
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure

from tests.crash.clock import JumpingClock
from tests.crash.engine import Broken, Campaign
from tests.crash.machines import Game, Machine
from tests.crash.mortal import POINTS, Death, current_life, points_of_the_system
from tests.support.nodes import NodeError
from tests.support.panel import Panel
from tests.support.reactor import reactor
from tests.support.sample_server import UUID
from tests.support.settings import server_settings
from wingsd.direct_transfers.initiator import Invitation
from wingsd.errors import StateDatabaseError, WingsdError
from wingsd.statedb import Outcome, TransferRecord
from wingsd.threadio import Workers
from wingsd.transfers.outgoing.source import SeedOrder
from wingsd.transfers.steps import SendStep

T = TypeVar("T")

#: Seconds within which everything must have settled, and those of the daemons' time.
SETTLES_WITHIN, SETTLES_IN = 300.0, 20_000.0
#: How often a move without a death may fail, as by a timeout on a machine under load; and after
#: how many moves there is one.
TRIES, EVERY = 3, 25
#: In which share of the moves somebody does something meanwhile.
ACTING = 1 / 3
#: The share of sources that lose their power, so that the game ends as well.
POWER = 1 / 6
#: The share of deaths after which the daemon dies again after its restart.
AGAIN = 1 / 2
#: In which share of the moves a copy follows the server before; of these the share in which it
#: moves the server itself, and of the others that in which the server is off and restored.
SEEDED, DUE, RESTORED = 1 / 3, 1 / 3, 1 / 3
#: Seconds at most until a copy is due whose server is moved without the Panel.
DUE_WITHIN = 1.5
#: How often a copy is begun that daemons which die do not let begin.
SEED_TRIES = 8
#: The destination's line about a transfer that goes on with a copy.
ADOPTED = "of it are here, from an earlier transfer"

#: Requests to a node, sent once, whether it answers or not.
_REQUESTS: dict[str, tuple[str, str, str, Any]] = {
    **{
        act: ("source", "POST", f"/api/servers/{UUID}/power", {"action": act})
        for act in ("stop", "restart", "kill")
    },
    "cancel": ("source", "DELETE", f"/api/servers/{UUID}/transfer", None),
    "refuse": ("destination", "DELETE", f"/api/transfers/{UUID}", None),
}
#: After these acts the server runs as before.
RUNS_AFTER = ("", "cancel", "refuse")
ACTS = (*_REQUESTS, "crash", "suspend", "delete")
#: Seconds until a node is asked again that has died, or is busy.
ASKED_AGAIN = 0.05

Plans = dict[str, Death]
Roles = dict[str, Machine]


class LiveActs:
    """Acts of users and of the Panel on the server; `wrong` gets what goes wrong with them."""

    def __init__(self, panel: Panel, wrong: list[str]) -> None:
        #: Whether the Panel asks for something that it needs an answer to.
        self.is_asking = False
        self._panel = panel
        self._wrong = wrong

    def do(self, act: str, roles: Roles) -> None:
        """Do something with the server, or nothing."""
        if act == "crash":
            for program in [*roles["source"].engine.running.values()]:
                program.end(1)
        elif act == "suspend":
            self.begin(self.suspend(suspended=True))
        elif act == "delete":
            self.begin(self._delete())
        elif act:
            role, *request = _REQUESTS[act]
            self.begin(self._ask(roles[role], *request), needs_answer=False)

    async def suspend(self, *, suspended: bool) -> None:
        """Suspend the server, or let it be used again; return when its node has heard of that."""
        self._panel.settings_of(UUID)["suspended"] = suspended
        await self._insist("POST", "/sync", lambda status: status < HTTPStatus.BAD_REQUEST)

    async def _delete(self) -> None:
        gone = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_FOUND)
        await self._insist("DELETE", "", lambda status: status in gone)
        self._panel.remove_server(UUID)

    async def _insist(self, method: str, path: str, is_done: Callable[[int], bool]) -> None:
        """Ask the server's node until that has done it, while it is still its node."""
        while True:
            node = self._panel.node_of(UUID)
            with suppress(NodeError):  # it has died before it has answered
                status, _ = await self._panel.ask(node, method, f"/api/servers/{UUID}{path}")
                if is_done(status) and self._panel.node_of(UUID) is node:
                    return
            await deferLater(reactor, ASKED_AGAIN)

    async def _ask(self, machine: Machine, method: str, path: str, body: Any) -> None:
        with suppress(NodeError):
            await self._panel.ask(machine.node, method, path, body)

    async def transfer(self, destination: Machine) -> None:
        """Order a transfer; the source may refuse it, or die before it answers."""
        with suppress(NodeError):
            await self._panel.transfer(UUID, destination.node)

    def begin(
        self, work: Coroutine[Deferred[Any], Any, None], *, needs_answer: bool = True
    ) -> None:
        """Begin to ask for something; with `needs_answer` it is waited for."""
        self.is_asking = needs_answer

        def ended(result: Any) -> None:
            self.is_asking = False
            if result is not None:
                self._wrong.append(result.getTraceback())

        Deferred.fromCoroutine(work).addBoth(ended)


class LiveSeed:
    """A copy at `destination` that follows the server of `source`; `rng` decides what happens.

    `until` returns when the function that it gets returns nothing that is still to come.
    """

    def __init__(
        self,
        roles: Roles,
        rng: random.Random,
        until: Callable[[Callable[[], str]], Awaitable[None]],
    ) -> None:
        self.source, self.destination = roles["source"], roles["destination"]
        self._random = rng
        self._until = until
        self._began = 0

    async def begin(self, *, is_due: bool) -> None:
        """Begin it, and again until it has begun; where it `is_due` it moves the server itself.

        Raises `Broken`.
        """
        store = self.source.daemon.store
        self._began = max((each.id for each in store.transfers()), default=0)
        for _ in range(SEED_TRIES):
            stop_at = time.time() + self._random.uniform(0, DUE_WITHIN) if is_due else None
            invitation = await self._asked(self.destination, self._invite)
            if invitation is not None:
                await self._asked(self.source, partial(self._send, invitation, stop_at))
            await self._until(self._unbegun)
            if self.is_open or self.has_moved:
                return
            self._check_ended()
        raise Broken("no copy can be begun")

    async def _invite(self) -> Invitation:
        incoming = self.destination.daemon.direct_transfers
        return await incoming.expect(UUID, seconds=3600, follow=True)

    async def _send(self, invitation: Invitation, stop_at: float | None) -> None:
        outgoing = self.source.daemon.direct_transfers
        url, order = self.destination.node.address, SeedOrder(stop_at)
        await outgoing.send(UUID, url, invitation.token, remove=True, seed=order)

    def _starting(self) -> str:
        is_up = self.source.is_up and self.destination.is_up
        return "" if is_up else "a daemon is being started"

    def _unbegun(self) -> str:
        """Return what is still to come until it has begun, or has failed to."""
        if starting := self._starting():
            return starting
        is_asked = any(each.step == SendStep.ASK.name for each in self._seeds)
        return "the copy is being begun" if is_asked else ""

    async def _asked(
        self, machine: Machine, call: Callable[[], Coroutine[Deferred[Any], Any, T]]
    ) -> T | None:
        """Return a daemon's answer to an operator; None where it refuses, or dies."""
        await self._until(self._starting)
        life, found = machine.life, list[Any]()
        asking = life.run(lambda: Deferred.fromCoroutine(call()))
        if asking is not None:
            asking.addBoth(found.append)
        await self._until(lambda: "" if found or life.is_dead else "an operator waits")
        if not found:
            return None
        if isinstance(found[0], Failure):
            found[0].trap(WingsdError)
            return None
        result: T = found[0]
        return result

    def unfollowed(self) -> str:
        """Return why it does not follow the server yet, or any more. Raises `Broken`."""
        if starting := self._starting():
            return starting
        if not self.is_open:
            self._check_ended()
            return ""
        found = self.source.daemon.sender.seeds
        if not found or not found[0].rounds or found[0].trouble:
            return f"the copy does not follow the server: {found}"
        return ""

    @property
    def is_open(self) -> bool:
        """True if it has not ended, as its source has recorded."""
        open_ = self.source.daemon.store.unfinished()
        return any(each.direct and each.id > self._began for each in open_)

    @property
    def follows(self) -> bool:
        """True if it follows the server, and nothing else is under way at either node."""
        if self._starting() or not self._seeds or self.unfollowed():
            return False
        ends = self.source.daemon.store, self.destination.daemon.store
        return [len(store.unfinished()) for store in ends] == [1, 1]

    @property
    def has_copied(self) -> bool:
        """True if the copy has any bytes: a round may be of an empty directory, in a restore."""
        for path in self.destination.staged.rglob("*"):
            with suppress(OSError):
                if path.is_file() and path.stat().st_size:
                    return True
        return False

    @property
    def has_moved(self) -> bool:
        """True if it has moved the server, without the Panel, and all of that is over."""
        return (
            not self._starting()
            and not self.source.left_open()
            and not self.destination.left_open()
            and not self.source.files.exists()
            and self.destination.has_server
        )

    def _check_ended(self) -> None:
        """Raise `Broken` where it was forgotten: it had followed, and ended by itself."""
        for entry in self.source.daemon.store.transfers():
            has_failed = entry.outcome in (Outcome.FAILURE, Outcome.CANCELLED)
            if entry.id <= self._began or not entry.direct or not has_failed:
                continue
            had_followed = entry.step == SendStep.SEED.name or SendStep.SEED.text in entry.reason
            if had_followed and "seed-adopted" not in entry.reason:
                raise Broken(f"a copy was forgotten: {entry.reason}")

    @property
    def _seeds(self) -> list[TransferRecord]:
        steps = (SendStep.ASK.name, SendStep.SEED.name)
        open_ = self.source.daemon.store.unfinished()
        return [each for each in open_ if each.direct and each.step in steps]

    def restore(self) -> None:
        """Put other files in the place of the server's, which does not run."""
        files = self.source.files
        before = files.with_name("before")
        files.rename(before)
        shutil.copytree(before, files, symlinks=True)
        (files / "world" / f"restored {self._random.randrange(10**6)}").write_bytes(b"restored")
        (files / "world" / f"{self._random.randrange(1, 40)}.dat").unlink(missing_ok=True)
        shutil.rmtree(before)
        self.source.game.note_files(self.source)


class LiveFaults(Campaign):
    """Two machines, and the server that moves between them. `done` counts deaths."""

    panel: Panel
    game: Game
    acts: LiveActs

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.machines: list[Machine] = []
        #: Moves that went on to their end, copies that followed, and those that were adopted.
        self.moved = self.seeded = self.adopted = 0
        #: How many points of each kind there were in the last move without a death, by role; and
        #: at least one.
        least = dict.fromkeys(POINTS, 1)
        self._points = {"source": Counter(least), "destination": Counter(least)}
        self.clock = JumpingClock(
            lambda: any(machine.is_busy for machine in self.machines),
            lambda: sum(machine.count for machine in self.machines),
        )
        self._workers = Workers(reactor, "faults", 16)
        self._cleanup = ExitStack()

    async def start(self) -> None:
        """Start both machines, and have a move without a death."""
        observer: Any = self._hear
        globalLogPublisher.addObserver(observer)
        self._cleanup.callback(globalLogPublisher.removeObserver, observer)
        self._cleanup.enter_context(points_of_the_system())
        self._workers.start()
        self._cleanup.callback(self._workers.stop)
        self.panel = panel = Panel()
        panel.strict = True
        self.game = Game(panel, self.seed)
        self.acts = LiveActs(panel, self.game.wrong)
        await panel.listen(reactor)
        for number, name in enumerate(("one", "two"), 2):
            (self._directory / name).mkdir()
            # Of its own, as nothing else may take the port while the daemon is dead.
            host = f"127.{os.getpid() >> 8 & 255}.{os.getpid() & 255}.{number}"
            parts = panel, self.game, self._workers
            self.machines.append(Machine(self._directory / name, *parts, host, self.clock))
        first = self.machines[0]
        panel.add_server(server_settings(UUID), first.node)
        self.game.put(first)
        for machine in self.machines:
            machine.start()
        self.clock.start()
        await self._until(lambda: self._unsettled(runs=False))
        await self._succeed()

    async def close(self) -> None:
        for machine in self.machines:
            await machine.end()
        await self.clock.stop()
        await self.panel.close()
        self._cleanup.close()

    def _hear(self, event: LogEvent) -> None:
        """Note a traceback of a daemon that lives, and that a transfer goes on with a copy."""
        life = current_life()
        if "log_failure" in event and life is not None and not life.is_dead:
            self.game.wrong.append(f"{life.name}: {event['log_failure'].getTraceback()}")
        elif ADOPTED in formatEvent(event):
            self.adopted += 1

    async def trial(self, number: int) -> str:
        before = self.done
        told = await self._move()
        self.done = sum(machine.deaths for machine in self.machines)
        text = f"{told} ({self.done - before})"
        if number % EVERY == 0:
            await self._succeed()
        return text

    def evidence(self) -> list[str]:
        found = []
        for machine in self.machines:
            name = machine.name
            found.append(f"{name}: {machine.life.counts}, {[*machine.life.last]}")
            try:
                entries = machine.daemon.store.transfers()[-2:]
            except StateDatabaseError as error:  # it may have died at its start
                found.append(f"{name}: {error}")
            else:
                found += [f"{name}: {attrs.asdict(each)}" for each in entries]
        return found

    def summary(self) -> str:
        return (
            f"{self.done} deaths, {self.moved} moves went on to their end, {self.seeded} copies "
            f"followed, {self.game.starts} starts"
        )

    @property
    def owner(self) -> Machine | None:
        """The machine that has the server, according to the Panel; None when it was deleted."""
        if not self.panel.knows(UUID):
            return None
        return next(each for each in self.machines if each.node is self.panel.node_of(UUID))

    async def _succeed(self) -> None:
        """Move the server while nothing dies. Raises `Broken`."""
        for _ in range(TRIES):
            if (await self._move(deaths=False)).endswith("moved"):
                return
        raise Broken("moves without a death do not go well")

    async def _move(self, *, deaths: bool = True) -> str:
        """Move the server while daemons die; return what died where. Raises `Broken`."""
        source = await self._usable()
        (destination,) = (each for each in self.machines if each is not source)
        roles = {"source": source, "destination": destination}
        seed, followed = None, ""
        if deaths and self.rng.random() < SEEDED:
            seed = LiveSeed(roles, self.rng, self._until)
            if self.rng.random() < DUE:
                return await self._move_when_due(seed, roles)
            followed = await self._follow(seed, roles)
        await self._run()
        self.game.prune()
        adopted, is_kept = self.adopted, seed is not None and seed.has_copied
        plans = self._prepare(roles, deaths=deaths)
        act = self.rng.choice([*ACTS]) if deaths and self.rng.random() < ACTING else ""
        at = self.rng.randint(1, self._points["source"].total())
        source.after(at if act else 0, partial(self.acts.do, act, roles))
        await self.acts.transfer(destination)
        runs = act in RUNS_AFTER
        await self._until(lambda: self._unsettled_but(seed, runs=runs))
        if seed is not None and seed.follows:  # the order was lost with its daemon
            self._prepare(roles, deaths=False)
            await self.panel.transfer(UUID, destination.node)
            await self._until(lambda: self._unsettled(runs=runs))
        if not deaths:
            least = Counter(dict.fromkeys(POINTS, 1))
            self._points = {role: least | each.life.counts for role, each in roles.items()}
        moved = self._end_move(roles)
        if is_kept and moved and "destination" not in plans and self.adopted == adopted:
            raise Broken("a transfer did not go on with the copy")
        outcome = "moved" if moved else "stays" if self.owner else "is gone"
        return f"{followed}{_shown(plans)}{act and f', {act}'}: {outcome}"

    async def _usable(self) -> Machine:
        """Return the machine that has the server, which is not suspended; create it if need be."""
        for machine in self.machines:
            machine.life.plan(None)
            machine.forget_moved()
        owner = self.owner or self.machines[0]
        if self.owner is None:
            self.game.put(owner)
            self.panel.add_server(server_settings(UUID), owner.node)
            await owner.restart()
        elif self.panel.settings_of(UUID)["suspended"]:
            await self.acts.suspend(suspended=False)
        # A stop that an earlier daemon has asked for may still be to come.
        ending = "the game was asked to end"
        await self._until(
            lambda: self._unsettled(runs=False) or (ending if self.game.is_ending else "")
        )
        return owner

    async def _run(self) -> None:
        """Start the game, unless it runs."""
        if not self.game.runs_at:
            await self.panel.power(UUID, "start")
            await self._until(lambda: self._unsettled(runs=True, but_seeds=True))

    def _prepare(self, roles: Roles, *, deaths: bool = True) -> Plans:
        """Plan the next deaths of daemons, if any; return the plan."""
        plans: Plans = {}
        if deaths:
            victims = self.rng.choice((("source",), ("destination",), ("source", "destination")))
            plans = {role: self._death(role, self.rng) for role in victims}
        for role, machine in roles.items():
            machine.life.plan(plans.get(role))
            machine.next_death = lambda: None
            if role in plans:
                again = random.Random(self.rng.random())
                machine.next_death = partial(self._next_death, role, again)
        roles["source"].loses_power = "source" in plans and self.rng.random() < POWER
        return plans

    def _next_death(self, role: str, rng: random.Random) -> Death | None:
        return self._death(role, rng) if rng.random() < AGAIN else None

    def _death(self, role: str, rng: random.Random) -> Death:
        kind = rng.choice(POINTS)
        return Death(kind, rng.randint(1, self._points[role][kind]))

    def _rest(self, roles: Roles) -> None:
        for machine in roles.values():
            machine.rest()

    def _end_move(self, roles: Roles) -> bool:
        """Check what must hold after a move; return whether the server has moved."""
        self._rest(roles)
        self._check()
        moved = self.owner is roles["destination"]
        self.moved += moved
        return moved

    async def _follow(self, seed: LiveSeed, roles: Roles) -> str:
        """Let a copy follow the server while daemons die; return what died where."""
        is_restored = self.rng.random() < RESTORED
        if is_restored and self.game.runs_at:
            await self.panel.power(UUID, "stop")
            await self._until(lambda: "it runs" if self.game.runs_at else "")
            await self._until(lambda: self._unsettled(runs=False))
        elif not is_restored:
            await self._run()
        plans = self._prepare(roles)
        left = [is_restored]

        def restore() -> None:
            if left.pop():
                seed.restore()
            left.append(False)

        at = self.rng.randint(1, self._points["source"].total())
        seed.source.after(at if is_restored else 0, restore)
        await seed.begin(is_due=False)
        await self._until(seed.unfollowed)
        self.seeded += 1
        self._rest(roles)
        restore()
        return f"a copy{is_restored * ' of what is restored'} follows, {_shown(plans)}; "

    async def _move_when_due(self, seed: LiveSeed, roles: Roles) -> str:
        """Let a copy move the server itself, unless the Panel orders that before."""
        await self._run()
        source, destination = roles.values()
        self.game.prune()
        self.game.due_at = destination
        plans = self._prepare(roles)
        await seed.begin(is_due=True)
        self.seeded += 1
        at = self.rng.randint(1, self._points["source"].total())
        source.after(at, lambda: self.acts.begin(self.acts.transfer(destination)))

        def unsettled() -> str:
            if self.panel.in_transfer(UUID) or self.acts.is_asking or not seed.has_moved:
                return self._unsettled(runs=True)
            return ""

        await self._until(unsettled)
        self._rest(roles)
        by_itself = seed.has_moved and self.owner is source
        if by_itself:
            self.panel.assign(UUID, destination.node)
            for machine in roles.values():
                await machine.restart()
        self.game.due_at = None
        await self._until(lambda: self._unsettled(runs=True))
        moved = self._end_move(roles)
        how = "moved by itself" if by_itself else "moved" if moved else "stays"
        return f"a copy that is due, {_shown(plans)}: {how}"

    async def _until(self, unsettled: Callable[[], str]) -> None:
        deadline, end = reactor.seconds() + SETTLES_WITHIN, self.clock.seconds() + SETTLES_IN

        def holds() -> bool:
            left = unsettled()
            if self.game.wrong:
                raise Broken("; ".join(self.game.wrong))
            if left and (reactor.seconds() > deadline or self.clock.seconds() > end):
                raise Broken(f"it does not settle: {left}")
            return not left

        await self.clock.until(holds)

    def _unsettled_but(self, seed: LiveSeed | None, *, runs: bool) -> str:
        """Return what has not ended yet, but for a copy that follows."""
        is_known = self.panel.knows(UUID)
        if seed is not None and is_known and not self.panel.in_transfer(UUID) and seed.follows:
            return ""
        return self._unsettled(runs=runs)

    def _under_way(self, *, but_seeds: bool) -> str:
        if self.acts.is_asking:
            return "the Panel asks a node for something"
        if self.panel.knows(UUID) and self.panel.in_transfer(UUID):
            return "the Panel's transfer is open"
        for machine in self.machines:
            if machine.is_dead or machine.life.is_dead:
                return f"{machine.name} is being started"
            if not but_seeds and (left := machine.left_open()):
                return f"{machine.name}: {left}"
        return ""

    def _unsettled(self, *, runs: bool, but_seeds: bool = False) -> str:
        if under_way := self._under_way(but_seeds=but_seeds):
            return under_way
        owner = self.owner
        for other in self.machines if not but_seeds else ():
            if other is not owner and (paths := other.left()):
                return f"of the server {other.name} still has {paths}"
            if other is not owner and other.has_server:
                return f"{other.name} still has the server"
        if owner is None:
            return ""
        return owner.stuck(runs=runs, suspended=self.panel.settings_of(UUID)["suspended"])

    def _check(self) -> None:
        wrong = [*self.game.wrong]
        kept = {f"volumes/{UUID}", f"machine-id/{UUID}"}
        for machine in self.machines:
            here = machine is self.owner
            # One that was refused its start, as it is suspended, has none until its next start.
            may_lack = here and self.panel.settings_of(UUID)["suspended"]
            if (UUID in machine.engine.containers) is not here and not may_lack:
                wrong.append(f"{machine.name} has{' no' * here} container of the server")
            if UUID in machine.engine.running and not here:
                wrong.append(f"the server runs at {machine.name}")
            left = [path for path in machine.left() if not here or path not in kept]
            if left:
                wrong.append(f"{machine.name} has {left} left")
        if wrong:
            raise Broken("; ".join(wrong))


def _shown(plans: Plans) -> str:
    return ", ".join(f"{role} at {death}" for role, death in plans.items()) or "no death"
