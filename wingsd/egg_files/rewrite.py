"""Rewrites the files that an egg names, below a server's directory.

A server's users may create symlinks, FIFOs or hard links there while the node runs as root. So
files are read and replaced through `ServerRoot`. A symlink to a file is followed by its text, and
only inside: what is replaced is the file, and not the link.

Files are read and replaced here, and parsed elsewhere (`process`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from wingsd.egg_files.changes import Change, Refused
from wingsd.egg_files.formats import Rewritten, format_of, quoted
from wingsd.errors import FileMissing, FileTypeRefused, IsDirectory, StorageError, WingsdError
from wingsd.filesystem import ServerPath, ServerRoot, name_from_text
from wingsd.panel.schemas import ConfigurationFile, Replacement
from wingsd.util.text import display

__all__ = ["Found", "Parse", "Tree", "rewrite"]

#: Linux's limit.
_MAX_LINKS = 40


@attrs.frozen
class Found:
    """A file: its path without symlinks, and its bytes (None: it does not exist)."""

    path: ServerPath
    data: bytes | None


class Tree:
    """The files below a server's directory. Methods raise Refused and the errors of `root`."""

    def __init__(self, root: ServerRoot) -> None:
        self._root = root

    def read(self, name: str, limit: int) -> Found:
        """Return the file `name`, a path relative to the root, of at most `limit` bytes."""
        path = self._resolved(name)
        try:
            with self._root.open_file(path) as file:
                size = file.entry.size
                data = file.read(limit + 1) if size <= limit else b""
        except FileMissing as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return Found(path, None)
            raise
        except (IsDirectory, FileTypeRefused):
            raise Refused("it is not a regular file") from None
        if max(size, len(data)) > limit:
            raise Refused(f"it is larger than {limit >> 10} KiB")
        return Found(path, data)

    def replace(self, found: Found, data: bytes) -> None:
        """Replace what was found by a file with these bytes and the same mode."""
        self._root.write(found.path, [data])

    def _resolved(self, name: str) -> ServerPath:
        """Return the path without symlinks, as the tree is now."""
        ahead = _parts(name_from_text(name))
        done = ServerPath()
        links = 0
        while ahead:
            part = ahead.pop()
            if part == b"..":
                if done.is_root:
                    raise Refused("it leads out of the server's directory")
                done = done.parent
                continue
            path = done.child(part)
            text = self._link_text(path)
            if text is None:
                done = path
                continue
            links += 1
            if text.startswith(b"/"):
                link = display(bytes(path))
                raise Refused(f"{link} is a symlink to an absolute path, which is not followed")
            if links > _MAX_LINKS:
                raise Refused("its symlinks form a loop")
            ahead += _parts(text)
        if done.is_root:
            raise Refused("it names no file")
        return done

    def _link_text(self, path: ServerPath) -> bytes | None:
        """Return a symlink's text; None for anything else, or if it does not exist."""
        try:
            return self._root.link_text(path)
        except (FileMissing, FileTypeRefused):
            return None


def _parts(path: bytes) -> list[bytes]:
    """Return the components of a path, the first one last."""
    if b"\0" in path:
        raise Refused("its name has a zero byte")
    return [part for part in reversed(path.split(b"/")) if part not in (b"", b".")]


#: Gets a parser's name, a file's bytes and changes; returns the new bytes, or raises Refused.
Parse = Callable[[str, bytes, Sequence[Change]], Rewritten]

_MAX_LINE = 500


def rewrite(
    open_root: Callable[[], ServerRoot],
    files: Sequence[ConfigurationFile],
    node: Mapping[str, Any],
    parse: Parse,
) -> list[str]:
    """Rewrite every file below a server's directory, and make those that are missing.

    `node` is the node's configuration as plain nested data in snake case, for `{{config.*}}`.
    `parse` makes the changes in a file's bytes. A file in which nothing has to change is not
    touched.

    Returns one line, for a person to read, for each file or replacement that could not be done.
    Such a file is left as it was, and the server starts all the same. Blocks; raises nothing for
    bad files or bad input.
    """
    try:
        with open_root() as root:
            tree = Tree(root)
            return [line for file in files for line in _lines(tree, file, node, parse)]
    except StorageError as error:
        return [f"its directory could not be opened: {error.detail}"]


def _lines(
    tree: Tree, file: ConfigurationFile, node: Mapping[str, Any], parse: Parse
) -> Iterator[str]:
    name = quoted(file.file)
    try:
        for failure in _rewritten(tree, file, node, parse):
            yield _line(f"{name}: {failure}")
    except Refused as error:
        yield _line(f"{name} is left as it was: {error}")
    except WingsdError as error:
        yield _line(f"{name} is left as it was: {_reason(error)}")
    except Exception as error:
        # An unexpected failure of one file must not prevent the start.
        yield _line(f"{name} is left as it was: {type(error).__name__}: {error}")


def _reason(error: WingsdError) -> str:
    cause = error.__cause__
    if isinstance(cause, OSError):
        return cause.strerror or str(cause)
    return error.message.removesuffix(".")


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
