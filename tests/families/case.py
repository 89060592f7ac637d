"""What a check of a cell of the table of compatibility works with."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from handbook.compatibility import Cell
from tests.families.departures import Departure
from tests.families.endpoint import Endpoint
from tests.families.nodes import parts_of
from tests.families.recordings import BACKUPS, Recording


@attrs.frozen
class Case:
    """A cell, the family's recording, a node of the family, and `depart` for sending to one."""

    cell: Cell
    recording: Recording
    endpoint: Endpoint
    depart: Callable[..., Departure]

    @property
    def part_names(self) -> list[str]:
        """The names of the recording's parts, with `UUID` in place of each backup's."""
        sent = parts_of(self.recording.content_type, self.recording.body)
        return [general(part.name) for part in sent]


def general(name: str) -> str:
    """Return a part's name with `UUID` in place of a backup's."""
    for uuid in BACKUPS:
        name = name.replace(uuid, "UUID")
    return name
