"""The loop of crash injection: begin a transfer, kill, start again, check the invariants."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

import attrs
from twisted.internet.task import deferLater

from tests.support.node_process import NodeProcess, reactor
from wingsd.callbacks import MINUTE
from wingsd.statedb import Store
from wingsd.transfers.steps import ReceiveStep, SendStep

#: Seconds within which everything must have settled after a restart: a refusal takes a minute.
SETTLES_WITHIN = 2 * MINUTE + 30.0
#: Seconds that a step is waited for: it is never reached when the transfer has failed before.
STEP_WITHIN = 5


class Broken(AssertionError):
    """An invariant does not hold; the text says which."""


@attrs.frozen
class Kill:
    """Which nodes are killed, and when: at a step, by its log line, or seconds after the start.

    Each one's death then waits for so many seconds of `delays`. Without victims there is only what
    the variant does.
    """

    victims: tuple[str, ...]
    moment: str | float
    delays: tuple[float, ...] = (0.0, 0.0)
    #: What the scenario varies, such as the form of the upload.
    variant: str = ""

    def __str__(self) -> str:
        at = self.moment if isinstance(self.moment, str) else f"after {self.moment:.3f} s"
        delays = ", ".join(f"+{delay:.3f} s" for delay in self.delays if delay)
        text = f"{' and '.join(self.victims) or 'no node'}: {at}{delays and f' ({delays})'}"
        return f"{text}, {self.variant}" if self.variant else text


def random_step(rng: random.Random, role: str) -> str:
    """Return the log line of one of the steps of a "source" or of a "destination"."""
    steps: Sequence[SendStep | ReceiveStep] = [*(SendStep if role == "source" else ReceiveStep)]
    # FOLLOW is a step of servers that run only: `live` has those.
    return rng.choice([step.text for step in steps if step.name not in ("FAILED", "FOLLOW")])


class Scenario(Protocol):
    """A kind of transfer that is interrupted, and what must hold afterwards."""

    @property
    def nodes(self) -> Mapping[str, NodeProcess]:
        """The nodes by their roles in the next transfer."""

    async def start(self) -> None:
        """Start the Panel and the nodes."""

    async def close(self) -> None:
        """End all that was started."""

    def plan(self, rng: random.Random) -> Kill:
        """Return the next kill."""

    async def begin(self, variant: str = "") -> None:
        """Begin a transfer."""

    async def restart(self, node: NodeProcess) -> None:
        """Start a node again that was killed; return when it knows its servers."""

    async def unsettled(self) -> str:
        """Return what has not ended yet, empty when everything has."""

    async def check(self) -> None:
        """Check the invariants of what has settled. Raises `Broken`."""

    def check_success(self) -> None:
        """Check that a transfer without a kill went well. Raises `Broken`."""


@attrs.define
class Injector:
    """The state of one run: in which steps nodes died, by their state databases."""

    scenario: Scenario
    deaths: Counter[str] = attrs.field(factory=Counter)

    async def strike(self, kill: Kill) -> None:
        """Begin a transfer, kill, start again, and check. Raises `Broken`."""
        scenario = self.scenario
        nodes = scenario.nodes
        victims = [nodes[role] for role in kill.victims]
        watched = (victims or [*nodes.values()])[0]
        mark = len(watched.log)
        await scenario.begin(kill.variant)
        await _until(kill.moment, watched, mark)
        for victim, delay in zip(victims, kill.delays, strict=False):
            await deferLater(reactor, delay)
            victim.signal("KILL")
        for victim in victims:
            await victim.ended()
            self.deaths.update(steps_of(victim))
            victim.age_transfers()
        for victim in victims:
            await scenario.restart(victim)
        await self.settle()

    async def succeed(self, variant: str = "") -> None:
        """Have a transfer go well without a kill. Raises `Broken`."""
        await self.scenario.begin(variant)
        await self.settle()
        self.scenario.check_success()

    async def settle(self) -> None:
        """Return when all has ended; check the invariants. Raises `Broken`."""
        await until_none(self.scenario.unsettled)
        await self.scenario.check()
        for node in self.scenario.nodes.values():
            if any("Traceback" in line for line in (*node.past, *node.log)):
                raise Broken(f"{node.directory.name} has logged a traceback")


async def inject(
    scenario: Scenario, count: int, seed: int, report: Callable[[str], None] = print
) -> None:
    """Kill `count` times as the seed says; report each kill and a summary. Raises `Broken`."""
    rng = random.Random(seed)
    injector = Injector(scenario)
    try:
        await scenario.start()
        for number in range(1, count + 1):
            kill = scenario.plan(rng)
            try:
                await injector.strike(kill)
                if number == count or rng.random() < 1 / 4:
                    await injector.succeed(kill.variant)
            except BaseException:
                for node in scenario.nodes.values():
                    report("\n".join((f"--- {node.directory.name}", *node.log[-40:])))
                report(f"kill {number}, seed {seed}: {kill}")
                raise
            report(f"{number}: {kill}")
    finally:
        await scenario.close()
    report(", ".join(f"{step}: {times}" for step, times in sorted(injector.deaths.items())))
    report(f"{count} kills, seed {seed}: the invariants held each time")


async def until_none(fault: Callable[[], Awaitable[str]]) -> None:
    """Return when there is no fault any more. Raises `Broken` when that takes too long."""
    deadline = reactor.seconds() + SETTLES_WITHIN
    while found := await fault():
        if reactor.seconds() > deadline:
            raise Broken(found)
        await deferLater(reactor, 0.03)


async def _until(moment: str | float, node: NodeProcess, mark: int) -> None:
    if isinstance(moment, float):
        await deferLater(reactor, moment)
        return
    with suppress(TimeoutError):
        await node.wait_for_line(moment, since=mark, within=STEP_WITHIN)


@contextmanager
def _database(node: NodeProcess) -> Iterator[Store]:
    store = Store(str(node.directory))
    store.open(read_only=True)
    try:
        yield store
    finally:
        store.close()


def is_finished(node: NodeProcess) -> bool:
    """Return whether a node's state database has nothing that is still to be done."""
    with _database(node) as store:
        under_way = (store.unfinished(), store.installations(), store.restores(), store.backups())
        starts = store.arrived_to_start()
        return not (any(under_way) or store.unsettled() or starts)


def steps_of(node: NodeProcess) -> list[str]:
    """Return the steps of all that has not ended."""
    with _database(node) as store:
        transfers, installations = store.unfinished(), store.installations()
        restores, backups, reports = store.restores(), store.backups(), store.unsettled()
    steps = [f"{entry.direction.value} {entry.step}" for entry in transfers]
    steps += [
        "install " + ("begun" if each.ran is None else "ended" if each.outcome else "running")
        for each in installations
    ]
    steps += ["restore " + ("reading" if each.inode is None else "whole") for each in restores]
    steps += ["backup being made" for _ in backups]
    steps += [f"{each.kind.value} to be reported" for each in reports if each.backup]
    return steps or ["idle"]
