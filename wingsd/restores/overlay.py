"""Lays restored files over the present ones of a server, in a new directory.

The new directory has the restored files. Each present file that it does not have is added to it by
a hard link, so nothing is copied, nothing of the present directory is changed, and until one takes
the place of the other both are whole. What was restored counts where both have a name, whatever
kind each is: a present directory in the place of a restored file is left out with all below it. A
directory in both has the mode, the extended attributes and the ACLs of the present one.

Blocking. No symlink is followed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import NoReturn

from wingsd.archive.directories import DirectoryMetadata
from wingsd.errors import StorageError
from wingsd.filesystem.attributes import (
    EVERYTHING,
    AttributeReader,
    clear_attributes,
    write_attributes,
)
from wingsd.filesystem.open_directories import OpenDirectories, Path
from wingsd.filesystem.walk import Listing, measured, opened, walk
from wingsd.util.text import disk_advice, display

_MODE = 0o7777


def kept_size(present: str, restored: int) -> int:
    """Return the bytes of the present files that `overlay` would add, as a disk limit counts them.

    `present` is a path, `restored` a descriptor. Raises StorageError, also where a file cannot be
    linked since it is on another file system.
    """
    if not _is_directory(present):
        return 0
    device = os.fstat(restored).st_dev

    def checked(listings: Iterator[Listing]) -> Iterator[Listing]:
        for listing in listings:
            if listing.stat.st_dev != device:
                shown = display(b"/".join(listing.path) or b".")
                raise StorageError(
                    f"{shown} is on another file system than the server's directory, and "
                    "cannot be kept beside the restored files; unmount it, or have the backup "
                    "replace all files"
                )
            yield listing

    with opened(present) as root, closing(_Overlay(root, restored)) as comparing:
        # The server may run: what vanishes meanwhile is not kept.
        return measured(checked(comparing.kept(lambda name, why: None))).size


def overlay(present: str, restored: int, owner: tuple[int, int], memory: int) -> None:
    """Add the present files to the restored ones. Raises StorageError.

    `owner` is the user and group id of new directories; `memory` are the most bytes of metadata of
    directories, which is else kept on the disk.
    """
    if _is_directory(present):
        with opened(present) as root, closing(_Overlay(root, restored)) as merging:
            merging.merge(owner, memory)


def _is_directory(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


class _Overlay:
    """Goes through the present files below `present` that the tree below `restored` lacks."""

    def __init__(self, present: int, restored: int) -> None:
        self._present = present
        self._restored = restored
        self._directories = OpenDirectories(restored, lambda path: None)
        found = os.fstat(present)
        self._attributes = AttributeReader((found.st_uid, found.st_gid), EVERYTHING)

    def close(self) -> None:
        self._directories.close()

    def kept(self, vanished: Callable[[bytes, str], None]) -> Iterator[Listing]:
        """Yield the listings of the present tree with the names that are kept."""
        return walk(self._present, vanished, self._select)

    def merge(self, owner: tuple[int, int], memory: int) -> None:
        place = f"/proc/self/fd/{self._restored}"
        with closing(DirectoryMetadata(place, memory)) as metadata:
            try:
                for listing in self.kept(_changed):
                    self._merge(listing, metadata)
            except OSError as error:
                self._fail((), error)
            self._finish(metadata, owner)

    def _merge(self, listing: Listing, metadata: DirectoryMetadata) -> None:
        path = listing.path
        try:
            if listing.is_first:
                self._enter(listing, metadata)
            target = self._directories.get(path)
            for name in (*listing.files, *listing.symlinks, *listing.others):
                with suppress(FileExistsError):
                    os.link(
                        name,
                        name,
                        src_dir_fd=listing.fd,
                        dst_dir_fd=target,
                        follow_symlinks=False,
                    )
        except OSError as error:
            self._fail(path, error)

    def _enter(self, listing: Listing, metadata: DirectoryMetadata) -> None:
        """Note what a directory is to have; linking into it would change its time."""
        path, mtime = listing.path, listing.stat.st_mtime_ns
        mode = listing.stat.st_mode & _MODE
        attributes, mode = self._attributes.read(listing.fd, listing.stat, mode)
        try:
            found = os.fstat(self._directories.get(path, make=False))
        except FileNotFoundError:
            self._directories.get(path)
        else:
            mtime = found.st_mtime_ns
        note = metadata.add if path else metadata.update
        note(path, mode, mtime, attributes)

    def _finish(self, metadata: DirectoryMetadata, owner: tuple[int, int]) -> None:
        path: Path = ()
        try:
            for path, mode, mtime, attributes in metadata.in_order():
                fd = self._directories.get(path, make=False)
                os.fchown(fd, *owner)
                clear_attributes(fd)
                write_attributes(fd, attributes, mode, owner)
                if mtime is not None:
                    os.utime(fd, ns=(mtime, mtime))
        except OSError as error:
            self._fail(path, error)

    def _select(self, listing: Listing) -> Listing:
        """Leave out the names for which there is something restored."""
        try:
            other = self._directories.get(listing.path, make=False)
        except FileNotFoundError:
            return listing  # All of it is kept.

        def is_kept(name: bytes, is_directory: bool) -> bool:
            mode = _mode(name, other)
            return mode is None or (is_directory and stat.S_ISDIR(mode))

        return listing.filtered(is_kept)

    def _fail(self, path: Path, error: OSError) -> NoReturn:
        shown = display(b"/".join(path) or b".")
        if error.errno == errno.EXDEV:
            why = "its files are on another file system than the server's directory"
        else:
            why = disk_advice(error)
        raise StorageError(f"{shown} could not be kept: {why}") from error


def _changed(name: bytes, why: str) -> NoReturn:
    raise StorageError(f"{display(name)} was changed while the backup was laid over it: {why}")


def _mode(name: bytes, directory: int) -> int | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None
