"""Reads and replaces files below a server's directory, which belongs to the server's users.

They may have planted symlinks, FIFOs or hard links there while the node runs as root. So every
directory is entered by its descriptor, a symlink is followed only by its text and only to what is
inside, and no file that exists is ever written into: a new one takes its name.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from types import TracebackType
from typing import Self

import attrs

from wingsd.archive.directories import Directories
from wingsd.archive.listing import Path
from wingsd.eggfiles.refused import Refused
from wingsd.quoting import display

__all__ = ["Found", "Tree"]

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_FILE_MODE = 0o644
_DIRECTORY_MODE = 0o755
#: As many as Linux follows before it gives up.
_MAX_LINKS = 40


@attrs.frozen
class Found:
    """A file as it is: where it really lies, its bytes (None: it does not exist), its mode."""

    path: Path
    data: bytes | None
    mode: int = _FILE_MODE


class Tree:
    """The files below the directory `root`; what is made belongs to `owner` (user and group id).

    Its methods raise Refused, and OSError where the disk fails. To be used as a context.
    """

    def __init__(self, root: str, owner: tuple[int, int] | None) -> None:
        self._owner = owner
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        self._made: list[Path] = []
        self._directories = Directories(self._root, self._made.append)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._directories.close()
        os.close(self._root)

    def read(self, name: str, limit: int) -> Found:
        """Return the file `name`, a path relative to the root, of at most `limit` bytes."""
        path = self._resolved(name)
        try:
            parent = self._directories.get(path[:-1], make=False)
            fd = os.open(path[-1], _READ, dir_fd=parent)
        except FileNotFoundError:
            return Found(path, None)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise Refused("it is not a regular file")
            with os.fdopen(fd, "rb", closefd=False) as file:
                data = file.read(limit + 1) if status.st_size <= limit else b""
            if max(status.st_size, len(data)) > limit:
                raise Refused(f"it is larger than {limit >> 10} KiB")
        finally:
            os.close(fd)
        # set-id bits are none of a configuration's business
        return Found(path, data, stat.S_IMODE(status.st_mode) & 0o777)

    def replace(self, found: Found, data: bytes) -> None:
        """Put a file with these bytes in the place of what was found, with the same mode."""
        self._directories.get(found.path[:-1])
        self._dress_directories()
        parent = self._directories.get(found.path[:-1])
        temporary = f".wingsd-{secrets.token_hex(8)}"
        fd = os.open(temporary, _CREATE, 0o600, dir_fd=parent)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                self._dress(fd, found.mode)
            os.rename(temporary, found.path[-1], src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=parent)
            raise

    def _resolved(self, name: str) -> Path:
        """Return the path without symlinks, as the tree is now.

        A symlink planted afterwards is not followed: whoever opens the path finds it in the way.
        """
        ahead = _parts(os.fsencode(name))
        done: list[bytes] = []
        links = 0
        while ahead:
            part = ahead.pop()
            if part == b"..":
                if not done:
                    raise Refused("it leads out of the server's directory")
                done.pop()
                continue
            text = self._link_text(tuple(done), part)
            if text is None:
                done.append(part)
                continue
            links += 1
            if text.startswith(b"/"):
                link = display(b"/".join([*done, part]))
                raise Refused(f"{link} is a symlink to an absolute path, which is not followed")
            if links > _MAX_LINKS:
                raise Refused("its symlinks lead in a circle")
            ahead += _parts(text)
        if not done:
            raise Refused("it names no file")
        return tuple(done)

    def _link_text(self, parent: Path, name: bytes) -> bytes | None:
        """Return a symlink's text; None for all else, and for what does not exist."""
        try:
            fd = self._directories.get(parent, make=False)
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            return os.readlink(name, dir_fd=fd) if stat.S_ISLNK(status.st_mode) else None
        except FileNotFoundError:
            return None

    def _dress_directories(self) -> None:
        while self._made:
            fd = self._directories.get(self._made.pop(), make=False)
            self._dress(fd, _DIRECTORY_MODE)

    def _dress(self, fd: int, mode: int) -> None:
        """Owner before mode, as giving a file away may take bits of its mode."""
        if self._owner is not None:
            os.fchown(fd, *self._owner)
        os.fchmod(fd, mode)


def _parts(path: bytes) -> list[bytes]:
    """Return the components of a path, the first one last."""
    if b"\0" in path:
        raise Refused("its name has a zero byte")
    return [part for part in reversed(path.split(b"/")) if part not in (b"", b".")]
