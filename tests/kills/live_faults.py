"""Moves of a running server, in whose course daemons die at any point: without processes.

Each move goes from the machine that has the server to the other one. After it the Panel has the
server at one node, where it runs if it ran before, and was not suspended; nothing is under way any
more. Of a server that was deleted meanwhile nothing is left.

Some moves begin as a copy that follows the server, see `live_seeds`.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from tests.kills.engine import Broken
from tests.kills.fault_points import KINDS, Death, current_life, points_of_the_system
from tests.kills.jumping_clock import JumpingClock
from tests.kills.live_acts import ACTS, RUNS_AFTER, LiveActs
from tests.kills.live_seeds import ADOPTED, LiveSeed
from tests.kills.machines import Game, Machine
from tests.support.nodes import NodeError
from tests.support.panel import Panel
from tests.support.reactor import reactor
from tests.support.sample_server import UUID
from tests.support.settings import server_settings
from wingsd.errors import StateDatabaseError
from wingsd.threadio import Workers

__all__ = ["LiveFaults", "inject_faults"]

#: Seconds within which everything must have settled, and those of the daemons' time.
SETTLES_WITHIN, SETTLES_IN = 300.0, 20_000.0
#: The points of a daemon in a move of which it has none by itself.
POINTS = dict.fromkeys(KINDS, 1)
#: How often a move without a death may fail, as by a timeout on a machine under load.
TRIES = 3
#: In which share of the moves somebody does something meanwhile.
ACTING = 1 / 3
#: The share of sources that lose their power, so that the game ends as well.
POWER = 1 / 6
#: The share of deaths after which the next daemon dies as well.
AGAIN = 1 / 2
#: In which share of the moves a copy follows the server before; of these the share in which it
#: moves the server itself, and of the others that in which the server is off and restored.
SEEDED, DUE, RESTORED = 1 / 3, 1 / 3, 1 / 3


class LiveFaults:
    """Two machines, and the server that moves between them."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.panel = Panel()
        self.panel.strict = True
        self.game = Game(self.panel, seed)
        self.acts = LiveActs(self.panel, self.game.wrong)
        self.machines: list[Machine] = []
        #: Moves that went on to their end, copies that followed, and those that were adopted.
        self.moved = self.seeded = self.adopted = 0
        #: How many points of each kind there were in the last move without a death, by role.
        self._points = {"source": Counter(POINTS), "destination": Counter(POINTS)}
        self.clock = JumpingClock(self._is_busy, self._count)
        self._directory = directory
        self._workers = Workers(reactor, "faults", 16)

    async def start(self) -> None:
        self._workers.start()
        await self.panel.listen(reactor)
        for name in ("one", "two"):
            (self._directory / name).mkdir()
            # Of its own, as nothing else may take the port while the daemon is dead.
            host = f"127.{os.getpid() >> 8 & 255}.{os.getpid() & 255}.{len(self.machines) + 2}"
            parts = self.panel, self.game, self._workers
            self.machines.append(Machine(self._directory / name, *parts, host, self.clock))
        first = self.machines[0]
        self.panel.add_server(server_settings(UUID), first.node)
        self.game.put(first)
        for machine in self.machines:
            machine.start()
        self.clock.start()
        await self._until(lambda: self._unsettled(runs=False))

    def hear(self, event: LogEvent) -> None:
        """Note a traceback of a daemon that lives, and that a transfer goes on with a copy."""
        life = current_life()
        if "log_failure" in event and life is not None and not life.is_dead:
            self.game.wrong.append(f"{life.name}: {event['log_failure'].getTraceback()}")
        elif ADOPTED in formatEvent(event):
            self.adopted += 1

    async def close(self) -> None:
        for machine in self.machines:
            await machine.end()
        await self.clock.stop()
        await self.panel.close()
        self._workers.stop()

    @property
    def owner(self) -> Machine | None:
        """The machine that has the server, according to the Panel; None when it was deleted."""
        if not self.panel.knows(UUID):
            return None
        return next(each for each in self.machines if each.node is self.panel.node_of(UUID))

    @property
    def deaths(self) -> int:
        return sum(machine.deaths for machine in self.machines)

    async def move(self, *, deaths: bool = True) -> str:
        """Have the server moved while daemons die; return what died where. Raises `Broken`."""
        source = await self._usable()
        (destination,) = (each for each in self.machines if each is not source)
        roles = {"source": source, "destination": destination}
        seed, followed = None, ""
        if deaths and self.random.random() < SEEDED:
            seed = LiveSeed(source, destination, self.random, self._until)
            if self.random.random() < DUE:
                return await self._move_when_due(seed, roles)
            followed = await self._follow(seed, roles)
        await self._run()
        self.game.prune()
        adopted, is_kept = self.adopted, seed is not None and seed.has_copied
        plans = self._prepare(roles) if deaths else self._prepare(roles, {})
        act = self.random.choice([*ACTS]) if deaths and self.random.random() < ACTING else ""
        at = self.random.randint(1, self._points["source"].total())
        source.after(at if act else 0, partial(self.acts.do, act, *roles.values()))
        with suppress(NodeError):  # it has died before it has answered
            await self.panel.transfer(UUID, destination.node)
        await self._until(lambda: self._unsettled_but(seed, runs=act in RUNS_AFTER))
        if seed is not None and seed.follows:  # the order was lost with its daemon
            self._prepare(roles, {})
            await self.panel.transfer(UUID, destination.node)
            await self._until(lambda: self._unsettled(runs=act in RUNS_AFTER))
        if not deaths:
            for role, machine in roles.items():
                self._points[role] = Counter(POINTS) | machine.life.counts
        self._rest(roles)
        self._check()
        moved = self.owner is destination
        self.moved += moved
        if is_kept and moved and "destination" not in plans and self.adopted == adopted:
            raise Broken("a transfer did not go on with the copy")
        outcome = "moved" if moved else "stays" if self.owner else "is gone"
        return f"{followed}{_told(plans)}{act and f', {act}'}: {outcome}"

    async def _run(self) -> None:
        """Have the game run."""
        if not self.game.runs_at:
            await self.panel.power(UUID, "start")
            await self._until(lambda: self._unsettled(runs=True, but_seeds=True))

    def _prepare(
        self, roles: dict[str, Machine], plans: dict[str, Death] | None = None
    ) -> dict[str, Death]:
        """Have daemons die as planned, or in a new plan; return that."""
        plans = self._plan() if plans is None else plans
        for role, machine in roles.items():
            machine.life.plan(plans.get(role))
            machine.then(lambda: None)
            if role in plans:
                machine.then(partial(self._next_death, role, random.Random(self.random.random())))
        source = roles["source"]
        source.loses_power = "source" in plans and self.random.random() < POWER
        return plans

    def _rest(self, roles: dict[str, Machine]) -> None:
        """Have nothing happen to the daemons any more."""
        for machine in roles.values():
            machine.after(0, lambda: None)
            machine.then(lambda: None)
            machine.life.plan(None)
            machine.loses_power = False

    # Copies that follow

    async def _follow(self, seed: LiveSeed, roles: dict[str, Machine]) -> str:
        """Have a copy follow the server while daemons die; return what died where."""
        is_restored = self.random.random() < RESTORED
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

        at = self.random.randint(1, self._points["source"].total())
        seed.source.after(at if is_restored else 0, restore)
        await seed.begin(is_due=False)
        await self._until(seed.unfollowed)
        self.seeded += 1
        self._rest(roles)
        restore()
        return f"a copy{is_restored * ' of what is restored'} follows, {_told(plans)}; "

    async def _move_when_due(self, seed: LiveSeed, roles: dict[str, Machine]) -> str:
        """Have a copy move the server itself, unless the Panel orders that before."""
        await self._run()
        source, destination = roles.values()
        self.game.prune()
        self.game.due_at = destination
        plans = self._prepare(roles)
        await seed.begin(is_due=True)
        self.seeded += 1
        order = partial(self._order, destination)
        source.after(self.random.randint(1, self._points["source"].total()), order)

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
        self._check()
        moved = self.owner is destination
        self.moved += moved
        how = "moved by itself" if by_itself else "moved" if moved else "stays"
        return f"a copy that is due, {_told(plans)}: {how}"

    def _order(self, destination: Machine) -> None:
        """Have the Panel order the transfer, which the source may refuse."""
        self.acts.begin(self._transfer(destination))

    async def _transfer(self, destination: Machine) -> None:
        with suppress(NodeError):
            await self.panel.transfer(UUID, destination.node)

    def _unsettled_but(self, seed: LiveSeed | None, *, runs: bool) -> str:
        if seed is not None and not self.panel.knows(UUID):
            return self._unsettled(runs=runs)
        if seed is not None and not self.panel.in_transfer(UUID) and seed.follows:
            return ""
        return self._unsettled(runs=runs)

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
        await self._until(lambda: self._unsettled(runs=False) or self._ending())
        return owner

    def _ending(self) -> str:
        """Return what is to be waited for of a stop that an earlier daemon has asked for."""
        return "the game was asked to end" if self.game.is_ending else ""

    async def succeed(self) -> None:
        """Have the server moved while nothing dies. Raises `Broken`."""
        for _ in range(TRIES):
            if (await self.move(deaths=False)).endswith("moved"):
                return
        raise Broken("moves without a death do not go well")

    def _plan(self) -> dict[str, Death]:
        victims = self.random.choice((("source",), ("destination",), ("source", "destination")))
        return {role: self._death(role, self.random) for role in victims}

    def _next_death(self, role: str, rng: random.Random) -> Death | None:
        return self._death(role, rng) if rng.random() < AGAIN else None

    def _death(self, role: str, rng: random.Random) -> Death:
        kind = rng.choice(KINDS)
        return Death(kind, rng.randint(1, self._points[role][kind]))

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

    def _is_busy(self) -> bool:
        return any(machine.is_busy for machine in self.machines)

    def _count(self) -> int:
        return sum(machine.count for machine in self.machines)

    def _unsettled(self, *, runs: bool, but_seeds: bool = False) -> str:
        if under_way := self._under_way(but_seeds=but_seeds):
            return under_way
        owner = self.owner
        for other in self.machines:
            if other is not owner and not but_seeds and (left := other.left()):
                return f"of the server {other.name} still has {left}"
            if other is not owner and not but_seeds and other.daemon.has_server:
                return f"{other.name} still has the server"
        if owner is None:
            return ""
        return owner.daemon.stuck(runs=runs, suspended=self.panel.settings_of(UUID)["suspended"])

    def _under_way(self, *, but_seeds: bool) -> str:
        if self.acts.is_asking:
            return "the Panel asks a node for something"
        if self.panel.knows(UUID) and self.panel.in_transfer(UUID):
            return "the Panel's transfer is open"
        for machine in self.machines:
            if machine.is_dead or machine.life.is_dead:
                return f"{machine.name} is being started"
            if not but_seeds and (left := machine.daemon.left_open()):
                return f"{machine.name}: {left}"
        return ""

    def _check(self) -> None:
        wrong = [*self.game.wrong]
        for machine in self.machines:
            here = machine is self.owner
            # One that was refused its start, as it is suspended, has none until its next start.
            may_lack = here and self.panel.settings_of(UUID)["suspended"]
            if (UUID in machine.engine.containers) is not here and not may_lack:
                wrong.append(f"{machine.name} has{' no' * here} container of the server")
            if UUID in machine.engine.running and not here:
                wrong.append(f"the server runs at {machine.name}")
            left = [path for path in machine.left() if not here or path not in self._kept]
            if left:
                wrong.append(f"{machine.name} has {left} left")
        if wrong:
            raise Broken("; ".join(wrong))

    @property
    def _kept(self) -> set[str]:
        return {f"volumes/{UUID}", f"machine-id/{UUID}"}


