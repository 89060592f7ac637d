"""Gives the entries of a tree to one owner, by directory descriptors.

An installation script runs as root, so what it leaves belongs to root. Only entries with another
owner are changed. Symlinks are changed themselves. A file with several hard links is changed when
all of them are in the tree: with another one elsewhere it is somebody else's file as well.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import closing

from attrs import Factory, define

from wingsd.filesystem.new_file import Owner
from wingsd.filesystem.walk import Inode, Listing, gone, opened, walk
from wingsd.util.text import disk_advice, display

__all__ = ["GivenTree", "give_tree"]

#: Hard-linked files that are counted at most, about 100 bytes each.
MAX_LINKED = 200_000
LINKED_ELSEWHERE = "it has a hard link outside of the directory"
TOO_MANY_LINKED = "too many files have several hard links"


@define
class GivenTree:
    """The number of entries that were changed, and of those that keep their owner.

    `example` is the name of one that does, and `why` the reason, both for people.
    """

    changed: int = 0
    kept: int = 0
    example: str = ""
    why: str = ""

    def keep(self, name: bytes, why: str) -> None:
        """Count an entry that keeps its owner."""
        self.kept += 1
        if not self.example:
            self.example, self.why = display(name or b"."), why


def give_tree(directory: str, owner: Owner, cancelled: Callable[[], bool]) -> GivenTree:
    """Give a directory and all below it to `owner`, unless `cancelled` says to stop.

    What cannot be changed keeps its owner. Blocking; `cancelled` is called in this thread for each
    directory. Raises StorageError where a directory cannot be read.
    """
    giver = _Giver(owner)
    with opened(directory) as root, closing(walk(root, lambda name, why: None)) as listings:
        for listing in listings:
            if cancelled():
                return giver.given
            giver.give(listing)
    for name in giver.partly_seen():
        giver.given.keep(name, LINKED_ELSEWHERE)
    return giver.given


@define(eq=False, repr=False)
class _Giver:
    _owner: Owner
    given: GivenTree = Factory(GivenTree)
    #: Of each hard-linked file of another owner, its first name and the links not yet seen.
    _linked: dict[Inode, tuple[bytes, int]] = Factory(dict)

    def give(self, listing: Listing) -> None:
        if listing.is_first and self._is_foreign(listing.stat):
            self._change(listing.prefix.rstrip(b"/"), lambda: os.fchown(listing.fd, *self._owner))
        for names in (listing.files, listing.symlinks, listing.others):
            for name in names:
                self._give_entry(listing, name)

    def partly_seen(self) -> list[bytes]:
        return [name for name, _ in self._linked.values()]

    def _is_foreign(self, found: os.stat_result) -> bool:
        return (found.st_uid, found.st_gid) != self._owner

    def _give_entry(self, listing: Listing, name: bytes) -> None:
        try:
            found = os.stat(name, dir_fd=listing.fd, follow_symlinks=False)
        except OSError as error:
            if not gone(error):
                self.given.keep(listing.prefix + name, disk_advice(error))
            return
        # A directory in its place is new, and the daemon's users cannot make one of another owner.
        if stat.S_ISDIR(found.st_mode) or not self._is_foreign(found):
            return
        if found.st_nlink > 1 and not self._is_last_link(found, listing.prefix + name):
            return

        def change() -> None:
            os.chown(name, *self._owner, dir_fd=listing.fd, follow_symlinks=False)

        self._change(listing.prefix + name, change)

    def _is_last_link(self, found: os.stat_result, name: bytes) -> bool:
        inode = (found.st_dev, found.st_ino)
        if inode not in self._linked and len(self._linked) >= MAX_LINKED:
            self.given.keep(name, TOO_MANY_LINKED)
            return False
        first, left = self._linked.get(inode, (name, found.st_nlink))
        if left > 1:
            self._linked[inode] = first, left - 1
            return False
        del self._linked[inode]
        return True

    def _change(self, name: bytes, change: Callable[[], None]) -> None:
        try:
            change()
        except OSError as error:
            if not gone(error):
                self.given.keep(name, disk_advice(error))
        else:
            self.given.changed += 1
