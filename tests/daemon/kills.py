"""Kills nodes at every step of a move and at random moments, and sees that nothing is lost.

    python -m tests.daemon.kills --count 500 --seed 1

A server moves to and fro between two real daemons. Each time one of them, or both, are killed with
SIGKILL, at a step of the journal or anywhere. They are started again, and then there must be one
whole copy of the server, at the node that the Panel says, nothing of it at the other (but in
quarantine), nothing unfinished in the journals, and the next move must go well.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TooLate
from twisted.internet.task import deferLater, react

from tests.archives import seen
from tests.daemon.daemon import reactor
from tests.daemon.house import UUID
from tests.daemon.pair import Pair, Peer
from wingsd.journal.store import Store
from wingsd.transfers.lifecycle import ReceiveStep, SendStep

__all__ = ["Harness", "Kill"]

#: Seconds in which all must have come to rest again.
SETTLES_WITHIN = 60.0
#: Seconds at most from a move's beginning to a kill at random.
LATEST = 0.6
#: Bytes of the server that do not compress.
SIZE = 400_000


@attrs.frozen
class Kill:
    """Who dies, and when: at the words of a step, or so many seconds after the beginning."""

    victims: tuple[str, ...]
    moment: str | float

    def __str__(self) -> str:
        at = self.moment if isinstance(self.moment, str) else f"after {self.moment:.3f} s"
        return f"{' and '.join(self.victims)}: {at}"


class Broken(AssertionError):
    """The invariant does not hold; the text says what is wrong."""


def plan(rng: random.Random) -> Kill:
    """Return one kill."""
    victims = rng.choice([("source",), ("destination",), ("source", "destination")])
    if rng.random() < 1 / 3:
        return Kill(victims, rng.uniform(0, LATEST))
    steps: list[Any] = [*SendStep] if victims[0] == "source" else [*ReceiveStep]
    return Kill(victims, rng.choice([step.words for step in steps if step.name != "FAILED"]))


class Harness:
    """Two nodes with one server between them."""

    def __init__(self, directory: Path) -> None:
        self.pair = Pair(directory)
        self._before: Any = None

    async def start(self) -> None:
        """Start the Panel and both nodes."""
        self.pair.add_server(SIZE)
        await self.pair.start()
        self._before = seen(self.pair.source.files())

    async def close(self) -> None:
        """End everything."""
        await self.pair.close()

    @property
    def _ends(self) -> tuple[Peer, Peer]:
        """The node that has the server, and the other."""
        here, there = self.pair.source, self.pair.destination
        return (here, there) if self.pair.panel.node_of(UUID) is here.node else (there, here)

    async def strike(self, kill: Kill) -> None:
        """Begin a move, kill, start again, and see that all is well. Raises `Broken`."""
        source, destination = self._ends
        peers = {"source": source, "destination": destination}
        victims = [peers[name] for name in kill.victims]
        marks = {peer.directory: len(peer.log) for peer in victims}
        await self.pair.panel.transfer(UUID, destination.node)
        await self._until_moment(kill.moment, victims[0], marks[victims[0].directory])
        for peer in victims:
            peer.signal("KILL")
        for peer in victims:
            await peer.ended()
        for peer in victims:
            await peer.start()
        await self._until(self._is_at_rest, "it does not come to rest")
        self._check()
        for peer in (source, destination):
            shutil.rmtree(peer.directory / ".volumes.staging" / ".quarantine", ignore_errors=True)

    async def _until_moment(self, moment: str | float, peer: Peer, mark: int) -> None:
        if isinstance(moment, float):
            await deferLater(reactor, moment)
            return
        # A step may never be reached, when the move has failed before.
        with suppress(TooLate):
            await peer.wait_for_line(moment, since=mark).addTimeout(5, reactor)

    async def _until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = reactor.seconds() + SETTLES_WITHIN
        while not holds():
            if reactor.seconds() > deadline:
                raise Broken(what)
            await deferLater(reactor, 0.05)

    def _is_at_rest(self) -> bool:
        return not self.pair.panel.in_transfer(UUID) and all(
            _is_finished(peer) and not _is_deleting(peer) for peer in self._ends
        )

    def _check(self) -> None:
        here, there = self._ends
        if not here.files().is_dir():
            raise Broken("the server is lost: it is not where the Panel says")
        if seen(here.files()) != self._before:
            raise Broken("the server is not whole where the Panel says that it is")
        left = [name for name in there.left() if ".quarantine" not in name]
        left += [
            name for name in here.left() if ".quarantine" not in name and name != f"volumes/{UUID}"
        ]
        if left:
            raise Broken(f"something is left over: {left}")

    async def move(self) -> None:
        """Move the server without a kill. Raises `Broken` when that does not go well."""
        _, destination = self._ends
        await self.pair.panel.transfer(UUID, destination.node)
        await self._until(lambda: self._ends[0] is destination, "the next move does not go well")
        await self._until(self._is_at_rest, "the next move does not come to its end")
        self._check()

    def tail(self) -> str:
        """Return the ends of both nodes' logs."""
        logs = [(peer.directory.name, peer.log[-40:]) for peer in self._ends]
        return "\n".join(line for name, log in logs for line in (f"--- {name}", *log))


def _counts(name: str) -> bool:
    return ".quarantine" not in name


def _is_finished(peer: Peer) -> bool:
    store = Store(str(peer.directory))
    store.open(read_only=True)
    try:
        return not store.transfers(unfinished=True) and not store.reports(unsettled=True)
    finally:
        store.close()


def _is_deleting(peer: Peer) -> bool:
    # Deletions and tidying up go on in the background.
    staging = peer.directory / ".volumes.staging"
    return any(".deleting" in name for name in peer.left()) or any(
        path.name.endswith(".discarded") for path in staging.iterdir()
    )


async def _run(count: int, seed: int) -> None:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as directory:
        harness = Harness(Path(directory))
        await harness.start()
        kills = 0
        try:
            while kills < count:
                kill = plan(rng)
                try:
                    await harness.strike(kill)
                    kills += len(kill.victims)
                    if rng.random() < 1 / 4:
                        await harness.move()
                except Broken:
                    print(f"{harness.tail()}\nafter {kills} kills, seed {seed}: {kill}")
                    raise
                print(f"{kills}: {kill}", flush=True)
        finally:
            await harness.close()
    print(f"{kills} kills, seed {seed}: the invariant held each time")


def main() -> None:
    """Kill as often as asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    react(lambda _: Deferred.fromCoroutine(_run(arguments.count, arguments.seed)))


if __name__ == "__main__":
    main()
