"""Rewrites the files that an egg names, below a server's directory.

A server's users may create symlinks, FIFOs or hard links there while the node runs as root. So
every directory is opened by descriptor, a symlink is followed only by its text and only inside,
and an existing file is never written to: a new one replaces it by its name.

Files are read and replaced here, and parsed elsewhere (`process`).
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import attrs

from wingsd.egg_files.changes import Change, Refused
from wingsd.egg_files.formats import Rewritten, format_of, quoted
from wingsd.filesystem.open_directories import OpenDirectories, Path
from wingsd.panel.schemas import ConfigurationFile, Replacement
from wingsd.util.text import display

__all__ = ["Found", "Parse", "Tree", "rewrite"]

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_FILE_MODE = 0o644
_DIRECTORY_MODE = 0o755
#: Linux's limit.
_MAX_LINKS = 40


@attrs.frozen
class Found:
    """A file: its path without symlinks, its bytes (None: it does not exist), its mode."""

    path: Path
    data: bytes | None
    mode: int = _FILE_MODE


class Tree:
    """The files below the directory `root`; new files belong to `owner` (user and group id).

    Its methods raise Refused, and OSError where the disk fails. To be used as a context.
    """

    def __init__(self, root: str, owner: tuple[int, int] | None) -> None:
        self._owner = owner
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        self._made: list[Path] = []
        self._directories = OpenDirectories(self._root, self._made.append)

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
        # set-id bits are not kept
        return Found(path, data, stat.S_IMODE(status.st_mode) & 0o777)

    def replace(self, found: Found, data: bytes) -> None:
        """Replace what was found by a file with these bytes and the same mode."""
        self._directories.get(found.path[:-1])
        self._set_directory_attributes()
        parent = self._directories.get(found.path[:-1])
        temporary = f".wingsd-{secrets.token_hex(8)}"
        fd = os.open(temporary, _CREATE, 0o600, dir_fd=parent)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                self._set_attributes(fd, found.mode)
            os.rename(temporary, found.path[-1], src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=parent)
            raise

    def _resolved(self, name: str) -> Path:
        """Return the path without symlinks, as the tree is now.

        A symlink created afterwards is not followed: opening the path fails.
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
                raise Refused("its symlinks form a loop")
            ahead += _parts(text)
        if not done:
            raise Refused("it names no file")
        return tuple(done)

    def _link_text(self, parent: Path, name: bytes) -> bytes | None:
        """Return a symlink's text; None for anything else, or if it does not exist."""
        try:
            fd = self._directories.get(parent, make=False)
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            return os.readlink(name, dir_fd=fd) if stat.S_ISLNK(status.st_mode) else None
        except FileNotFoundError:
            return None

    def _set_directory_attributes(self) -> None:
        while self._made:
            fd = self._directories.get(self._made.pop(), make=False)
            self._set_attributes(fd, _DIRECTORY_MODE)

    def _set_attributes(self, fd: int, mode: int) -> None:
        """Set owner and mode, in this order: a change of owner may clear bits of the mode."""
        if self._owner is not None:
            os.fchown(fd, *self._owner)
        os.fchmod(fd, mode)


def _parts(path: bytes) -> list[bytes]:
    """Return the components of a path, the first one last."""
    if b"\0" in path:
        raise Refused("its name has a zero byte")
    return [part for part in reversed(path.split(b"/")) if part not in (b"", b".")]


#: Gets a parser's name, a file's bytes and changes; returns the new bytes, or raises Refused.
Parse = Callable[[str, bytes, Sequence[Change]], Rewritten]

_MAX_LINE = 500


def rewrite(
    root: str,
    owner: tuple[int, int] | None,
    files: Sequence[ConfigurationFile],
    node: Mapping[str, Any],
    parse: Parse,
) -> list[str]:
    """Rewrite every file below the server's directory `root`, and make those that are missing.

    `owner` (user id, group id) is given to what is written; None leaves it to the process. `node`
    is the node's configuration as plain nested data in snake case, for `{{config.*}}`. `parse`
    makes the changes in a file's bytes. A file in which nothing has to change is not touched.

    Returns one line, for a person to read, for each file or replacement that could not be done.
    Such a file is left as it was, and the server starts all the same. Blocks; raises nothing for
    bad files or bad input.
    """
    try:
        with Tree(root, owner) as tree:
            return [line for file in files for line in _lines(tree, file, node, parse)]
    except OSError as error:
        return [f"{quoted(root)} could not be opened: {error.strerror or error}"]


def _lines(
    tree: Tree, file: ConfigurationFile, node: Mapping[str, Any], parse: Parse
) -> Iterator[str]:
    name = quoted(file.file)
    try:
        for failure in _rewritten(tree, file, node, parse):
            yield _line(f"{name}: {failure}")
    except Refused as error:
        yield _line(f"{name} is left as it was: {error}")
    except OSError as error:
        yield _line(f"{name} is left as it was: {error.strerror or error}")
    except Exception as error:
        # An unexpected failure of one file must not prevent the start.
        yield _line(f"{name} is left as it was: {type(error).__name__}: {error}")


def _line(text: str) -> str:
    """Return a text, which may quote a file or a library, as one line that is safe to show."""
    text = " ".join(text.split())[:_MAX_LINE]
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _rewritten(
    tree: Tree, file: ConfigurationFile, node: Mapping[str, Any], parse: Parse
) -> list[str]:
    found = tree.read(file.file, format_of(file.parser).limit)
    changes, failures = _changes(file.replace, node)
    rewritten = parse(file.parser, found.data or b"", changes)
    if rewritten.data != found.data:
        tree.replace(found, rewritten.data)
    return failures + rewritten.failures


def _changes(
    replacements: Sequence[Replacement], node: Mapping[str, Any]
) -> tuple[list[Change], list[str]]:
    changes, failures = [], []
    for replacement in replacements:
        try:
            changes.append(Change.from_replacement(replacement, node))
        except Refused as error:
            failures.append(f"{quoted(replacement.match)}: {error}")
    return changes, failures
