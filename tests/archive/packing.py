"""Packs trees into archives in memory, and extracts them again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from attrs import Factory, define

from tests.support.archives import in_blocks
from wingsd.archive.compress import Compression
from wingsd.archive.extract import Extracted, extract
from wingsd.archive.pack import Packed, pack
from wingsd.archive.partition import Part


@define
class Sent:
    """The archive, warnings, progress and result of one packing."""

    archive: bytearray = Factory(bytearray)
    notes: list[str] = Factory(list)
    progress: list[int] = Factory(list)
    files: int = 0
    _packed: Packed | None = None

    @property
    def packed(self) -> Packed:
        assert self._packed is not None
        return self._packed


def packed(
    tree: Path | Part,
    *,
    links: bool = True,
    compression: Compression = Compression.NONE,
    limit: int | None = None,
    threads: bool = False,
    attributes: bool = True,
    holes: bool = False,
    meanwhile: Callable[[int], None] = lambda total: None,
) -> Sent:
    """Pack a tree, or a part of one; `meanwhile` is called with each progress."""
    sent = Sent()
    if not isinstance(tree, Part):
        tree = Part(str(tree), limit=limit, attributes=attributes, holes=holes)

    def progress(total: int, files: int) -> None:
        sent.progress.append(total)
        sent.files = files
        meanwhile(total)

    sent._packed = pack(
        tree,
        sent.archive.extend,
        links=links,
        compression=compression,
        warn=sent.notes.append,
        progress=progress,
        threads=threads,
    )
    return sent


def unpacked(sent: Sent, into: Path) -> Extracted:
    """Extract a packed archive; the extractor must give no warning."""
    done, notes = unpack(bytes(sent.archive), into)
    assert notes == []
    return done


def unpack(
    archive: bytes,
    into: Path,
    size: int = 1 << 16,
    owner: tuple[int, int] | None = None,
    *,
    threads: bool = False,
) -> tuple[Extracted, list[str]]:
    """Extract an archive in blocks of `size` bytes; return the result and the warnings."""
    into.mkdir(exist_ok=True)
    notes: list[str] = []
    done = extract(in_blocks(archive, size), str(into), owner, notes.append, threads=threads)
    return done, notes
