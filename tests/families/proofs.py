"""How each cell of the matrix is proven: who has to prove what, and what a proof has at hand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs

from handbook.compatibility import Cell, Fate, Thing, Way
from tests.families.departures import Departures
from tests.families.endpoint import Endpoint
from tests.families.nodes import parts_of
from tests.families.recordings import BACKUPS, Recording

__all__ = ["PROOFS", "Arrival", "Departure", "Proof", "general", "proves"]


@attrs.frozen
class Arrival:
    """What a proof about receiving has at hand."""

    cell: Cell
    endpoint: Endpoint
    recording: Recording

    @property
    def part_names(self) -> list[str]:
        """The names of the parts of the recording, where `UUID` stands for each backup's."""
        sent = parts_of(self.recording.content_type, self.recording.body)
        return [general(part.name) for part in sent]


@attrs.frozen
class Departure:
    """What a proof about sending has at hand; `depart` makes the two nodes."""

    cell: Cell
    family: str
    depart: Callable[..., Departures]
    endpoint: Endpoint


Proof = Callable[..., Awaitable[None]]
PROOFS: dict[tuple[Way, Thing, Fate], Proof] = {}


def proves(way: Way, thing: Thing, fate: Fate) -> Callable[[Proof], Proof]:
    """Let a function be the proof of all such cells."""

    def note(proof: Proof) -> Proof:
        assert (way, thing, fate) not in PROOFS
        PROOFS[way, thing, fate] = proof
        return proof

    return note


def general(name: str) -> str:
    """Return a part's name with `UUID` in place of a backup's."""
    for uuid in BACKUPS:
        name = name.replace(uuid, "UUID")
    return name
