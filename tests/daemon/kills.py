"""Kills nodes at every step of a move and at random moments, and sees that nothing is lost.

    python -m tests.daemon.kills --count 500 --seed 1
    python -m tests.daemon.kills --count 200 --seed 1 --docker

A server moves to and fro between two real daemons. Each time one of them, or both, are killed with
SIGKILL, at a step of the journal or anywhere. They are started again, and then there must be one
whole copy of the server, at the node that the Panel says, nothing of it at the other (but in
quarantine), nothing unfinished in the journals, and the next move must go well.

With `--docker` both nodes share a real engine, where the server runs before some of the moves.
Then there must be one container as well, the server's own at the node that the Panel says.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TooLate
from twisted.internet.task import deferLater, react

from tests.archives import seen
from tests.daemon.containers import Containers
from tests.daemon.daemon import reactor
from tests.daemon.harness import UUID
from tests.daemon.pair import Pair, Peer
from tests.engine import Engine, cleaned_engine, connected, imported_busybox
from wingsd.statedb.store import Store
from wingsd.transfers.panel_callbacks import MINUTE
from wingsd.transfers.steps import ReceiveStep, SendStep

__all__ = [
    "Broken",
    "Harness",
    "Kill",
    "arguments_of",
    "kill_often",
    "plan",
    "plan_with_engine",
]

#: Seconds in which all must have come to rest again.
SETTLES_WITHIN = MINUTE + 30.0
#: Seconds at most from a move's beginning to a kill at random.
LATEST = 0.6
#: Seconds at most that an engine is given for its work, which takes it about as long: until the
#: first dies, and then until the second.
LINGER = 0.15
#: Bytes of the server that do not compress.
SIZE = 400_000


@attrs.frozen
class Kill:
    """Who dies, and when: at the words of a step, or so many seconds after the beginning.

    Each one's death then waits for so many seconds of `delays`.
    """

    victims: tuple[str, ...]
    moment: str | float
    delays: tuple[float, ...] = (0.0, 0.0)
    #: Whether the server runs before it moves.
    running: bool = False

    def __str__(self) -> str:
        at = self.moment if isinstance(self.moment, str) else f"after {self.moment:.3f} s"
        waits = ", ".join(f"+{delay:.3f} s" for delay in self.delays if delay)
        told = f"{' and '.join(self.victims)}: {at}{waits and f' ({waits})'}"
        return f"{told}, running" if self.running else told


VICTIMS = (("source",), ("destination",), ("source", "destination"))


class Broken(AssertionError):
    """The invariant does not hold; the text says what is wrong."""


def plan(rng: random.Random, victims_of: Sequence[tuple[str, ...]] = VICTIMS) -> Kill:
    """Return one kill; the moment is a step of the first to die."""
    victims = rng.choice(victims_of)
    if rng.random() < 1 / 3:
        return Kill(victims, rng.uniform(0, LATEST))
    steps: list[Any] = [*SendStep] if victims[0] == "source" else [*ReceiveStep]
    return Kill(victims, rng.choice([step.words for step in steps if step.name != "FAILED"]))


def plan_with_engine(rng: random.Random) -> Kill:
    """Return one kill of nodes that have an engine.

    What it is asked for takes it some time: a node may die before it begins, in the middle of it,
    or when only its answer is missing, and the other while it undoes what that has made fail.
    """
    kill = plan(rng, (*VICTIMS, ("destination", "source")))
    delays = (rng.uniform(0, LINGER), rng.uniform(0, LINGER))
    return attrs.evolve(kill, delays=delays, running=rng.random() < 1 / 3)


class Harness:
    """Two nodes with one server between them, on an engine or without one."""

    def __init__(
        self, directory: Path, engine: Engine | None = None, pair: Pair | None = None
    ) -> None:
        self.pair = pair or Pair(directory)
        # It describes a server to a transfer's nodes alone, by which these know what is over.
        self.pair.panel.strict = True
        for peer in (self.pair.source, self.pair.destination):
            # One that dies is not waited for as if its answer alone were lost.
            peer.transfers = {"answer_grace": 0}
        self._containers = Containers(engine, self.pair) if engine else None
        self._changes = self._containers.configuration if self._containers else {}
        self.before: Any = None
        #: What the Panel asks the source for, beside the move.
        self.asked: dict[str, Any] = {}
        #: How many died in which step, as their journals had it.
        self.deaths: Counter[str] = Counter()

    async def start(self) -> None:
        """Start the Panel and both nodes."""
        self.pair.add_server(SIZE, **(self._containers.settings if self._containers else {}))
        await self.pair.start(self._changes, self._changes)
        self.before = seen(self.pair.source.files())
        if self._containers:
            # Its container is made with its first start.
            await self._containers.run()

    async def close(self) -> None:
        """End everything."""
        await self.pair.close()

    @property
    def ends(self) -> tuple[Peer, Peer]:
        """The node that has the server, and the other."""
        source, destination = self.pair.source, self.pair.destination
        return (source, destination) if self.pair.has_it is source else (destination, source)

    async def strike(self, kill: Kill) -> None:
        """Begin a move, kill, start again, and see that all is well. Raises `Broken`."""
        source, destination = self.ends
        peers = {"source": source, "destination": destination}
        victims = [peers[name] for name in kill.victims]
        if self._containers and kill.running:
            await self._containers.run()
        mark = len(victims[0].log)
        await self.pair.panel.transfer(UUID, destination.node, **self.asked)
        await self._until_moment(kill.moment, victims[0], mark)
        await self._kill(victims, kill.delays)
        await self._settle()
        for peer in (source, destination):
            shutil.rmtree(peer.staging / ".quarantine", ignore_errors=True)

    async def _kill(self, victims: list[Peer], delays: tuple[float, ...]) -> None:
        """Kill them one after the other, and start them again."""
        for peer, delay in zip(victims, delays, strict=False):
            await deferLater(reactor, delay)
            peer.signal("KILL")
        for peer in victims:
            await peer.ended()
            self.deaths.update(_steps(peer))
            peer.age()
        for peer in victims:
            await peer.start(**self._changes)

    async def _until_moment(self, moment: str | float, peer: Peer, mark: int) -> None:
        if isinstance(moment, float):
            await deferLater(reactor, moment)
            return
        # A step may never be reached, when the move has failed before.
        with suppress(TooLate):
            await peer.wait_for_line(moment, since=mark).addTimeout(5, reactor)

    async def _settle(self) -> None:
        """Return when all has come to rest, and is as it must be."""
        await self._until_none(self._unrest)
        self.check()
        if self._containers:
            await self._until_none(self._containers.fault)

    async def _until_none(self, fault: Callable[[], Awaitable[str]]) -> None:
        deadline = reactor.seconds() + SETTLES_WITHIN
        while what := await fault():
            if reactor.seconds() > deadline:
                raise Broken(what)
            await deferLater(reactor, 0.05)

    async def _unrest(self) -> str:
        if self.pair.panel.in_transfer(UUID):
            return "the Panel's transfer does not end"
        finished = all(_is_finished(peer) and not _is_deleting(peer) for peer in self.ends)
        return "" if finished else "a node does not come to its end with what it has begun"

    def check(self) -> None:
        """Raise `Broken` where anything is not as it must be."""
        here, there = self.ends
        if not here.files().is_dir():
            raise Broken("the server is lost: it is not where the Panel says")
        if seen(here.files()) != self.before:
            raise Broken("the server is not whole where the Panel says that it is")
        left = [name for peer in (here, there) for name in peer.left() if _counts(name)]
        left.remove(f"volumes/{UUID}")
        if left:
            raise Broken(f"something is left over: {left}")
        logs = (*here.past, *here.log, *there.past, *there.log)
        if any("Traceback" in line for line in logs):
            raise Broken("a node has met what nobody foresaw")

    async def move(self) -> None:
        """Move the server without a kill. Raises `Broken` when that does not go well."""
        _, destination = self.ends
        await self.pair.panel.transfer(UUID, destination.node, **self.asked)
        await self._settle()
        if self.pair.has_it is not destination:
            raise Broken("the next move does not go well")

    def tail(self) -> str:
        """Return the ends of both nodes' logs."""
        logs = [(peer.directory.name, peer.log[-40:]) for peer in self.ends]
        return "\n".join(line for name, log in logs for line in (f"--- {name}", *log))


