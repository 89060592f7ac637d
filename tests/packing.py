"""Packing for tests: an archive in memory, with all that was told on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from attrs import Factory, define

from wingsd.archive import Compression, Extracted, Packed, Part, extract, pack


@define
class Sent:
    """What one packing wrote and told."""

    archive: bytearray = Factory(bytearray)
    notes: list[str] = Factory(list)
    progress: list[int] = Factory(list)
    packed: Packed | None = None


def packed(
    tree: Path,
    *,
    links: bool = True,
    compression: Compression = Compression.NONE,
    limit: int | None = None,
    threads: bool = False,
    meanwhile: Callable[[int], None] = lambda total: None,
) -> Sent:
    """Pack `tree`; `meanwhile` is called with each progress."""
    sent = Sent()

    def progress(total: int) -> None:
        sent.progress.append(total)
        meanwhile(total)

    sent.packed = pack(
        Part(str(tree), limit=limit),
        sent.archive.extend,
        links=links,
        compression=compression,
        warn=sent.notes.append,
        progress=progress,
        threads=threads,
    )
    return sent


def unpacked(sent: Sent, into: Path) -> Extracted:
    """Extract what was sent with our own extractor, which must have nothing to say to it."""
    into.mkdir()
    notes: list[str] = []
    done = extract(iter([bytes(sent.archive)]), str(into), None, notes.append, threads=False)
    assert notes == []
    return done
