"""The log of a disk: its writes and flushes in their order, and what the disk holds after a loss.

A disk that loses its power has all writes before its last flush, and of the later ones any.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from struct import Struct

from attrs import frozen

__all__ = ["Kind", "Note", "note", "notes", "write_lost"]

_HEAD = Struct("<BQI")
#: What is written at once or not at all: a page of the cache. A write of several may be torn.
_PIECE = 4096


class Kind(Enum):
    """What was done to a disk."""

    WRITE = 1
    FLUSH = 2


@frozen(repr=False)
class Note:
    """One write or flush; `end` is the position in the log after it."""

    kind: Kind
    at: int
    data: bytes
    end: int


def note(log: int, kind: Kind, at: int, data: bytes) -> None:
    """Append to a log, a descriptor."""
    os.write(log, _HEAD.pack(kind.value, at, len(data)) + data)


def notes(log: Path) -> Iterator[Note]:
    """Yield all that is in a log."""
    end = 0
    with log.open("rb") as file:
        while head := file.read(_HEAD.size):
            kind, at, length = _HEAD.unpack(head)
            data = file.read(length)
            end += _HEAD.size + length
            yield Note(Kind(kind), at, data, end)


def write_lost(disk: int, log: Path, position: int, share: float, rng: random.Random) -> int:
    """Write to `disk`, what it was before the log, what it is when the power fails at `position`.

    Of what was not flushed each page is there with the probability `share`. Returns how many pages
    are not.
    """
    open_: list[Note] = []
    lost = 0
    for each in notes(log):
        if each.end > position:
            break
        if each.kind is Kind.WRITE:
            open_.append(each)
            continue
        for write in open_:
            os.pwrite(disk, write.data, write.at)
        open_.clear()
    for write in open_:
        for start in range(0, len(write.data), _PIECE):
            if rng.random() < share:
                os.pwrite(disk, write.data[start : start + _PIECE], write.at + start)
            else:
                lost += 1
    return lost
