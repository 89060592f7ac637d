"""The kinds of kills, by their names."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.crash.engine import Campaign, place
from tests.crash.evacuations import Evacuations, RunningEvacuations
from tests.crash.histories import AnyHistories, DamagedHistories, KilledHistories
from tests.crash.live_faults import LiveFaults
from tests.crash.one_node import Arrivals, Installations, Makings, Restores, Uploads
from tests.crash.point_backups import PointBackupKills
from tests.crash.rewinds import Rewinds
from tests.crash.two_nodes import (
    ByHand,
    Containered,
    Following,
    FollowingHistories,
    FollowingPoints,
    Live,
    Pooled,
    Proxied,
    Removals,
    Resumed,
    Seeded,
    Transfers,
)
from tests.support.docker_engine import Engine, cleaned_engine, connected, imported_busybox

#: Daemons that die in the process of the test, in memory.
FAULTS = "live-faults"
#: Histories with a model in memory.
HISTORY, DAMAGED = "history", "history-damaged"
#: How many of these die in one process: the files that a dead one had open stay open.
MOST_IN_A_PROCESS = 250
WITHOUT_ENGINE: dict[str, Callable[[Path], Campaign]] = {
    "transfers": Transfers,
    "moves": Resumed,
    "moves-proxy": Proxied,
    "moves-by-hand": ByHand,
    "moves-seeded": Seeded,
    "backups": Arrivals,
    "backups-follow": Following,
    "backups-follow-points": FollowingPoints,
    "history-follows": FollowingHistories,
    "making": Makings,
    "removal": Removals,
    "restores": Restores,
    "evacuate": Evacuations,
    "rewinds": Rewinds,
    "pool": Pooled,
    "uploading": Uploads,
    "streaming": lambda directory: Uploads(directory, "calagopus"),
    HISTORY: AnyHistories,
    DAMAGED: DamagedHistories,
    "history-killed": KilledHistories,
    "history-backups": PointBackupKills,
    FAULTS: LiveFaults,
}
WITH_ENGINE: dict[str, Callable[[Path, Engine], Campaign]] = {
    "containers": Containered,
    "moves-containers": Resumed,
    "live": Live,
    "rewinds-containers": Rewinds,
    "history-backups-containers": PointBackupKills,
    "evacuate-containers": RunningEvacuations,
    "installations": lambda _, engine: Installations(engine),
}
KINDS = (*WITHOUT_ENGINE, *WITH_ENGINE)


def parts(kinds: Sequence[str], options: Namespace) -> list[int]:
    """Return the counts of processes for daemons that die in them, if there are several."""
    count = options.count
    if list(kinds) != [FAULTS] or count <= MOST_IN_A_PROCESS:
        return []
    return [min(MOST_IN_A_PROCESS, count - at) for at in range(0, count, MOST_IN_A_PROCESS)]


def campaigns(kinds: Sequence[str], options: Namespace) -> Iterator[tuple[str, Campaign]]:
    """Yield the kills of these kinds, each with a directory of its own."""
    for kind in kinds:
        with (
            place("kills", in_memory=kind in (FAULTS, HISTORY, DAMAGED)) as directory,
            ExitStack() as cleanup,
        ):
            if kind in WITHOUT_ENGINE:
                yield kind, WITHOUT_ENGINE[kind](directory)
                continue
            client = cleanup.enter_context(connected())
            image = cleanup.enter_context(imported_busybox(client))
            engine = cleanup.enter_context(cleaned_engine(client, image, directory))
            yield kind, WITH_ENGINE[kind](directory, engine)