async def inject_faults(
    directory: Path, count: int, seed: int, report: Callable[[str], None] = print
) -> int:
    """Have daemons die `count` times as the seed says; return how many moves went well."""
    begun = reactor.seconds()
    faults = LiveFaults(directory, seed)
    observer: Any = faults.hear
    globalLogPublisher.addObserver(observer)
    with points_of_the_system():
        try:
            await faults.start()
            number = 0
            await faults.succeed()
            while faults.deaths < count:
                number += 1
                before = faults.deaths
                told = "?"
                try:
                    told = await faults.move()
                except BaseException:
                    for machine in faults.machines:
                        report(f"{machine.name}: {machine.life.counts}, {[*machine.life.last]}")
                        report("\n".join(_lines(machine)))
                    report(f"move {number}, seed {seed}, {faults.deaths} deaths")
                    raise
                report(f"{number}: {told} ({faults.deaths - before})")
                if number % 25 == 0:
                    await faults.succeed()
        finally:
            await faults.close()
            globalLogPublisher.removeObserver(observer)
    seconds = reactor.seconds() - begun
    report(
        f"{faults.deaths} kills, seed {seed}: the invariants held each time; {number} moves, "
        f"{faults.moved} went on to their end, {faults.seeded} copies followed, "
        f"{faults.game.starts} starts, {seconds:.0f} s"
    )
    return faults.moved


def _told(plans: dict[str, Death]) -> str:
    return ", ".join(f"{role} at {death}" for role, death in plans.items()) or "no death"


def _lines(machine: Machine) -> list[str]:
    """Return what the daemon has told of its last transfers; one may have died at its start."""
    try:
        entries: list[Any] = machine.daemon.store.transfers()[-2:]
    except StateDatabaseError as error:
        return [f"{machine.name}: {error}"]
    return [f"{machine.name}: {attrs.asdict(each)}" for each in entries]
