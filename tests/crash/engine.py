"""The engine of all campaigns: trials as a seed says, until there are enough or one has failed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from twisted.internet.task import deferLater

from tests.support.reactor import reactor

REPOSITORY = Path(__file__).parents[2]
#: A directory in memory: faster, and nothing in it has to survive this machine.
MEMORY = "/dev/shm"
#: Seconds within which everything must have settled after a restart: a refusal takes a minute.
SETTLES_WITHIN = 150.0


class Broken(AssertionError):
    """An invariant does not hold; the text says which."""


class Campaign:
    """Trials of one kind. The same seed gives the same plan, but not always the same moments."""

    #: How much was done so far, of the count that is asked for.
    done = 0
    #: The plan of the present trial, for the report of its failure.
    plan_of_trial: object = ""
    #: The number of trials or acts asked for, the seed, and what draws from it.
    count, seed = 0, 0
    rng = random.Random()

    async def start(self) -> None:
        """Start what all trials use."""

    async def close(self) -> None:
        """End all that was started."""

    async def trial(self, number: int) -> str:
        """Run a trial, and count it in `done`; return what happened. Raises `Broken`."""
        raise NotImplementedError

    @property
    def is_over(self) -> bool:
        """True if enough was done."""
        return self.done >= self.count

    def check_all(self) -> None:
        """Check what must hold of all trials together. Raises `Broken`."""

    def evidence(self) -> Iterable[str]:
        """Return what helps to explain a failure."""
        return ()

    def summary(self) -> str:
        """Return what was counted in all trials."""
        return f"{self.done} done"

    async def run(
        self, wanted: int, seed: int, report: Callable[[str], object] = print
    ) -> Campaign:
        """Run trials until enough is done; report each, and a summary. Raises `Broken`."""
        self.count, self.seed, self.rng = wanted, seed, random.Random(seed)
        begun = time.monotonic()
        number = 0
        try:
            await self.start()
            for number in count(1):
                if self.is_over:
                    break
                report(f"{number}: {await self.trial(number)}")
                await deferLater(reactor, 0)  # where a signal is noticed
            self.check_all()
        except BaseException:
            for text in self.evidence():
                report(text)
            report(f"trial {number}, seed {seed}: {self.plan_of_trial}; {self.summary()}")
            raise
        finally:
            await self.close()
        seconds = time.monotonic() - begun
        report(f"{wanted}, seed {seed}: the invariants held each time, {seconds:.0f} s")
        if counted := self.summary():
            report(counted)
        return self


async def until_none(fault: Callable[[], Awaitable[str]], within: float = SETTLES_WITHIN) -> None:
    """Return when there is no fault any more. Raises `Broken` when that takes too long."""
    deadline = reactor.seconds() + within
    while found := await fault():
        if reactor.seconds() > deadline:
            raise Broken(found)
        await deferLater(reactor, 0.03)


@contextmanager
def place(name: str, *, in_memory: bool = True) -> Iterator[Path]:
    """Yield a directory for a campaign, in memory where that is possible."""
    memory = MEMORY if in_memory and os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=f"wingsd-{name}-", dir=memory) as made:
        yield Path(made)


def in_processes(name: str, counts: Sequence[int], seed: int, at_once: int) -> None:
    """Run parts of a campaign in processes, each with the next seed. Raises `SystemExit`.

    Their command lines are that of this process otherwise; only the first one runs naive rules.
    After a failure no further part begins.
    """
    command = [sys.executable, "-m", "tests.crash", *sys.argv[1:], "--at-once", "1"]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for first in range(0, len(counts), at_once):
            last = min(first + at_once, len(counts))
            for number in range(first, last):
                options = ["--count", str(counts[number]), "--seed", str(seed + number)]
                options += ["--no-naive"] if number else []
                processes.append(subprocess.Popen([*command, *options]))
            if status := max(abs(process.wait()) for process in processes):
                raise SystemExit(status)
            left = sum(counts[last:])
            goes_on = f"; go on with COUNT={left} SEED={seed + last}" if left else ""
            print(f"{name}: held {sum(counts[:last])} of {sum(counts)}{goes_on}", flush=True)
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
                process.wait()
