"""The content of a backup on the disk: staged beside a server's files, and exchanged with them.

It is in the staging area, so that a rename puts it into place. Old and new content change places
at once, renameat2(2), where the file system can do that, else by two renames. Which of them is in
place is decided by the inode of the new directory, so that the daemon can complete an exchange
that was begun. The old content is then deleted, or kept in quarantine.

Where it does not replace all files, it is first laid over the present ones: each present file that
it does not have is added to it by a hard link, so nothing is copied, nothing of the present
directory is changed, and until one takes the place of the other both are whole. What was restored
counts where both have a name, whatever kind each is: a present directory in the place of a
restored file is left out with all below it. A directory in both has the mode, the extended
attributes and the ACLs of the present one. No symlink is followed.

Blocking: run it in a thread, but for `recover` at the daemon's start. Methods raise StorageError.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import NoReturn

import attrs

from wingsd.archive.tree_writer import DirectoryMetadata
from wingsd.errors import StorageError
from wingsd.filesystem.attributes import (
    EVERYTHING,
    AttributeReader,
    clear_attributes,
    write_attributes,
)
from wingsd.filesystem.open_directories import OpenDirectories, closing_descriptor
from wingsd.filesystem.removal import remove_tree
from wingsd.filesystem.syscalls import RENAME_EXCHANGE, renameat2, syncfs
from wingsd.filesystem.walk import Listing, measured, opened, walk
from wingsd.servers.quotas import ProjectQuotas
from wingsd.statedb import RestoreRecord, RewindRecord
from wingsd.transfers.storage.quarantine import keep_replaced
from wingsd.transfers.storage.staging import Staging
from wingsd.util.durable import move, storage_errors, time_stamp
from wingsd.util.text import disk_advice, display

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: The names in the staging area, after the server's: what is being restored, the old content
#: where it could not be exchanged at once, and what is to be deleted.
_RESTORED, _REPLACED, _DISCARDED = ".restored", ".replaced", ".discarded"
#: And what is being exchanged to rewind the server.
_REWIND = ".rewind"
#: What renameat2(2) fails with where the file system, or the kernel, cannot exchange.
_NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EXDEV)


@attrs.frozen(eq=False, repr=False)
class RestoreStorage:
    """Where contents of backups are staged, and put into place.

    `owner` is the user and group id of servers' directories. With `durable` what is done is on
    stable storage when a method returns. `exchange` is renameat2(2).
    """

    staging: Staging
    data: Path
    owner: tuple[int, int]
    quotas: ProjectQuotas
    durable: bool
    exchange: Callable[[int, bytes, int, bytes, int], None] = renameat2

    def create(self, server: str) -> int:
        """Make a new, empty directory for the content; return its descriptor.

        It has no project of a quota, so that hard links to the present files can be made in it.
        """
        self.withdraw(server)
        path = self._restored(server)
        with storage_errors(f"{path} cannot be made"):
            path.mkdir(mode=0o755)
            descriptor = os.open(path, _DIRECTORY)
            try:
                os.fchown(descriptor, *self.owner)
            except BaseException:
                os.close(descriptor)
                raise
        return descriptor

    def path(self, server: str) -> str:
        """Return where a server's content is staged."""
        return str(self._restored(server))

    def flush(self, descriptor: int) -> int:
        """Return the inode of a staged directory when all below it is on stable storage.

        The descriptor is that of `create`: the kernel reports a failure of writing only to those
        that were open by then.
        """
        with storage_errors(f"{self.staging.path} could not be synced"):
            if self.durable:
                syncfs(descriptor)
            return os.fstat(descriptor).st_ino

    def is_in_place(self, server: str, inode: int) -> bool:
        """Return whether the directory with this inode is in the server's place."""
        return _inode(self.data / server) == inode

    def is_undecided(self, server: str) -> bool:
        """Return whether neither content is in place, after the first of two renames."""
        replaced = self._path(server, _REPLACED)
        return os.path.lexists(replaced) and not os.path.lexists(self.data / server)

    def put_into_place(self, server: str, inode: int) -> None:
        """Exchange the staged content with the present one, if that is not done.

        When it fails, the present one is in place as before, unless `is_in_place` or
        `is_undecided` says otherwise.
        """
        if self.is_in_place(server, inode):
            return
        place, restored = self.data / server, self._restored(server)
        if _inode(restored) != inode:
            raise StorageError(
                f"{restored} is not the content that was prepared; restore the backup again"
            )
        if not os.path.lexists(place):
            move(restored, place, durable=self.durable)
            return
        try:
            self._exchange(server)
        except OSError as error:
            if error.errno not in _NO_EXCHANGE:
                why = f"{restored} cannot be moved to {place}: {disk_advice(error)}"
                raise StorageError(why) from error
            self._move_both(server)

    def _exchange(self, server: str) -> None:
        place, restored = self.data / server, self._restored(server)
        names = place.name.encode(), restored.name.encode()
        with (
            closing_descriptor(os.open(place.parent, _DIRECTORY)) as source,
            closing_descriptor(os.open(restored.parent, _DIRECTORY)) as target,
        ):
            self.exchange(source, names[0], target, names[1], RENAME_EXCHANGE)
            try:
                for directory in (source, target) if self.durable else ():
                    os.fsync(directory)
            except OSError:
                self.exchange(source, names[0], target, names[1], RENAME_EXCHANGE)
                raise

    def _move_both(self, server: str) -> None:
        place, replaced = self.data / server, self._path(server, _REPLACED)
        move(place, replaced, durable=self.durable)
        try:
            move(self._restored(server), place, durable=self.durable)
        except StorageError:
            move(replaced, place, durable=self.durable)
            raise

    def retire(self, server: str, *, keep: bool) -> str | None:
        """Take the old content out of the way of `clear`; return where it is kept, if it is."""
        old = self._path(server, _REPLACED)
        if not os.path.lexists(old):
            old = self._restored(server)
        if not os.path.lexists(old):
            return None
        self.quotas.release(server, str(old))
        if keep:
            return str(keep_replaced(server, old, self.staging.quarantine))
        self._put_aside(server, old)
        return None

    def withdraw(self, server: str) -> None:
        """Take what is staged of a server out of use; `discard` deletes it.

        A crash does not bring back what is exchanged to rewind it, with which a later rewind
        would be completed.
        """
        for suffix in (_RESTORED, _REPLACED, _REWIND):
            path = self._path(server, suffix)
            if os.path.lexists(path):
                self._put_aside(server, path, durable=self.durable and suffix == _REWIND)

    def _put_aside(self, server: str, path: Path, *, durable: bool = False) -> None:
        move(path, self._path(server, f".{time_stamp()}{_DISCARDED}"), durable=durable)

    def discard(self, server: str) -> None:
        """Delete what was taken out of use."""
        for path in Path(self.staging.path).glob(f"{server}.*{_DISCARDED}"):
            with storage_errors(f"{path} cannot be removed"):
                if path.is_symlink() or not path.is_dir():
                    path.unlink(missing_ok=True)
                else:
                    remove_tree(str(path))

    def rewind_place(self, server: str) -> str:
        """Return where the files are that are exchanged to rewind a server."""
        return str(self._path(server, _REWIND))

    # At the daemon's start

    @staticmethod
    def names(records: Sequence[RestoreRecord], rewinds: Sequence[RewindRecord] = ()) -> list[str]:
        """Return the names in the staging area that are to stay for recovery."""
        restored = [
            f"{record.server}{suffix}"
            for record in records
            if record.inode is not None
            for suffix in (_RESTORED, _REPLACED)
        ]
        under_way = [record.server for record in rewinds if record.outcome is None]
        return [*restored, *(f"{server}{_REWIND}" for server in under_way)]

    def recover(self, record: RestoreRecord, *, keep: bool) -> str | None:
        """Complete a restore that an earlier daemon has begun to put into place.

        Return where the old content is kept, if it is.
        """
        if record.inode is None:
            return None
        self.put_into_place(record.server, record.inode)
        return self.retire(record.server, keep=keep)

    def _restored(self, server: str) -> Path:
        return self._path(server, _RESTORED)

    def _path(self, server: str, suffix: str) -> Path:
        return Path(self.staging.path) / f"{server}{suffix}"


