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

from tests.unchanged.source import Round, Rounds
from tests.unchanged.writer import LINKED, READY

__all__ = [
    "FILES",
    "HASTY",
    "QUICK",
    "TRIALS_WITH_SAME_FILES",
    "Counted",
    "Pace",
    "Trials",
    "fill",
    "run_trials",
]

REPOSITORY = Path(__file__).parents[2]
#: Files of one directory: how many there are of few files matters to what is not scanned again.
_EACH = (1, 1, 1, 2, 3, 5, 8, 20, 60)
#: How often a directory is in another one; in how many trials files get several names.
_NESTED, _LINKS = 0.4, 0.15
#: In how many trials a round breaks off, and the writer ends before anything is read again.
_BROKEN = 0.4
FILES = 1500
"""As many as one trial has. With some thousands, their dirty pages make btrfs short of space for
metadata, and it writes them back so soon that nearly every store changes ctime."""
TRIALS_WITH_SAME_FILES = 20
"""Names are left over by them."""


@attrs.frozen
class Pace:
    """Seconds, from and to: before each further round of a trial, and then before the kill.

    Files have an `age` before the first round, by default one by which they settle in it.
    """

    pauses: tuple[tuple[float, float], ...] = ((1.8, 2.8), (1.8, 2.8))
    last: tuple[float, float] = (0.1, 0.6)
    age: float = 2.1


QUICK = Pace(pauses=((2.3, 2.4),), last=(0.5, 0.6))
"""Files settle in the second round, and are changed until the kill."""

HASTY = Pace(pauses=(), last=(0.1, 0.2), age=0)
"""For where nothing settles."""


@attrs.define
class Counted:
    """Decisions in final passes: files, those of them that were not read, and the wrong ones.

    `found` is the number of passes whose checks have found a wrong one. `directories`, with files
    `in_directories`, were not scanned again in rounds of any kind.
    """

    trials: int = 0
    decisions: int = 0
    carried: int = 0
    wrong: int = 0
    found: int = 0
    directories: int = 0
    in_directories: int = 0
    examples: list[str] = attrs.Factory(list)

    def add(self, other: Counted) -> None:
        """Count what another one has counted."""
        self.trials += other.trials
        self.decisions += other.decisions
        self.carried += other.carried
        self.wrong += other.wrong
        self.found += other.found
        self.directories += other.directories
        self.in_directories += other.in_directories
        self.examples += other.examples


def fill(directory: Path, count: int, seed: int) -> None:
    """Make files of up to three pages, and one in fifty of 80 KiB; some have two names."""
    chance = random.Random(seed)
    places = [directory]
    left = 0
    for index in range(count):
        if not left:
            left = chance.choice(_EACH)
            parent = chance.choice(places) if chance.random() < _NESTED else directory
            places.append(parent / f"d{index}")
            places[-1].mkdir()
        left -= 1
        size = 80 << 10 if index % 50 == 0 else chance.randrange(12 << 10)
        (places[-1] / f"f{index}").write_bytes(chance.randbytes(size))
    linked = [directory / f"{LINKED}{number}" for number in range(2)]
    for place in linked:
        place.mkdir()
    for index in range(3):
        (linked[0] / f"f{index}").write_bytes(chance.randbytes(5_000))
        (linked[1] / f"f{index}").hardlink_to(linked[0] / f"f{index}")


def remove_links(directory: Path) -> None:
    """Leave one name to what earlier trials have given several."""
    paths = [path for path in directory.rglob("*") if path.is_symlink() or not path.is_dir()]
    inodes = set()
    for path in sorted(paths, key=lambda path: not path.parent.name.startswith(LINKED)):
        found = path.lstat().st_ino
        if found in inodes and not path.parent.name.startswith(LINKED):
            path.unlink()
        inodes.add(found)


class Trials:
    """Trials in one directory; the rule keeps what is settled from one to the next."""

    def __init__(
        self,
        directory: Path,
        source: Rounds,
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
            self._round()
            for pause in self._pace.pauses:
                time.sleep(self._chance.uniform(*pause))
                self._round()
            is_broken = self._pace.pauses and self._chance.random() < _BROKEN
            pause = self._pace.pauses[-1] if is_broken else self._pace.last
            time.sleep(self._chance.uniform(*pause))
            if is_broken:
                self._source.break_off()
        done = self._round(is_final=True)
        counted = self._counted
        counted.trials += 1
        counted.decisions += done.files
        counted.carried += done.carried
        counted.found += not done.passed
        for path in self._source.differing(done):
            counted.wrong += 1
            counted.examples.append(self._described(path))

    def _round(self, *, is_final: bool = False) -> Round:
        done = self._source.round(is_final=is_final)
        self._counted.directories += done.directories
        self._counted.in_directories += done.in_directories
        return done

    def _described(self, path: Path) -> str:
        found = os.lstat(path) if os.path.lexists(path) else "does not exist"
        return f"trial {self._counted.trials}: {path} {found}"

    @contextmanager
    def _writer(self) -> Iterator[None]:
        seed = self._chance.randrange(1 << 32)
        command = [sys.executable, "-m", "tests.unchanged.writer", str(self._directory), str(seed)]
        if self._chance.random() < _LINKS:
            command.append("links")
        else:
            remove_links(self._directory)
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
    make: Callable[[Path], Rounds],
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
        time.sleep(pace.age)
        source = make(place)
        try:
            trials = Trials(place, source, chance, pace, counted)
            for _ in range(TRIALS_WITH_SAME_FILES):
                trials.run()
                if is_enough(counted):
                    break
        finally:
            source.close()
            shutil.rmtree(place)
    return counted
