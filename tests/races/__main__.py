"""`python -m tests.races`: every action on a server's files against a process that swaps links.

First what wingsd does, in both ways to open directories; nothing outside may be touched. Then the
same by paths that are checked and used, each of which must be caught. The exit status is 1 if that
is not so. The same seed gives the same actions, but not the same races.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.races.actions import ACTIONS, Action, Actor
from tests.races.naive import NAIVE
from tests.races.runs import run
from tests.races.scene import Touched
from tests.races.trees import TREES
from wingsd.filesystem.openers import DirectoryOpener, Openat2Opener, OpenatOpener

#: In memory, where names are swapped faster than on a disk.
PLACE = "/dev/shm"
ALL: dict[str, Action] = {**ACTIONS, **TREES}
#: Work on whole trees meets all that is swapped each time, and takes as much longer.
TREE_SHARE = 10
OPENERS: dict[str, DirectoryOpener] = {"openat2": Openat2Opener(), "openat": OpenatOpener()}


def _run(
    name: str, opener: DirectoryOpener, actions: Mapping[str, Action], count: int, seed: int
) -> bool:
    """Run actions; return whether each was done and nothing outside was touched."""
    if not actions:
        return True
    begin = time.monotonic()
    with TemporaryDirectory(dir=PLACE, prefix="wingsd-races-") as place:
        try:
            counted = run(Path(place), opener, actions, count, seed)
        except Touched as error:
            print(f"{name}: OUTSIDE TOUCHED: {error}", flush=True)
            return False
    for kind, each in counted.items():
        print(f"{name}: {kind}: {each.done} done, {each.refused} refused", flush=True)
    print(f"{name}: nothing outside was touched, {time.monotonic() - begin:.0f} s", flush=True)
    return all(each.done for each in counted.values())


def _is_caught(kind: str, count: int, seed: int) -> bool:
    done = 0

    def attempt(actor: Actor) -> None:
        nonlocal done
        done += 1
        with suppress(OSError):
            NAIVE[kind](actor)

    with TemporaryDirectory(dir=PLACE, prefix="wingsd-races-") as place:
        try:
            run(Path(place), OpenatOpener(), {kind: attempt}, count, seed, step=20)
        except Touched:
            print(f"naive: {kind}: caught within {done}", flush=True)
            return True
    print(f"naive: {kind}: NOT CAUGHT within {done}", flush=True)
    return False


def main() -> int:
    """Run the kinds that the command line names; return the exit status."""
    parser = argparse.ArgumentParser(prog="tests.races", description=__doc__)
    parser.add_argument("kind", nargs="?", choices=[*ALL], help="in place of all kinds")
    parser.add_argument(
        "--count", type=int, default=10_000, help="actions of each kind; a tenth on trees"
    )
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    count, seed = arguments.count, arguments.seed
    kinds = [arguments.kind] if arguments.kind else [*ALL]
    actions = {kind: ALL[kind] for kind in kinds if kind in ACTIONS}
    trees = {kind: ALL[kind] for kind in kinds if kind in TREES}
    good = []
    for name, opener in OPENERS.items():
        good.append(_run(name, opener, actions, count, seed))
        good.append(_run(f"{name}, trees", opener, trees, count // TREE_SHARE, seed))
    if not arguments.kind:
        good += [_is_caught(kind, count, seed) for kind in NAIVE]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