def _inode(path: Path) -> int | None:
    """Return the inode of a directory, None where there is none."""
    try:
        descriptor = os.open(path, _DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise StorageError(f"{path} cannot be inspected: {disk_advice(error)}") from error
    with closing_descriptor(descriptor):
        return os.fstat(descriptor).st_ino


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
        return measured(checked(walk(root, lambda name, why: None, comparing.select))).size


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
        self._directories = OpenDirectories(restored)
        found = os.fstat(present)
        self._attributes = AttributeReader((found.st_uid, found.st_gid), EVERYTHING)

    def close(self) -> None:
        self._directories.close()

    def merge(self, owner: tuple[int, int], memory: int) -> None:
        place = f"/proc/self/fd/{self._restored}"
        with closing(DirectoryMetadata(place, memory)) as metadata:
            try:
                for listing in walk(self._present, _changed, self.select):
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
        path: tuple[bytes, ...] = ()
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

    def select(self, listing: Listing) -> Listing:
        """Leave out the names for which there is something restored."""
        try:
            other = self._directories.get(listing.path, make=False)
        except FileNotFoundError:
            return listing  # All of it is kept.

        def is_kept(name: bytes, is_directory: bool) -> bool:
            try:
                mode = os.stat(name, dir_fd=other, follow_symlinks=False).st_mode
            except FileNotFoundError:
                return True
            return is_directory and stat.S_ISDIR(mode)

        return listing.filtered(is_kept)

    def _fail(self, path: tuple[bytes, ...], error: OSError) -> NoReturn:
        shown = display(b"/".join(path) or b".")
        if error.errno == errno.EXDEV:
            why = "its files are on another file system than the server's directory"
        else:
            why = disk_advice(error)
        raise StorageError(f"{shown} could not be kept: {why}") from error


def _changed(name: bytes, why: str) -> NoReturn:
    raise StorageError(f"{display(name)} was changed while the backup was laid over it: {why}")
