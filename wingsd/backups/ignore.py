"""What a backup leaves out: an ignore list with git's rules, and files that are being written.

The list is the Panel's; where that is empty, a file in the server's directory: `.pteroignore`,
with Pelican `.pelicanignore`, with Calagopus both. Calagopus' backups leave out what the egg's
denylist has as well, since its users cannot see that. Blocking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType

import attrs

from wingsd.archive.policy import MAX_DEPTH
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL
from wingsd.errors import FileMissing, FileTypeRefused, IsDirectory, TreeTooLarge
from wingsd.files.denylist import Denylist
from wingsd.filesystem import ServerPath, ServerRoot, name_text
from wingsd.filesystem.new_file import TEMPORARY
from wingsd.filesystem.walk import Listing
from wingsd.util.text import display

__all__ = ["MAX_IGNORE_FILE", "IgnoreList", "ignore_lines"]

#: Bytes of an ignore file at most, as in Wings.
MAX_IGNORE_FILE = 32 << 10
_FILES: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        PTERODACTYL: (".pteroignore",),
        PELICAN: (".pelicanignore",),
        CALAGOPUS: (".pteroignore", ".pelicanignore"),
    }
)


def ignore_lines(
    root: ServerRoot, given: str, family: str, warn: Callable[[str], None]
) -> tuple[str, ...]:
    """Return the lines of the ignore list `given` by the Panel, else of the server's files.

    `warn` gets a line for each file that is not used: links are not followed. Raises StorageError
    where one cannot be read.
    """
    if given.strip():
        return tuple(given.splitlines())
    lines: list[str] = []
    for name in _FILES[family]:
        with suppress(FileMissing):
            lines += _read(root, name, warn).splitlines()
    return tuple(lines)


def _read(root: ServerRoot, name: str, warn: Callable[[str], None]) -> str:
    try:
        with root.open_file(ServerPath.parse(name)) as file:
            if file.entry.size <= MAX_IGNORE_FILE:
                return file.read_at(0, MAX_IGNORE_FILE).decode("utf-8", "replace")
            reason = "is too large"
    except (FileTypeRefused, IsDirectory):
        reason = "is not a regular file"
    warn(
        f"{name} {reason}, and is not used: the backup leaves out nothing that it lists; make it "
        f"a file of at most {MAX_IGNORE_FILE >> 10} KiB, or delete it"
    )
    return ""


@attrs.define
class IgnoreList:
    """Files that are left out of one backup: those in `ignored` and in `denied`.

    `dropped` counts the names that were left out; what is in a directory is not counted.
    """

    ignored: Denylist
    denied: Denylist
    dropped: int = 0

    def select(self, listing: Listing) -> Listing:
        """Return what a backup has of a directory; a directory that is dropped is not entered.

        Raises TreeTooLarge for what is so deep that it could not be restored.
        """
        kept = self._selected(listing)
        if len(kept.path) + bool(kept.count) > MAX_DEPTH:
            raise TreeTooLarge.reading(
                f"{display(b'/'.join(kept.path))} is nested too deeply: a backup could not be "
                f"restored with more than {MAX_DEPTH} directories in each other; move it up, "
                "delete it, or add it to the ignore list"
            )
        return kept

    def _selected(self, listing: Listing) -> Listing:
        prefix = name_text(listing.prefix)
        files = [name for name in listing.files if not TEMPORARY.fullmatch(name)]
        if self.ignored.is_empty and self.denied.is_empty:
            return attrs.evolve(listing, files=files)
        return attrs.evolve(
            listing,
            files=self._kept(prefix, files),
            symlinks=self._kept(prefix, listing.symlinks),
            others=self._kept(prefix, listing.others),
            directories=self._kept(prefix, listing.directories, "/"),
        )

    def _kept(self, prefix: str, names: list[bytes], end: str = "") -> list[bytes]:
        kept = [name for name in names if not self._is_left_out(f"{prefix}{name_text(name)}{end}")]
        self.dropped += len(names) - len(kept)
        return kept

    def _is_left_out(self, path: str) -> bool:
        return self.ignored.matches(path) or self.denied.matches(path)
