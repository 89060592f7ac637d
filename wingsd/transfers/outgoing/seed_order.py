"""What a seed is ordered by, as it is kept for later daemons."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
from twisted.internet.defer import Deferred

from wingsd.statedb import MoveRecord, TransferRecord
from wingsd.transfers.steps import SendStep

if TYPE_CHECKING:
    from wingsd.moves.source import MoveSource

__all__ = ["SeedOrder", "SeedRead", "is_seed", "seed_of"]

#: Ends a seed, and returns what it has read of its server's files.
SeedRead: TypeAlias = "Callable[[], Coroutine[Deferred[Any], Any, MoveSource | None]]"

_SEED = "seed"


@attrs.frozen(repr=False)
class SeedOrder:
    """`stop_at` is when the server is moved, in seconds since the epoch; None if it is not."""

    stop_at: float | None = None

    def state(self) -> dict[str, object]:
        """Return what the state of its move has of it."""
        return {_SEED: attrs.asdict(self)}


def seed_of(record: MoveRecord) -> SeedOrder | None:
    """Return what a seed was ordered by; None for another move."""
    found = json.loads(record.state).get(_SEED)
    return None if found is None else SeedOrder(found.get("stop_at"))


def is_seed(entry: TransferRecord, record: MoveRecord) -> bool:
    """Return whether a transfer is a seed whose end was not due yet: its server is not held."""
    before = (SendStep.ASK.name, SendStep.SEED.name)
    return entry.step in before and seed_of(record) is not None