def _counts(name: str) -> bool:
    return ".quarantine" not in name


@contextmanager
def _journal(peer: Peer) -> Iterator[Store]:
    store = Store(str(peer.directory))
    store.open(read_only=True)
    try:
        yield store
    finally:
        store.close()


def _is_finished(peer: Peer) -> bool:
    with _journal(peer) as journal:
        return not journal.unfinished() and not journal.unsettled()


def _steps(peer: Peer) -> list[str]:
    """Return where the transfers are, by the journal, that have not ended."""
    with _journal(peer) as journal:
        entries = journal.unfinished()
    return [f"{entry.direction.value} {entry.step}" for entry in entries] or ["at rest"]


def _is_deleting(peer: Peer) -> bool:
    # Deletions and tidying up go on in the background.
    return any(".deleting" in name for name in peer.left()) or any(
        path.name.endswith(".discarded") for path in peer.staging.iterdir()
    )


@contextmanager
def _real_engine(directory: Path) -> Iterator[Engine]:
    with (
        connected() as client,
        imported_busybox(client) as image,
        cleaned_engine(client, image, directory) as engine,
    ):
        yield engine


async def kill_often(
    harness: Harness, count: int, seed: int, plan_one: Callable[[random.Random], Kill] = plan
) -> None:
    """Strike with `count` kills of a seed and tell of each. Raises `Broken`."""
    rng = random.Random(seed)
    kills = 0
    try:
        await harness.start()
        while kills < count:
            kill = plan_one(rng)
            try:
                await harness.strike(kill)
                kills += len(kill.victims)
                if rng.random() < 1 / 4:
                    await harness.move()
            except Exception:
                print(f"{harness.tail()}\nafter {kills} kills, seed {seed}: {kill}")
                raise
            print(f"{kills}: {kill}", flush=True)
    finally:
        await harness.close()
    print(", ".join(f"{step}: {count}" for step, count in sorted(harness.deaths.items())))
    print(f"{kills} kills, seed {seed}: the invariant held each time")


def arguments_of(description: str, count: int) -> argparse.ArgumentParser:
    """Return the command line of a module that kills `count` times by default."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--count", type=int, default=count)
    parser.add_argument("--seed", type=int, default=1)
    return parser


def main() -> None:
    """Kill as often as asked for."""
    parser = arguments_of(__doc__, 500)
    parser.add_argument("--docker", action="store_true", help="both nodes on a real engine")
    arguments = parser.parse_args()
    plan_one = plan_with_engine if arguments.docker else plan
    with tempfile.TemporaryDirectory() as name, ExitStack() as cleanup:
        directory = Path(name)
        engine = cleanup.enter_context(_real_engine(directory)) if arguments.docker else None
        harness = Harness(directory, engine)
        running = kill_often(harness, arguments.count, arguments.seed, plan_one)
        react(lambda _: Deferred.fromCoroutine(running))


if __name__ == "__main__":
    main()
