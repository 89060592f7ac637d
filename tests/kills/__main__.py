"""`python -m tests.kills`: kill nodes at named and at random points, and check the invariants.

The same seed gives the same kills. The exit status is 1 when an invariant did not hold.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from tests.kills.arrivals import Arrivals
from tests.kills.engine import Scenario, inject
from tests.kills.installations import Installations
from tests.kills.making import Makings
from tests.kills.moves import Containered, Pooled, Removals, Transfers
from tests.kills.restores import Restores
from tests.kills.resumed import ContaineredResumed, Resumed
from tests.kills.uploads import Uploads
from tests.support.docker_engine import Engine, cleaned_engine, connected, imported_busybox


def _engine(directory: Path, cleanup: ExitStack) -> Engine:
    client = cleanup.enter_context(connected())
    image = cleanup.enter_context(imported_busybox(client))
    return cleanup.enter_context(cleaned_engine(client, image, directory))


#: A scenario of each kind, made in a directory.
KINDS: dict[str, Callable[[Path, ExitStack], Scenario]] = {
    "transfers": lambda directory, _: Transfers(directory),
    "containers": lambda directory, cleanup: Containered(directory, _engine(directory, cleanup)),
    "moves": lambda directory, _: Resumed(directory),
    "moves-containers": lambda directory, cleanup: ContaineredResumed(
        directory, _engine(directory, cleanup)
    ),
    "installations": lambda directory, cleanup: Installations(_engine(directory, cleanup)),
    "backups": lambda directory, _: Arrivals(directory),
    "making": lambda directory, _: Makings(directory),
    "removal": lambda directory, _: Removals(directory),
    "restores": lambda directory, _: Restores(directory),
    "pool": lambda directory, _: Pooled(directory),
    "uploading": lambda directory, _: Uploads(directory),
    "streaming": lambda directory, _: Uploads(directory, "calagopus"),
}


async def _run(kinds: list[str], count: int, seed: int) -> None:
    for kind in kinds:
        with tempfile.TemporaryDirectory(prefix="wingsd-kills-") as name, ExitStack() as cleanup:
            scenario = KINDS[kind](Path(name), cleanup)
            await inject(scenario, count, seed, partial(_report, kind))


def _report(kind: str, text: str) -> None:
    print(f"{kind}: {text}", flush=True)


def main() -> None:
    """Run the kinds that the command line names."""
    parser = argparse.ArgumentParser(prog="tests.kills", description="Kill nodes, check data.")
    parser.add_argument("kind", nargs="?", choices=[*KINDS], help="in place of all kinds")
    parser.add_argument("--count", type=int, default=100, help="kills of each kind")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    kinds = [arguments.kind] if arguments.kind else [*KINDS]
    running = _run(kinds, arguments.count, arguments.seed)
    react(lambda _: Deferred.fromCoroutine(running))


if __name__ == "__main__":
    main()
