"""`python -m tests.unchanged`: what moves carry over unread, compared with the disk.

On each file system trials are run until `--count` decisions were taken in final passes: a decision
is whether a file is read. Where the rule holds, not one may be wrong, and directories that are the
same are not scanned again; where it does not, every file must be read. Then the naive rules, each
of which must be caught. The exit status is 1 if that is not so. The same seed gives the same
changes, but not at the same moments.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import attrs

from tests.unchanged.disks import DISKS, TRUSTED, Disk, disk, missing
from tests.unchanged.naive import NAIVE, Make
from tests.unchanged.product import ProductSource
from tests.unchanged.trials import (
    FILES,
    HASTY,
    QUICK,
    TRIALS_WITH_SAME_FILES,
    Counted,
    Pace,
    run_trials,
)
from wingsd.moves.unchanged import MeasuredFileSystems

#: In memory, so that flushes are quick.
PLACE = "/dev/shm"
#: The most trials in which a naive rule has to be caught, which takes one of several, and in which
#: a directory is not scanned again: more than those with the same files, which may have more
#: directories than are remembered.
_TRIALS, _SKIPPED_IN = 30, TRIALS_WITH_SAME_FILES + 5
#: Seconds between two lines that tell what was counted.
_TOLD_EVERY = 60


def _measured(directory: Path) -> tuple[MeasuredFileSystems, str]:
    file_systems = MeasuredFileSystems()
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return file_systems, file_systems.measure(fd)
    finally:
        os.close(fd)


@attrs.frozen
class _Part:
    """What one process does: trials on a disk of its own, or in a directory, from a seed on."""

    name: str
    directory: Path | None
    count: int
    seed: int
    files: int
    pace: Pace


@attrs.frozen
class _Done:
    """Why the rule does not hold there, what was counted, and what the rule has said."""

    objection: str
    counted: Counted
    lines: list[str]


@contextmanager
def _disk(name: str, directory: Path | None) -> Iterator[Disk]:
    if directory is not None:
        yield Disk(name, directory)
        return
    with (
        TemporaryDirectory(dir=PLACE, prefix="wingsd-unchanged-") as place,
        disk(name, Path(place)) as on,
    ):
        yield on


def _done(part: _Part) -> _Done:
    """Run the rule of wingsd."""
    signal.signal(signal.SIGTERM, _end)
    with _disk(part.name, part.directory) as on:
        file_systems, objection = _measured(on.directory)
        lines: list[str] = []
        seeds = itertools.count(part.seed)
        told = time.monotonic()

        def make(directory: Path) -> ProductSource:
            return ProductSource(directory, file_systems, lines.append, next(seeds))

        def is_enough(counted: Counted) -> bool:
            nonlocal told
            if time.monotonic() > told + _TOLD_EVERY:
                told = time.monotonic()
                print(f"{part.name}: seed {part.seed}: so far {_words(counted)}", flush=True)
            # in a few trials chance may have all directories be scanned
            is_as_told = objection or counted.in_directories or counted.trials >= _SKIPPED_IN
            return counted.decisions >= part.count and bool(is_as_told)

        found = run_trials(
            on.directory,
            make,
            part.seed,
            files=part.files,
            pace=HASTY if objection else part.pace,
            is_enough=is_enough,
        )
        return _Done(objection, found, lines)


def _end(number: int, frame: object) -> NoReturn:
    """End as after an error: the writer is killed, and the disk unmounted."""
    sys.exit(128 + number)


def _run(parts: Sequence[_Part]) -> bool:
    """Have processes run the rule of wingsd; return whether nothing was wrong."""
    begin, name = time.monotonic(), parts[0].name
    total = Counted()
    good = True
    with ExitStack() as stack:
        run: Iterator[_Done] = map(_done, parts)
        if len(parts) > 1:
            pool = stack.enter_context(ProcessPoolExecutor(len(parts), get_context("fork")))
            run = pool.map(_done, parts)
        for part, done in zip(parts, run, strict=True):
            found = done.counted
            print(f"{name}: {done.objection or 'the rule holds'}", flush=True)
            print(f"{name}: seed {part.seed}: {_words(found)}", flush=True)
            for line in found.examples[:10]:
                print(f"{name}: WRONG: {line}", flush=True)
            for line in done.lines:
                print(f"{name}: {line}", flush=True)
            met = (found.carried, found.directories, found.in_directories)
            as_told = not any(met) if done.objection else all(met)
            good = good and as_told and not found.wrong and not found.found
            total.add(found)
    print(f"{name}: in all {_words(total)}, {time.monotonic() - begin:.0f} s", flush=True)
    return good


def _is_caught(
    on: Disk, name: str, make: Callable[[MeasuredFileSystems], Make], seed: int, files: int
) -> bool:
    file_systems, _ = _measured(on.directory)
    found = run_trials(
        on.directory,
        make(file_systems),
        seed,
        files=files,
        is_enough=lambda counted: bool(counted.wrong) or counted.trials >= _TRIALS,
    )
    word = "caught" if found.wrong else "NOT CAUGHT"
    print(f"{on.name}: naive: {name}: {word}: {_words(found)}", flush=True)
    return bool(found.wrong)


def _words(found: Counted) -> str:
    return (
        f"{found.trials} trials, {found.decisions} decisions, {found.carried} files carried over "
        f"unread, {found.wrong} wrong, {found.found} checks failed; {found.directories} times a "
        f"directory was not scanned again, with {found.in_directories} files"
    )


def main() -> int:
    """Run what the command line names; return the exit status."""
    parser = argparse.ArgumentParser(prog="tests.unchanged", description=__doc__)
    parser.add_argument("name", nargs="*", choices=[*DISKS, []], help="in place of all")
    parser.add_argument("--count", type=int, default=20_000, help="decisions on each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=1, help="processes, with the next seeds")
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--directory", type=Path, help="an empty one, in place of new disks")
    parser.add_argument("--quick", action="store_true", help="two rounds in place of three")
    parser.add_argument("--naive", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    if arguments.directory and arguments.at_once > 1:
        parser.error("--at-once needs disks of its own: leave out --directory")
    signal.signal(signal.SIGTERM, _end)
    good = []
    for name in arguments.name or DISKS:
        reason = "" if arguments.directory else missing(name)
        if reason:
            print(f"{name}: left out: {reason}", flush=True)
            continue
        seed, files = arguments.seed, arguments.files
        pace = QUICK if arguments.quick else Pace()
        count = -(-arguments.count // arguments.at_once)
        seeds = range(seed, seed + arguments.at_once)
        good.append(
            _run([_Part(name, arguments.directory, count, each, files, pace) for each in seeds])
        )
        if arguments.naive and name in TRUSTED:
            with _disk(name, arguments.directory) as on:
                for rule, make in NAIVE.items():
                    good.append(_is_caught(on, rule, make, seed, files))
    return 0 if good and all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
