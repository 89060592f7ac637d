"""Rounds against a writer: each trial ends with its death, a final pass and a comparison."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from tests.unchanged.source import Rule, Source
from tests.unchanged.writer import READY

__all__ = ["FILES", "QUICK", "Counted", "Pace", "Trials", "fill", "run_trials"]

REPOSITORY = Path(__file__).parents[2]
#: Files of one directory.
_EACH = 200
FILES = 1500
"""As many as one trial has. With some thousands, their dirty pages make btrfs short of space for
metadata, and it writes them back so soon that nearly every store changes ctime."""
#: Names are left over by trials.
_TRIALS_WITH_SAME_FILES = 20


@attrs.frozen
class Pace:
    """Seconds, from and to: before each further round of a trial, and then before the kill."""

    pauses: tuple[tuple[float, float], ...] = ((1.8, 2.8), (1.8, 2.8))
    last: tuple[float, float] = (0.1, 0.6)


QUICK = Pace(pauses=((2.3, 2.4),), last=(0.5, 0.6))
"""Files settle in the second round, and are changed until the kill."""


@attrs.define
class Counted:
    """Decisions in final passes: files, those of them that were not read, and the wrong ones.

    `found` is the number of spot checks that have found a wrong one.
    """

    trials: int = 0
    decisions: int = 0
    carried: int = 0
    wrong: int = 0
    found: int = 0
    examples: list[str] = attrs.Factory(list)


def fill(directory: Path, count: int, seed: int) -> None:
    """Make files of up to three pages, and one in fifty of 80 KiB."""
    chance = random.Random(seed)
    for index in range(count):
        place = directory / f"d{index // _EACH}"
        place.mkdir(exist_ok=True)
        size = 80 << 10 if index % 50 == 0 else chance.randrange(12 << 10)
        (place / f"f{index}").write_bytes(chance.randbytes(size))


class Trials:
    """Trials in one directory; the rule keeps what is settled from one to the next."""

    def __init__(
        self,
        directory: Path,
        source: Source,
        chance: random.Random,
        pace: Pace,
        counted: Counted,
    ) -> None:
        self._directory = directory
        self._pace = pace
        self._source = source
        self._chance = chance
        self._counted = counted

    def run(self) -> None:
        """Run one trial."""
        with self._writer():
            self._source.round()
            for pause in self._pace.pauses:
                time.sleep(self._chance.uniform(*pause))
                self._source.round()
            time.sleep(self._chance.uniform(*self._pace.last))
        done = self._source.round(is_final=True)
        counted = self._counted
        counted.trials += 1
        counted.decisions += done.files
        counted.carried += len(done.carried)
        counted.found += not done.passed
        for name in done.carried:
            if not self._source.is_as_sent(done.tree, name):
                counted.wrong += 1
                counted.examples.append(self._described(self._source.path(name)))

    def _described(self, path: Path) -> str:
        return f"trial {self._counted.trials}: {path} {os.stat(path)}"

    @contextmanager
    def _writer(self) -> Iterator[None]:
        seed = self._chance.randrange(1 << 32)
        command = [sys.executable, "-m", "tests.unchanged.writer", str(self._directory), str(seed)]
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        with process:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == READY
            try:
                yield
            finally:
                process.kill()
                process.wait()
        assert process.returncode == -signal.SIGKILL, "the writer ended by itself"


def run_trials(
    directory: Path,
    make_rule: Callable[[int], Rule],
    seed: int,
    *,
    files: int = FILES,
    pace: Pace = Pace(),
    is_enough: Callable[[Counted], bool],
) -> Counted:
    """Run trials in a directory until there are enough; every so often with new files."""
    chance = random.Random(seed)
    counted = Counted()
    while not is_enough(counted):
        place = directory / "server"
        place.mkdir()
        fill(place, files, chance.randrange(1 << 32))
        root = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            source = Source(place, root, make_rule(root))
            trials = Trials(place, source, chance, pace, counted)
            for _ in range(_TRIALS_WITH_SAME_FILES):
                trials.run()
                if is_enough(counted):
                    break
        finally:
            os.close(root)
            shutil.rmtree(place)
    return counted
