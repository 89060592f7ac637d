"""Makes the directories of a path that are missing, by descriptors."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from wingsd.errors import NotDirectory
from wingsd.filesystem.errors import file_error
from wingsd.filesystem.new_file import Owner
from wingsd.filesystem.openers import DirectoryOpener
from wingsd.filesystem.paths import ServerPath
from wingsd.util.text import display

__all__ = ["made_directory"]

_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_MODE = 0o755


def made_directory(
    opener: DirectoryOpener,
    root: int,
    path: ServerPath,
    owner: Owner | None,
    count: Callable[[], None],
) -> int:
    """Return a descriptor of the directory `path` below `root`, made if it is missing.

    New ones belong to `owner`, or to the process for None. `count` is called before each, and
    what it raises passes. Raises NotDirectory where the path leads through something else, and the
    other errors of `errors`.
    """
    parts = path.parts
    missing: list[bytes] = []
    while True:
        try:
            fd = opener.directory(root, ServerPath(parts))
            break
        except FileNotFoundError as error:
            if not parts:
                raise file_error(error, bytes(path)) from error
            missing.append(parts[-1])
            parts = parts[:-1]
        except NotADirectoryError as error:
            raise NotDirectory(_shown(path)) from error
        except OSError as error:
            raise file_error(error, bytes(path)) from error
    return _made_below(fd, missing, path, owner, count)


def _made_below(
    fd: int,
    missing: list[bytes],
    path: ServerPath,
    owner: Owner | None,
    count: Callable[[], None],
) -> int:
    """Make the directories `missing`, the last of the list first, and close `fd`."""
    try:
        while missing:
            count()
            child = _made_child(fd, missing.pop(), owner)
            os.close(fd)
            fd = child
    except BaseException as error:
        os.close(fd)
        if isinstance(error, OSError):
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise NotDirectory(_shown(path)) from error
            raise file_error(error, bytes(path)) from error
        raise
    return fd


def _made_child(parent: int, name: bytes, owner: Owner | None) -> int:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        # Made by another thread meanwhile, or a symlink that leads nowhere.
        return os.open(name, _LIST, dir_fd=parent)
    fd = os.open(name, _LIST, dir_fd=parent)
    try:
        if owner is not None:
            os.fchown(fd, *owner)
        os.fchmod(fd, _MODE)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _shown(path: ServerPath) -> str:
    return display(bytes(path) or b"/")
