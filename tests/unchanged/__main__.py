"""`python -m tests.unchanged`: what moves carry over unread, compared with the disk.

On each file system trials are run until `--count` decisions were taken in final passes: a decision
is whether a file is read. Where the rule holds, not one may be wrong; where it does not, every
file must be read. Then the naive rules, each of which must be caught. The exit status is 1 if that
is not so. The same seed gives the same changes, but not at the same moments.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.unchanged.disks import DISKS, TRUSTED, Disk, disk, missing
from tests.unchanged.naive import NAIVE
from tests.unchanged.source import Rule
from tests.unchanged.trials import FILES, QUICK, Counted, Pace, run_trials
from wingsd.moves.unchanged.file_systems import MeasuredFileSystems
from wingsd.moves.unchanged.rule import UnchangedFiles

#: In memory, so that flushes are quick.
PLACE = "/dev/shm"
#: The most trials in which a naive rule has to be caught.
_TRIALS = 10


def _measured(directory: Path) -> tuple[MeasuredFileSystems, str]:
    file_systems = MeasuredFileSystems()
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return file_systems, file_systems.measure(fd)
    finally:
        os.close(fd)


def _run(on: Disk, count: int, seed: int, files: int, pace: Pace) -> bool:
    """Run the rule of wingsd; return whether nothing was wrong."""
    file_systems, objection = _measured(on.directory)
    print(f"{on.name}: {objection or 'the rule holds'}", flush=True)
    lines: list[str] = []

    def make(root: int) -> Rule:
        return UnchangedFiles(root, file_systems, lines.append)

    begin = time.monotonic()
    found = run_trials(
        on.directory,
        make,
        seed,
        files=files,
        pace=pace,
        is_enough=lambda counted: counted.decisions >= count,
    )
    print(f"{on.name}: seed {seed}: {_words(found)}, {time.monotonic() - begin:.0f} s", flush=True)
    for line in found.examples[:10]:
        print(f"{on.name}: WRONG: {line}", flush=True)
    for line in lines:
        print(f"{on.name}: {line}", flush=True)
    return not found.wrong and not found.found and bool(found.carried) != bool(objection)


def _is_caught(
    on: Disk, name: str, make: Callable[[int, MeasuredFileSystems], Rule], seed: int, files: int
) -> bool:
    file_systems, _ = _measured(on.directory)
    found = run_trials(
        on.directory,
        lambda root: make(root, file_systems),
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
        f"unread, {found.wrong} wrong, {found.found} spot checks failed"
    )


def main() -> int:
    """Run what the command line names; return the exit status."""
    parser = argparse.ArgumentParser(prog="tests.unchanged", description=__doc__)
    parser.add_argument("name", nargs="*", choices=[*DISKS, []], help="in place of all")
    parser.add_argument("--count", type=int, default=20_000, help="decisions on each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--directory", type=Path, help="an empty one, in place of new disks")
    parser.add_argument("--quick", action="store_true", help="two rounds in place of three")
    parser.add_argument("--naive", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    good = []
    for name in arguments.name or DISKS:
        reason = "" if arguments.directory else missing(name)
        if reason:
            print(f"{name}: left out: {reason}", flush=True)
            continue
        with ExitStack() as stack:
            if arguments.directory:
                on = Disk(name, arguments.directory)
            else:
                place = TemporaryDirectory(dir=PLACE, prefix="wingsd-unchanged-")
                on = stack.enter_context(disk(name, Path(stack.enter_context(place))))
            seed, files = arguments.seed, arguments.files
            pace = QUICK if arguments.quick else Pace()
            good.append(_run(on, arguments.count, seed, files, pace))
            if arguments.naive and name in TRUSTED:
                for rule, make in NAIVE.items():
                    good.append(_is_caught(on, rule, make, seed, files))
    return 0 if good and all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
