"""Kills of whole nodes: begin something, kill, start again, and check the invariants."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import attrs
from twisted.internet.task import deferLater

from tests.crash.engine import SETTLES_WITHIN, Broken, Campaign, until_none
from tests.support.node_process import NodeProcess, reactor
from wingsd.statedb import Store
from wingsd.transfers.steps import ReceiveStep, SendStep

#: Seconds that a step is waited for: it is never reached when the transfer has failed before.
STEP_WITHIN = 5


@attrs.frozen
class Kill:
    """The nodes that are killed, and when: at a step, by its log line, or seconds after the start.

    Each one's death then waits for so many seconds of `delays`. Without victims only the variant
    happens.
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


def steps(role: str) -> list[str]:
    """Return the log lines of the steps of a "source" or of a "destination"."""
    every: Sequence[SendStep | ReceiveStep] = [*(SendStep if role == "source" else ReceiveStep)]
    # FOLLOW is a step of servers that run only: `live` has those.
    return [step.text for step in every if step.name not in ("FAILED", "FOLLOW")]


def random_step(rng: random.Random, role: str) -> str:
    """Return the log line of one of these steps."""
    return rng.choice(steps(role))


class Kills(Campaign):
    """Kills of nodes in the course of something, and what must hold afterwards."""

    #: Seconds within which everything must have settled.
    settles_within: float = SETTLES_WITHIN

    def __init__(self) -> None:
        #: In which steps nodes died, by their state databases.
        self.deaths: Counter[str] = Counter()
        self.kill = Kill((), 0.0)

    @property
    def nodes(self) -> Mapping[str, NodeProcess]:
        """The nodes by their roles in what begins next."""
        raise NotImplementedError

    def plan(self, rng: random.Random) -> Kill:
        """Return the next kill."""
        raise NotImplementedError

    async def begin(self, variant: str = "") -> None:
        """Begin something."""
        raise NotImplementedError

    async def restart(self, node: NodeProcess) -> None:
        """Start a node again that was killed; return when it knows its servers."""
        raise NotImplementedError

    async def unsettled(self) -> str:
        """Return what has not ended yet, empty when everything has."""
        raise NotImplementedError

    async def check(self) -> None:
        """Check the invariants of what has settled. Raises `Broken`."""
        raise NotImplementedError

    def check_success(self) -> None:
        """Check that all went well without a kill. Raises `Broken`."""

    async def trial(self, number: int) -> str:
        self.plan_of_trial = self.kill = kill = self.plan(self.rng)
        await self.strike(kill)
        # After some kills, and the last, the same must go well without one.
        if number == self.count or self.rng.random() < 1 / 4:
            await self.begin(kill.variant)
            await self.settle()
            self.check_success()
        self.done = number
        return str(kill)

    async def strike(self, kill: Kill) -> None:
        """Begin, kill, start again, and check. Raises `Broken`."""
        nodes = self.nodes
        victims = [nodes[role] for role in kill.victims]
        watched = (victims or [*nodes.values()])[0]
        mark = len(watched.log)
        await self.begin(kill.variant)
        if isinstance(kill.moment, float):
            await deferLater(reactor, kill.moment)
        else:
            with suppress(TimeoutError):
                await watched.wait_for_line(kill.moment, since=mark, within=STEP_WITHIN)
        for victim, delay in zip(victims, kill.delays, strict=False):
            await deferLater(reactor, delay)
            victim.signal("KILL")
        for victim in victims:
            await victim.ended()
            self.deaths.update(steps_of(victim))
            victim.age_transfers()
        for victim in victims:
            await self.restart(victim)
        await self.settle()

    async def settle(self) -> None:
        """Return when all has ended; check the invariants. Raises `Broken`."""
        await until_none(self.unsettled, self.settles_within)
        await self.check()
        for node in self.nodes.values():
            if any("Traceback" in line for line in (*node.past, *node.log)):
                raise Broken(f"{node.directory.name} has logged a traceback")

    def evidence(self) -> list[str]:
        every = self.nodes.values()
        return [
            "\n".join((f"--- {node.directory.name}", *node.past[-40:], "---", *node.log[-40:]))
            for node in every
        ]

    def summary(self) -> str:
        return ", ".join(f"{step}: {times}" for step, times in sorted(self.deaths.items()))


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
        rewinds = [each for each in store.rewinds() if each.outcome is None]
        return not (rewinds or any(under_way) or store.unsettled() or starts)


def steps_of(node: NodeProcess) -> list[str]:
    """Return the steps of all that has not ended."""
    with _database(node) as store:
        transfers, installations = store.unfinished(), store.installations()
        restores, backups, reports = store.restores(), store.backups(), store.unsettled()
        rewinds = store.rewinds()
    found = [f"{entry.direction.value} {entry.step}" for entry in transfers]
    found += [
        "install " + ("begun" if each.ran is None else "ended" if each.outcome else "running")
        for each in installations
    ]
    found += ["restore " + ("reading" if each.inode is None else "whole") for each in restores]
    found += ["backup being made" for _ in backups]
    found += [f"{each.kind.value} to be reported" for each in reports if each.backup]
    found += ["rewind under way" for each in rewinds if each.outcome is None]
    return found or ["idle"]
