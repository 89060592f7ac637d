"""The process that looks at directories for a walk: see `walk_process`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import BinaryIO

from wingsd.errors import StorageError
from wingsd.filesystem.open_directories import OpenDirectories
from wingsd.filesystem.walk import Listing, small_listing
from wingsd.moves.seen_directories import SeenDirectories, stat_results
from wingsd.moves.walk_frames import WalkFrame

__all__ = ["look", "main"]


def main(root: int, paths: int) -> None:
    """Look at directories below `root`; the file `paths` has their paths."""
    with open(paths, "rb") as file, open(1, "wb") as found:
        look(root, file.read().split(b"\0"), found)


def look(root: int, paths: Sequence[bytes], found: BinaryIO) -> None:
    """Look at directories, the last one first, and write frames of them to `found`.

    Of those that the other process has to look at nothing is written.
    """
    seen = SeenDirectories(lambda found: False)
    with closing(OpenDirectories(root, lambda path: None)) as directories:
        for path in reversed(paths):
            listing = small_listing(directories, tuple(path.split(b"/")))
            if listing is None or not _is_added(seen, path, listing):
                continue
            names = listing.files, listing.directories
            frame = WalkFrame(path, seen.digest(path), seen.has_linked(path), *names)
            found.write(frame.encode())
            found.flush()


def _is_added(seen: SeenDirectories, path: bytes, listing: Listing) -> bool:
    """Add a directory in which there are only files and directories; return whether it is one.

    Whether a symlink is settled, and what is left out, the other process has to tell.
    """
    if listing.symlinks or listing.others:
        return False
    vanished: list[bytes] = []
    try:
        entries = stat_results(listing, lambda name, reason: vanished.append(name))
    except StorageError:
        return False
    seen.add(path, listing, entries)
    return not vanished and not seen.is_noted(path)
