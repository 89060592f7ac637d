"""Changes of files by name: renamed, deleted, made, copied, and their modes. Blocking."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain

import attrs

from wingsd.errors import (
    FileDenied,
    FileMissing,
    FileTypeRefused,
    InvalidMode,
    NameConflict,
    PathInvalid,
)
from wingsd.files.guard import Guard
from wingsd.filesystem.attributes import set_mode_at
from wingsd.filesystem.directory import Entry
from wingsd.filesystem.new_file import NewFileOptions
from wingsd.filesystem.past import in_point
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot


def rename(guard: Guard, files: Iterable[tuple[ServerPath, ServerPath]]) -> int:
    """Rename files in order, each from the first path of a pair to the second; return how many.

    One that does not exist is passed over. A directory that something denied is in is not renamed,
    nor one in which something would be denied under its new name. Raises FileDenied, NameConflict,
    PathInvalid, NotDirectory and FileWorkCancelled; what was renamed before stays so.
    """
    count = 0
    for source, target in files:
        guard.progress.check()
        try:
            is_directory = guard.root.stat(source).is_directory
            guard.check(source, target, is_directory=is_directory)
            if is_directory:
                guard.check_tree(source, target)
            guard.root.rename(source, target)
        except FileMissing:
            continue
        count += 1
        guard.progress.files_done += 1
    return count


def delete(guard: Guard, paths: Iterable[ServerPath], *, missing: bool = True) -> int:
    """Delete files and directories; return how many of these paths.

    What is denied stays, with the directories that it is in; only where nothing else was asked
    for, it is an error. Raises FileDenied, PathInvalid, FileWorkCancelled, and FileMissing unless
    `missing` is false; what was deleted before stays so.
    """
    count = 0
    denied: FileDenied | None = None
    for path in paths:
        guard.progress.check()
        try:
            entry = guard.root.stat(path)
            guard.check(path, is_directory=entry.is_directory)
            _delete(guard, path, entry)
        except FileDenied as error:
            denied = error
        except FileMissing:
            if missing:
                raise
        else:
            count += 1
            guard.progress.files_done += 1
    if denied is not None and not count:
        raise denied
    return count


def _delete(guard: Guard, path: ServerPath, entry: Entry) -> None:
    root, cancelled = guard.root, guard.progress.cancelled
    kept = guard.kept(path) if entry.is_directory else set()
    if path not in kept:
        root.remove(path, cancelled)
        return
    for directory in kept:
        with root.directory(directory) as listed:
            for each in listed.entries():
                guard.progress.check()
                below = directory.child(each.name)
                if below in kept or guard.denies(below, is_directory=each.is_directory):
                    continue
                with suppress(FileMissing):
                    root.remove(below, cancelled)


def create_directory(guard: Guard, path: ServerPath) -> Entry:
    """Make a directory and those on the way to it.

    Raises FileDenied, NameConflict and NotDirectory.
    """
    guard.check(path, is_directory=True)
    return guard.root.make_directory(path)


_MODE = re.compile(r"0?o?[0-7]{1,4}")


def parse_mode(text: str) -> int:
    """Return permission bits that are given in octal. Raises `InvalidMode`."""
    if not _MODE.fullmatch(text):
        raise InvalidMode(text)
    return int(text.replace("o", ""), 8) & 0o777


@attrs.frozen
class Mode:
    """The mode that a file is to get, and with `recursive` all files and directories in it."""

    path: ServerPath
    bits: int
    recursive: bool = False


def set_modes(guard: Guard, files: Iterable[Mode]) -> int:
    """Set modes; return of how many files. One that does not exist is passed over.

    Raises FileDenied, FileTypeRefused for what has no mode, and FileWorkCancelled.
    """
    for each in files:
        guard.progress.check()
        try:
            is_directory = guard.root.stat(each.path).is_directory
            guard.check(each.path, is_directory=is_directory)
            if is_directory and each.recursive:
                _set_below(guard, each)
            guard.root.set_mode(each.path, each.bits)
        except FileMissing:
            continue
        guard.progress.files_done += 1
    return guard.progress.files_done


def _set_below(guard: Guard, given: Mode) -> None:
    """Set the modes of all that is in a directory but symlinks and what has no mode."""
    with guard.tree(given.path) as listings:
        for listing in listings:
            guard.progress.check()
            for name in (*listing.files, *listing.directories):
                with suppress(FileNotFoundError, FileTypeRefused):
                    set_mode_at(listing.fd, name, given.bits)
                    guard.progress.files_done += 1


#: Numbered names that are tried before the time is part of the name.
_NUMBERED = 50


def divided(name: bytes) -> tuple[bytes, bytes]:
    """Divide a name before its extension, as Wings does: `.tar.gz` and the like stay one."""
    at = name.rfind(b".")
    base, extension = (name[:at], name[at:]) if at >= 0 else (name, b"")
    if base.endswith(b".tar"):
        return base.removesuffix(b".tar"), b".tar" + extension
    return base, extension


def copy_names(
    base: bytes, extension: bytes, now: Callable[[], float] = time.time
) -> Iterator[bytes]:
    """Yield the names that Wings gives to copies, in its order; the last is free as a rule."""
    yield base + b" copy" + extension
    for number in range(1, _NUMBERED):
        yield b"%b copy %d%b" % (base, number, extension)
    yield b"%b copy.%b%b" % (base, rfc_3339(now()).encode(), extension)


def rfc_3339(moment: float) -> str:
    """Return a Unix time as RFC 3339 in local time, to the second, as Go's nodes print it."""
    local = time.localtime(moment)
    zone = time.strftime("%z", local)
    shown = "Z" if not local.tm_gmtoff else f"{zone[:3]}:{zone[3:]}"
    return time.strftime("%Y-%m-%dT%H:%M:%S", local) + shown


