"""Opens directories below a server's directory: the one place where a path meets the disk.

Symlinks on the way are followed as long as they lead to a directory below the root. An absolute
one leads out, since its text is about the container. Everything else is done with one name in a
directory that was opened here, by system calls that do not follow a symlink of that name. So
nothing outside the root is reached, whatever is moved or replaced meanwhile.
"""

from __future__ import annotations

import errno
import os
from typing import NoReturn

from wingsd.errors import ConfigError
from wingsd.filesystem.open_directories import closing_descriptor
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.syscalls import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    openat2,
)

#: Symlinks of one path: as many as Linux follows, path_resolution(7).
MAX_LINKS = 40
#: Directories that are opened for one path, those of symlinks' texts included.
MAX_STEPS = 1 << 14
#: How often openat2 is tried while directories are moved, before each is opened by itself.
TRIES = 32

_PATH = os.O_PATH | os.O_DIRECTORY
_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
#: How a file is created, and its mode until it has its owner.
NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
NEW_FILE_MODE = 0o600
#: AT_FDCWD.
_CURRENT = -100


class OpenatOpener:
    """Opens each component of a path by itself, and resolves symlinks by their texts.

    Descriptors are the caller's to close.
    """

    def directory(self, root: int, path: ServerPath) -> int:
        """Return an O_PATH descriptor of the directory `path` below the descriptor `root`.

        Raises OSError: EXDEV or ELOOP for symlinks that lead out or in a circle, ENOTDIR, ENOENT.
        """
        fd = os.open(b".", _PATH, dir_fd=root)
        #: The components still to come, the next one last, and the directories passed.
        ahead, done = list(reversed(path.parts)), list[bytes]()
        links = steps = 0
        try:
            while ahead:
                part, passed = ahead.pop(), fd
                if part == b"..":
                    if not done:
                        _fail(errno.EXDEV)
                    done.pop()
                    # Not by the directory's own "..": it may have been moved.
                    steps += 1 + len(done)
                    fd = _reopened(root, done)
                    os.close(passed)
                elif part not in (b"", b"."):
                    steps += 1
                    text = _link_text(fd, part)
                    if text is None:
                        fd = os.open(part, _PATH | os.O_NOFOLLOW, dir_fd=fd)
                        os.close(passed)
                        done.append(part)
                    else:
                        links += 1
                        if text.startswith(b"/"):
                            _fail(errno.EXDEV)
                        ahead += reversed(text.split(b"/"))
                if links > MAX_LINKS or steps > MAX_STEPS:
                    _fail(errno.ELOOP)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def subdirectory(self, parent: int, name: bytes) -> int:
        """Return a descriptor to read the directory `name` in `parent`, on the same file system.

        A bind mount of the same file system is not seen. Raises OSError: ENOTDIR or ELOOP for a
        symlink or a file, EXDEV for a mount point.
        """
        fd = os.open(name, _READ, dir_fd=parent)
        if os.fstat(fd).st_dev != os.fstat(parent).st_dev:
            os.close(fd)
            _fail(errno.EXDEV)
        return fd

    def new_file(self, root: int, path: ServerPath) -> int:
        """Create the file `path` below the descriptor `root`; return a descriptor of it.

        Raises OSError: EEXIST for a name in use, and where its directory cannot be opened.
        """
        with closing_descriptor(self.directory(root, path.parent)) as parent:
            return os.open(path.name, NEW_FILE, NEW_FILE_MODE, dir_fd=parent)


class Openat2Opener:
    """Opens a whole path by openat2(2): the kernel resolves it."""

    def directory(self, root: int, path: ServerPath) -> int:
        """Return a descriptor of a directory below `root`; see `OpenatOpener`."""
        for _ in range(TRIES):
            try:
                return openat2(
                    root, bytes(path) or b".", _PATH, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS
                )
            except (BlockingIOError, InterruptedError):
                # Something was moved while a ".." in a symlink's text was resolved.
                continue
        return OpenatOpener().directory(root, path)

    def subdirectory(self, parent: int, name: bytes) -> int:
        """Return a descriptor of a directory in `parent`; see `OpenatOpener`."""
        return openat2(
            parent, name, _READ, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV
        )

    def new_file(self, root: int, path: ServerPath) -> int:
        """Create a file below `root`; see `OpenatOpener`."""
        resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS
        return openat2(root, bytes(path), NEW_FILE, resolve, NEW_FILE_MODE)


DirectoryOpener = OpenatOpener | Openat2Opener


def directory_opener(mode: str) -> DirectoryOpener:
    """Return the way for a `system.openat_mode`: `auto`, `openat` or `openat2`.

    Raises ConfigError for `openat2` where there is none.
    """
    if mode == "openat":
        return OpenatOpener()
    try:
        # A kernel before 5.6 has no such call, and a sandbox that is older than it forbids it.
        os.close(openat2(_CURRENT, b"/", _PATH, RESOLVE_NO_MAGICLINKS))
    except OSError as error:
        if mode == "openat2":
            raise ConfigError(
                f"system.openat_mode: openat2 cannot be used here ({error.strerror}); "
                "set it to auto"
            ) from error
        return OpenatOpener()
    return Openat2Opener()


def _link_text(parent: int, name: bytes) -> bytes | None:
    """Return a symlink's text, None for anything else that exists."""
    try:
        return os.readlink(name, dir_fd=parent)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return None
        raise


def _reopened(root: int, parts: list[bytes]) -> int:
    """Open a path that has no symlinks."""
    fd = os.open(b".", _PATH, dir_fd=root)
    try:
        for part in parts:
            child = os.open(part, _PATH | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = child
    except BaseException:
        os.close(fd)
        raise
    return fd


def _fail(code: int) -> NoReturn:
    raise OSError(code, os.strerror(code))
