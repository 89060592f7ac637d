"""Changes of files by name: renamed, deleted, made, and their modes. Blocking."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress

import attrs

from wingsd.errors import FileDenied, FileMissing, FileTypeRefused, InvalidMode
from wingsd.files.guard import Guard
from wingsd.files.progress import Progress
from wingsd.filesystem import Entry, ServerPath, ServerRoot
from wingsd.filesystem.modes import set_mode_at
from wingsd.filesystem.walk import Listing

__all__ = ["Mode", "Renaming", "create_directory", "delete", "parse_mode", "rename", "set_modes"]


@attrs.frozen
class Renaming:
    """A file, and the path that it is to get."""

    source: ServerPath
    target: ServerPath


def rename(root: ServerRoot, guard: Guard, files: Iterable[Renaming], progress: Progress) -> int:
    """Rename files in order; return how many. One that does not exist is passed over.

    A directory that something denied is in is not renamed, nor one in which something would be
    denied under its new name. Raises FileDenied, NameConflict, PathInvalid, NotDirectory and
    FileWorkCancelled; what was renamed before stays so.
    """
    count = 0
    for each in files:
        progress.check()
        try:
            is_directory = root.stat(each.source).is_directory
            guard.check(each.source, each.target, is_directory=is_directory)
            if is_directory:
                guard.check_tree(each.source, each.target, progress.cancelled)
            root.rename(each.source, each.target)
        except FileMissing:
            continue
        count += 1
        progress.files_done += 1
    return count


def delete(
    root: ServerRoot,
    guard: Guard,
    paths: Iterable[ServerPath],
    progress: Progress,
    *,
    missing: bool = True,
) -> int:
    """Delete files and directories; return how many of these paths.

    What is denied stays, with the directories that it is in; only where nothing else was asked
    for, it is an error. Raises FileDenied, PathInvalid, FileWorkCancelled, and FileMissing unless
    `missing` is false; what was deleted before stays so.
    """
    count = 0
    denied: FileDenied | None = None
    for path in paths:
        progress.check()
        try:
            entry = root.stat(path)
            guard.check(path, is_directory=entry.is_directory)
            _delete(root, guard, path, entry, progress)
        except FileDenied as error:
            denied = error
        except FileMissing:
            if missing:
                raise
        else:
            count += 1
            progress.files_done += 1
    if denied is not None and not count:
        raise denied
    return count


def _delete(
    root: ServerRoot, guard: Guard, path: ServerPath, entry: Entry, progress: Progress
) -> None:
    kept = guard.kept(path, progress.cancelled) if entry.is_directory else set()
    if path not in kept:
        root.remove(path, progress.cancelled)
        return
    for directory in kept:
        with root.directory(directory) as listed:
            for each in listed.entries():
                progress.check()
                below = directory.child(each.name)
                if below in kept or guard.denies(below, is_directory=each.is_directory):
                    continue
                with suppress(FileMissing):
                    root.remove(below, progress.cancelled)


def create_directory(root: ServerRoot, guard: Guard, path: ServerPath) -> Entry:
    """Make a directory and those on the way to it.

    Raises FileDenied, NameConflict and NotDirectory.
    """
    guard.check(path, is_directory=True)
    return root.make_directory(path)


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


def set_modes(root: ServerRoot, guard: Guard, files: Iterable[Mode], progress: Progress) -> int:
    """Set modes; return of how many files. One that does not exist is passed over.

    Raises FileDenied, FileTypeRefused for what has no mode, and FileWorkCancelled.
    """
    for each in files:
        progress.check()
        try:
            is_directory = root.stat(each.path).is_directory
            guard.check(each.path, is_directory=is_directory)
            if is_directory and each.recursive:
                _set_below(root, guard, each, progress)
            root.set_mode(each.path, each.bits)
        except FileMissing:
            continue
        progress.files_done += 1
    return progress.files_done


def _set_below(root: ServerRoot, guard: Guard, given: Mode, progress: Progress) -> None:
    """Set the modes of all that is in a directory but symlinks and what has no mode."""
    places = (given.path, root.real_path(given.path))

    def select(listing: Listing) -> Listing:
        return guard.allowed(listing, *(ServerPath((*p.parts, *listing.path)) for p in places))

    with (
        root.directory(given.path) as top,
        top.tree(select) as listings,
    ):
        for listing in listings:
            progress.check()
            for name in (*listing.files, *listing.directories):
                with suppress(FileNotFoundError, FileTypeRefused):
                    set_mode_at(listing.fd, name, given.bits)
                    progress.files_done += 1