def is_free(root: ServerRoot, path: ServerPath) -> bool:
    """Return whether nothing has a path now."""
    try:
        root.stat(path)
    except FileMissing:
        return True
    return False


def copy(
    guard: Guard,
    source: ServerPath,
    target: ServerPath | None,
    *,
    overwrite: bool = False,
    directories: bool = False,
) -> tuple[ServerPath, Entry]:
    """Copy a regular file, or with `directories` a directory, to `target` or beside it for None.

    What is copied from the past, to a path in the same point or beside it, gets the path that it
    had in the server's directory; for None where that is free, and else a name beside it.

    Returns the path and the entry of the copy. With `overwrite` existing files are replaced.
    Raises FileMissing for anything else, FileDenied, NameConflict, DiskLimitExceeded and
    FileWorkCancelled; nothing is left of a copy that failed, but what it replaced.
    """
    entry = guard.root.stat(source)
    if source.is_root or not (entry.is_regular or (entry.is_directory and directories)):
        raise FileMissing(str(source))
    guard.check(source, is_directory=entry.is_directory)
    names, original = copy_names(*divided(source.name)), source
    if guard.root.past_of(source) is not None:
        original = in_point(source)
        if original.is_root:
            raise PathInvalid("a whole point cannot be copied: copy what is in it.")
        names = chain((source.name,), names)
        if target is not None and target.parts[:2] == source.parts[:2]:
            target = in_point(target)
    copier = _Copier(guard, overwrite and target is not None)
    copy_entry = copier.tree if entry.is_directory else copier.file
    if target is not None:
        guard.check(target, is_directory=entry.is_directory)
        return target, copy_entry(source, target)
    for name in names:
        path = original.parent.child(name)
        if not is_free(guard.root, path):
            continue
        guard.check(path, is_directory=entry.is_directory)
        with suppress(NameConflict):  # it was made in this moment
            return path, copy_entry(source, path)
    raise NameConflict.renaming(str(source))


@attrs.frozen
class _Copier:
    """Copies single entries; with `overwrite` existing files are replaced."""

    _guard: Guard
    _overwrite: bool

    def file(self, source: ServerPath, target: ServerPath) -> Entry:
        """Copy a regular file."""
        if source == target:
            raise NameConflict.renaming(str(target))
        options, progress = NewFileOptions(replace=self._overwrite), self._guard.progress
        entry = self._guard.root.copy(source, target, options, progress.cancelled)
        progress.bytes_done += entry.size
        progress.files_done += 1
        return entry

    def tree(self, source: ServerPath, target: ServerPath) -> Entry:
        """Copy a directory."""
        root = self._guard.root
        real_source, real_target = root.real_path(source), root.real_path(target)
        if source.contains(target) or real_source.contains(real_target):
            raise PathInvalid("a directory cannot be copied into itself.")
        is_new = False
        try:
            if not (root.stat(target).is_directory and self._overwrite):
                raise NameConflict.renaming(str(target))
        except FileMissing:
            is_new = True
        try:
            if root.past_of(source) is None:
                self._fill(source, target)
            else:
                self._fill_from_past(source, target)
        except BaseException:
            if is_new:
                with suppress(FileMissing):
                    root.remove(target)
            raise
        return root.stat(target)

    def _fill(self, source: ServerPath, target: ServerPath) -> None:
        # What is copied is not durable at once: fsync(2) for each file would take hours.
        options = NewFileOptions(replace=self._overwrite, durable=False)
        root, progress = self._guard.root, self._guard.progress
        with self._guard.tree(source, target) as listings:
            for listing in listings:
                here = ServerPath((*source.parts, *listing.path))
                there = ServerPath((*target.parts, *listing.path))
                progress.check()
                root.make_directory(there)
                root.set_mode(there, listing.stat.st_mode)
                for name in listing.files:
                    with suppress(FileMissing):  # deleted meanwhile
                        copied = here.child(name), there.child(name)
                        entry = root.copy(*copied, options, progress.cancelled)
                        progress.bytes_done += entry.size
                    progress.files_done += 1
                for name in listing.symlinks:
                    with suppress(FileMissing, NameConflict):
                        root.make_symlink(there.child(name), root.link_text(here.child(name)))

    def _fill_from_past(self, source: ServerPath, target: ServerPath) -> None:
        options = NewFileOptions(replace=self._overwrite, durable=False)
        root, progress = self._guard.root, self._guard.progress
        assert root.past is not None  # noqa: S101 - the source is in it
        root.make_directory(target)
        root.set_mode(target, root.stat(source).mode)
        for path, entry, text, write in root.past.tree(source, progress.cancelled):
            there = ServerPath((*target.parts, *path.parts[len(source.parts) :]))
            progress.check()
            if self._guard.denies(path, is_directory=entry.is_directory) or self._guard.denies(
                there, is_directory=entry.is_directory
            ):
                continue
            if entry.is_directory:
                root.make_directory(there)
                root.set_mode(there, entry.mode)
            elif entry.is_symlink:
                with suppress(NameConflict):
                    root.make_symlink(there, text)
            else:
                root.write_past(entry, there, options, write)
                progress.bytes_done += entry.size
                progress.files_done += 1
