"""Extracting what is in memory."""

from __future__ import annotations

from pathlib import Path

from tests.archives import in_blocks
from wingsd.archive.extract import Extracted, extract


def unpack(
    archive: bytes,
    into: Path,
    size: int = 1 << 16,
    owner: tuple[int, int] | None = None,
    *,
    threads: bool = False,
) -> tuple[Extracted, list[str]]:
    into.mkdir(exist_ok=True)
    notes: list[str] = []
    done = extract(in_blocks(archive, size), str(into), owner, notes.append, threads=threads)
    return done, notes
