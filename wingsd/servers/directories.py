"""The servers' directories: made, and deleted so that a crash in between leaves no half of one.

What is to be deleted is first moved, by one rename, below a directory of its own beside the
servers' (`.deleting-UUID-...`). That is found and finished when the node starts anew. On a volume
that other nodes have, too, its name ends with the node's: each finishes its own deletions, and
gets in the way of no other's. Blocking: run it in a thread.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile

from wingsd.archive import remove_tree
from wingsd.diskadvice import disk_advice
from wingsd.errors import StorageError

__all__ = ["Directories"]

_PREFIX = ".deleting-"
_DELETING = re.compile(
    re.escape(_PREFIX) + r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}-\w+(?:\.(.+))?"
)


class Directories:
    """Those below `data`, which is `system.data`; `owner` is their user and group id.

    `node` is the node's name, where others have the same directory. Every method raises
    `StorageError`.
    """

    def __init__(self, data: str, owner: tuple[int, int], node: str = "") -> None:
        self._data = data
        self._owner = owner
        self._node = node

    def path(self, uuid: str) -> str:
        """Return where the server's files are, or would be."""
        return os.path.join(self._data, uuid)

    def make(self, uuid: str) -> None:
        """Make the server's directory; one that is there is kept."""
        path = self.path(uuid)
        try:
            os.makedirs(self._data, exist_ok=True)
            try:
                os.mkdir(path, 0o755)
            except FileExistsError:
                if stat.S_ISDIR(os.lstat(path).st_mode):
                    return
                raise
            os.chown(path, *self._owner)
        except OSError as error:
            raise StorageError(f"{path} cannot be made: {disk_advice(error)}") from error

    def set_apart(self, uuid: str) -> str | None:
        """Move the server's directory away to be deleted; return where to, None without one.

        Where a symlink stands in its place, that is what is moved, and nothing it points to.
        """
        path = self.path(uuid)
        if not os.path.lexists(path):
            return None
        try:
            suffix = f".{self._node}" if self._node else ""
            apart = tempfile.mkdtemp(suffix, f"{_PREFIX}{uuid}-", self._data)
            try:
                os.rename(path, os.path.join(apart, uuid))
            except OSError:
                os.rmdir(apart)
                raise
        except OSError as error:
            why = disk_advice(error)
            raise StorageError(
                f"{path} cannot be moved away to be deleted: {why}; delete it by hand"
            ) from error
        return apart

    def unfinished(self) -> list[str]:
        """Return what this node has set apart and not deleted yet.

        What bears no node's name is from before others had the directory.
        """
        try:
            with os.scandir(self._data) as entries:
                return sorted(
                    entry.path
                    for entry in entries
                    if self._is_own(entry.name) and entry.is_dir(follow_symlinks=False)
                )
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"{self._data} cannot be read: {disk_advice(error)}") from error

    def _is_own(self, name: str) -> bool:
        found = _DELETING.fullmatch(name)
        return found is not None and found[1] in (None, self._node)

    def delete(self, apart: str) -> None:
        """Delete what was set apart; symlinks in it are removed and not followed."""
        try:
            remove_tree(apart)
        except OSError as error:
            raise StorageError(
                f"{apart} cannot be deleted: {disk_advice(error)}; it is tried again when the "
                "node starts anew"
            ) from error
