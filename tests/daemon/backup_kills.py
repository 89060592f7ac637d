"""Kills a node while a server comes with backups, and sees that all of it is here or nothing.

    python -m tests.daemon.backup_kills --count 100 --seed 1

Server after server comes to a real daemon in the form of another family's node, with two backups
and a log. Each time the daemon is killed with SIGKILL, at a step of the journal or anywhere, and
started again. Then either the server is here, by the Panel's word, and with it both backups, whole
and where the family keeps them, and the log; or nothing of it is in place. Nothing is staged any
more, nothing is unfinished in the journal, and a backup that was there before is as it was.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import tempfile
import uuid
from collections import Counter
from contextlib import suppress
from pathlib import Path

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TooLate
from twisted.internet.task import deferLater, react

from tests.daemon.daemon import reactor
from tests.daemon.families import Family, calagopus, pelican
from tests.daemon.harness import House, archive
from tests.daemon.uploads import Sender, Unanswered
from tests.support import server_settings
from tests.support.state import Refused
from wingsd.statedb.store import Store
from wingsd.transfers.steps import ReceiveStep

__all__ = ["Broken", "Kill", "Laden", "plan"]

#: Seconds in which all must have come to rest again, and those at most from a transfer's
#: beginning, or from a step, to a kill.
SETTLES_WITHIN = 60.0
LATEST = 0.4
LINGER = 0.02
LOG = b"installed\n"
PRECIOUS = b"another backup"


class Broken(AssertionError):
    """The invariant does not hold; the text says what is wrong."""


@attrs.frozen
class Kill:
    """When the node dies: at the words of a step, or at once, and then so many seconds later."""

    words: str
    delay: float
    family: str

    def __str__(self) -> str:
        return f"{self.family}: {self.words or 'the beginning'} +{self.delay:.3f} s"


def plan(rng: random.Random) -> Kill:
    """Return one kill."""
    family = rng.choice(["pelican", "calagopus"])
    if rng.random() < 1 / 4:
        return Kill("", rng.uniform(0, LATEST), family)
    steps = [step.words for step in ReceiveStep if step is not ReceiveStep.FAILED]
    return Kill(rng.choice(steps), rng.choice([0.0, rng.uniform(0, LINGER)]), family)


class _Coming:
    """One server on its way, and what comes with it: the data by its path."""

    def __init__(self, rng: random.Random, family: str) -> None:
        self.uuid, first, second = (str(uuid.UUID(int=rng.getrandbits(128))) for _ in range(3))
        backups = {one: hashlib.shake_128(one.encode()).digest(200_000) for one in (first, second)}
        is_pelican = family == "pelican"
        self.family: Family = pelican(LOG, backups) if is_pelican else calagopus(LOG, backups)
        prefix = f"{self.uuid}/" if is_pelican else ""
        self.expected = {f"backups/{prefix}{one}.tar.gz": backups[one] for one in backups}
        self.expected[f"logs/install/{self.uuid}.log"] = LOG


class Laden:
    """A node that is killed again and again."""

    def __init__(self, directory: Path) -> None:
        self.house = House(directory)
        # It describes a server to a transfer's nodes alone, by which these know what is over.
        self.house.panel.strict = True
        self.precious = directory / "backups" / "precious.tar.gz"
        #: How the transfers ended.
        self.ends: Counter[str] = Counter()

    async def start(self) -> None:
        """Start the Panel and the node."""
        self.precious.parent.mkdir()
        self.precious.write_bytes(PRECIOUS)
        await self.house.start()
        await self.house.loaded()

    async def close(self) -> None:
        """End everything."""
        await self.house.close()

    async def strike(self, kill: Kill, rng: random.Random) -> None:
        """Send a server, kill, start again, and see that all is well. Raises `Broken`."""
        house, coming, mark = self.house, _Coming(rng, kill.family), len(self.house.log)
        sending = self._send(coming)
        if kill.words:
            with suppress(TooLate):
                await house.wait_for_line(kill.words, mark).addTimeout(5, reactor)
        await deferLater(reactor, kill.delay)
        house.signal("KILL")
        await house.ended()
        log = house.log
        await sending
        house.launch("--endpoint", "tcp:0:interface=127.0.0.1")
        await house.listening()
        await house.wait_for_line("servers loaded")
        await self._settle(coming)
        self._check(coming, [*log, *house.log])

    async def arrive(self, family: str, rng: random.Random) -> None:
        """Have a server come without a kill. Raises `Broken` when that does not go well."""
        coming = _Coming(rng, family)
        await self._send(coming)
        await self._settle(coming)
        self._check(coming, self.house.log)
        if self.house.panel.node_of(coming.uuid) is not self.house.node:
            raise Broken("the next transfer does not go well")

    def _send(self, coming: _Coming) -> Deferred[None]:
        house = self.house
        house.panel.add_server(server_settings(coming.uuid), house.source)
        house.panel.open_transfer(coming.uuid, house.node)
        token = house.panel.transfer_token(coming.uuid, house.node)
        sender = Sender(house, archive(), token=token, family=coming.family)
        return Deferred.fromCoroutine(self._send_as_a_node_does(sender, coming.uuid))

    async def _send_as_a_node_does(self, sender: Sender, server: str) -> None:
        status = 0
        with suppress(OSError, Unanswered):
            await sender.begin()
            status, _ = await sender.finish()
        if status != 200:
            # A source without an answer tells of a failure, which may come after a success.
            with suppress(Refused):
                self.house.panel.finish_transfer(self.house.source, server, "failure")

    async def _settle(self, coming: _Coming) -> None:
        deadline = reactor.seconds() + SETTLES_WITHIN
        while what := self._unrest(coming):
            if reactor.seconds() > deadline:
                raise Broken(what)
            await deferLater(reactor, 0.02)

    def _unrest(self, coming: _Coming) -> str:
        if self.house.panel.in_transfer(coming.uuid):
            return "the Panel's transfer does not end"
        store = Store(str(self.house.directory))
        store.open(read_only=True)
        try:
            if store.unfinished() or store.unsettled():
                return "the node does not come to its end with what it has begun"
        finally:
            store.close()
        staged = [*self.house.directory.glob(".volumes.staging/*")]
        staged += self.house.directory.glob("backups/.wingsd-*/*")
        left = [path.name for path in staged if path.name not in (".lock", ".quarantine")]
        return f"something stays staged: {left}" if left else ""

    def _check(self, coming: _Coming, log: list[str]) -> None:
        house = self.house
        is_here = house.panel.node_of(coming.uuid) is house.node
        self.ends["here" if is_here else "not here"] += 1
        if (house.volumes / coming.uuid).exists() is not is_here:
            raise Broken("the server's files are not where the Panel says")
        for path, data in coming.expected.items():
            place = house.directory / path
            if place.exists() is not is_here:
                raise Broken(f"{path} {'is lost' if is_here else 'is left over'}")
            if is_here and (place.read_bytes() != data or place.stat().st_nlink != 1):
                raise Broken(f"{path} is not what was sent, or has another name")
        if self.precious.read_bytes() != PRECIOUS:
            raise Broken("a backup that was here before is not as it was")
        if any("Traceback" in line for line in log):
            raise Broken("the node has met what nobody foresaw")


async def _run(count: int, seed: int, directory: Path) -> None:
    rng = random.Random(seed)
    laden = Laden(directory)
    try:
        await laden.start()
        for number in range(1, count + 1):
            kill = plan(rng)
            try:
                await laden.strike(kill, rng)
                if number % 8 == 0:
                    await laden.arrive(kill.family, rng)
            except Exception:
                print("\n".join(laden.house.log[-40:]))
                print(f"after {number} kills, seed {seed}: {kill}")
                raise
            print(f"{number}: {kill}", flush=True)
    finally:
        await laden.close()
    print(", ".join(f"{end}: {often}" for end, often in sorted(laden.ends.items())))
    print(f"{count} kills, seed {seed}: the invariant held each time")


def main() -> None:
    """Kill as often as asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        running = _run(arguments.count, arguments.seed, Path(name))
        react(lambda _: Deferred.fromCoroutine(running))


if __name__ == "__main__":
    main()
