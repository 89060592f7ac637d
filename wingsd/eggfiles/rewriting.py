"""Rewrites the files that an egg names, one after the other, in a worker thread.

What is in a file is parsed elsewhere: here files are read and replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from wingsd.eggfiles.changes import Change
from wingsd.eggfiles.disk import Tree
from wingsd.eggfiles.forms import Rewritten, form_of, shown
from wingsd.eggfiles.refused import Refused
from wingsd.model import ConfigurationFile, Replacement

__all__ = ["Parse", "rewrite"]

#: Returns a file's bytes, which the parser of that name takes, with the changes made; or raises
#: Refused.
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
        return [f"{shown(root)} could not be opened: {error.strerror or error}"]


def _lines(
    tree: Tree, file: ConfigurationFile, node: Mapping[str, Any], parse: Parse
) -> Iterator[str]:
    name = shown(file.file)
    try:
        for fault in _rewritten(tree, file, node, parse):
            yield _line(f"{name}: {fault}")
    except Refused as error:
        yield _line(f"{name} is left as it was: {error}")
    except OSError as error:
        yield _line(f"{name} is left as it was: {error.strerror or error}")
    except Exception as error:
        # One file that nobody thought of keeps no server from starting.
        yield _line(f"{name} is left as it was: {type(error).__name__}: {error}")


def _line(text: str) -> str:
    """Return a text, which may quote a file or a library, as one line that is safe to show."""
    text = " ".join(text.split())[:_MAX_LINE]
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _rewritten(
    tree: Tree, file: ConfigurationFile, node: Mapping[str, Any], parse: Parse
) -> list[str]:
    found = tree.read(file.file, form_of(file.parser).limit)
    changes, faults = _changes(file.replace, node)
    rewritten = parse(file.parser, found.data or b"", changes)
    if rewritten.data != found.data:
        tree.replace(found, rewritten.data)
    return faults + rewritten.faults


def _changes(
    replacements: Sequence[Replacement], node: Mapping[str, Any]
) -> tuple[list[Change], list[str]]:
    changes, faults = [], []
    for replacement in replacements:
        try:
            changes.append(Change.of(replacement, node))
        except Refused as error:
            faults.append(f"{shown(replacement.match)}: {error}")
    return changes, faults
