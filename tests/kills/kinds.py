"""The kinds of kills, by their names."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.kills.arrivals import Arrivals
from tests.kills.by_hand import ByHand
from tests.kills.engine import Scenario, inject
from tests.kills.installations import Installations
from tests.kills.live import Live
from tests.kills.live_faults import inject_faults
from tests.kills.making import Makings
from tests.kills.moves import Containered, Pooled, Removals, Transfers
from tests.kills.proxied import Proxied
from tests.kills.restores import Restores
from tests.kills.resumed import ContaineredResumed, Resumed
from tests.kills.seeded import Seeded
from tests.kills.uploads import Uploads
from tests.support.docker_engine import Engine, cleaned_engine, connected, imported_busybox

__all__ = ["FAULTS", "KINDS", "MOST_IN_A_PROCESS", "run"]

#: Daemons that die in the process of the test, in memory: the kind of that name.
FAULTS = "live-faults"
#: A directory in memory, where there is one: nothing is to survive the machine.
MEMORY = "/dev/shm"
#: How many of these die in one process: what a dead one had open stays so.
MOST_IN_A_PROCESS = 250


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
    "moves-proxy": lambda directory, _: Proxied(directory, 16),
    "moves-by-hand": lambda directory, _: ByHand(directory),
    "moves-seeded": lambda directory, _: Seeded(directory),
    "live": lambda directory, cleanup: Live(directory, _engine(directory, cleanup)),
    "installations": lambda directory, cleanup: Installations(_engine(directory, cleanup)),
    "backups": lambda directory, _: Arrivals(directory),
    "making": lambda directory, _: Makings(directory),
    "removal": lambda directory, _: Removals(directory),
    "restores": lambda directory, _: Restores(directory),
    "pool": lambda directory, _: Pooled(directory),
    "uploading": lambda directory, _: Uploads(directory),
    "streaming": lambda directory, _: Uploads(directory, "calagopus"),
}


async def run(kinds: Sequence[str], count: int, seed: int) -> None:
    """Kill `count` times in each of the kinds, as the seed says. Raises `Broken`."""
    for kind in kinds:
        in_memory = MEMORY if kind == FAULTS and os.access(MEMORY, os.W_OK) else None
        with (
            tempfile.TemporaryDirectory(prefix="wingsd-kills-", dir=in_memory) as name,
            ExitStack() as cleanup,
        ):
            if kind == FAULTS:
                await inject_faults(Path(name), count, seed, partial(_report, kind))
                continue
            scenario = KINDS[kind](Path(name), cleanup)
            await inject(scenario, count, seed, partial(_report, kind))


def _report(kind: str, text: str) -> None:
    print(f"{kind}: {text}", flush=True)
