"""Files that users may not touch: an egg's `file_denylist`, in the form of gitignore.

The lists of files that backups leave out have the same form.

pathspec translates the lines, with git's own semantics, and RE2 matches them: in time linear in
the length of a path, whatever an egg's author has written. Blocking for as long as a second, once
for each denylist, if it has thousands of lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from threading import Lock
from typing import Any

import attrs
from twisted.logger import Logger

from wingsd.filesystem.paths import ServerPath

#: Further lines are left out, and longer ones: no egg of a person has them.
MAX_LINES = 10_000
MAX_LINE_LENGTH = 1024
#: Lines that are matched together first, and the characters of their expressions.
_TOGETHER = 100
_CHARACTERS = 16_384
#: Memory for one expression, in bytes: RE2 refuses one that takes more.
_MEMORY = 32 << 20
# The groups with which pathspec marks that a pattern has matched a directory above the path.
_MARK = "ps_d"
_MARKED_GROUP, _GROUP = f"(?P<{_MARK}>", "(?:"


class _Pattern:
    """One line: its regular expression, and whether it denies (or allows again, with `!`)."""

    def __init__(self, text: str, denies: bool) -> None:
        self.text = text
        self.denies = denies
        self._compiled: Any = None

    def search(self, path: str) -> Any:
        """Return the match with a path; None for none."""
        if self._compiled is None:
            self._compiled = _expression(self.text)
        return self._compiled.search(path)


@attrs.frozen(eq=False)
class _Group:
    """Lines whose expressions are matched together, to skip them all where none matches."""

    any_of: Any
    patterns: tuple[_Pattern, ...]


@attrs.define(eq=False, repr=False)
class Denylist:
    """The files of one server that are denied. Any thread may ask; the first compiles it.

    `source` names the list in the log. With `exact` spaces at the beginning of a line count.
    """

    _lines: tuple[str, ...] = attrs.field(default=(), converter=tuple[str, ...])
    _source: str = "an egg's file_denylist"
    _exact: bool = attrs.field(default=False, kw_only=True)
    _groups: tuple[_Group, ...] | None = attrs.field(default=None, init=False)
    _lock: Lock = attrs.field(factory=Lock, init=False)
    _log = Logger()

    @property
    def is_empty(self) -> bool:
        """True where nothing is denied."""
        return not self._lines

    def denies(self, path: ServerPath, *, is_directory: bool = False) -> bool:
        """Return whether a path, or a directory that it is in, is denied.

        A line that ends with a slash is about directories only.
        """
        if not self._lines or path.is_root:
            return False
        return self.matches(f"{path}/" if is_directory else str(path))

    def matches(self, text: str) -> bool:
        """Return the same of a path in the form of `name_text`, of a directory with a slash."""
        denied, is_by_file = False, False
        groups = (group for group in self._compiled() if group.any_of.search(text))
        for pattern in chain.from_iterable(group.patterns for group in groups):
            found = pattern.search(text)
            if found is None:
                continue
            # Not the directory itself that is asked for, whose slash is the last character. The
            # mark is the only group.
            is_above = found.groupdict().get(_MARK) is not None and found.end(1) < len(text)
            # As git does: a line with `!` for a directory allows nothing that another line denies
            # by its own name.
            if pattern.denies or not is_above or not is_by_file:
                denied = pattern.denies
                is_by_file = not is_above
        return denied

    def _compiled(self) -> tuple[_Group, ...]:
        with self._lock:
            if self._groups is None:
                self._groups = tuple(self._grouped(self._translated())) if self._lines else ()
            return self._groups

    def _translated(self) -> Iterator[_Pattern]:
        # Here, since few eggs have a denylist.
        from pathspec import GitIgnoreSpec  # noqa: PLC0415

        kind = type(next(iter(GitIgnoreSpec.from_lines(["any"]).patterns)))
        for line in self._lines[:MAX_LINES]:
            # Wings ignores spaces around a line; git does in part, versions of pathspec differ.
            given = line.lstrip() if line.endswith("\\ ") else line.strip()
            if self._exact:
                given = _exactly(line, given)
            try:
                if len(line) > MAX_LINE_LENGTH:
                    raise ValueError("it is too long")  # noqa: TRY301
                text, includes = kind.pattern_to_regex(given)
            except ValueError as error:
                self._ignored(line, error)
            else:
                if text is not None and includes is not None:
                    yield _Pattern(text, includes)

    def _ignored(self, line: str, reason: object) -> None:
        self._log.warn(
            "a line of {source} is ignored: {line!r}: {reason}",
            source=self._source,
            line=line[:100],
            reason=reason,
        )

    def _grouped(self, patterns: Iterable[_Pattern]) -> Iterator[_Group]:
        group: list[_Pattern] = []
        size = 0
        for pattern in patterns:
            if len(group) == _TOGETHER or size + len(pattern.text) > _CHARACTERS:
                yield from self._group(group)
                group, size = [], 0
            group.append(pattern)
            size += len(pattern.text)
        yield from self._group(group)

    def _group(self, patterns: list[_Pattern]) -> Iterator[_Group]:
        """Yield the group of these patterns, or smaller ones where RE2 refuses it."""
        alternatives = (pattern.text.replace(_MARKED_GROUP, _GROUP) for pattern in patterns)
        try:
            if patterns:
                together = "|".join(f"(?:{each})" for each in alternatives)
                yield _Group(_expression(together), (*patterns,))
        except ValueError as error:
            middle = len(patterns) // 2
            if middle:
                yield from self._group(patterns[:middle])
                yield from self._group(patterns[middle:])
            else:
                self._ignored(patterns[0].text, error)


def _exactly(line: str, given: str) -> str:
    """Return a line for pathspec that means what `line` means to git.

    Spaces at its beginning count. And of lines for all names, pathspec makes expressions that do
    not tell a directory from what is in it.
    """
    if line[:1].isspace() and given:
        return f"\\{line[0]}{line[1:].rstrip()}"
    name = given.removeprefix("!")
    if name.rstrip("/") in ("*", "**"):
        return f"{given[: len(given) - len(name)]}?{name.replace('**', '*')}"
    return given


def _expression(text: str) -> Any:
    """Return a compiled expression. Raises `ValueError` where RE2 refuses it."""
    import re2  # noqa: PLC0415 (2 MiB, which few eggs need)

    options = re2.Options()
    options.max_mem = _MEMORY
    options.log_errors = False
    options.dot_nl = True
    try:
        return re2.compile(text, options)
    except re2.error as error:
        raise ValueError(str(error)) from error


def denylist_lines(value: object) -> tuple[str, ...]:
    """Return the lines of `settings.egg.file_denylist`, which has any form its author gave it."""
    if isinstance(value, str):
        value = value.splitlines()
    elif isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list | tuple):
        return ()
    return tuple(line for line in value if isinstance(line, str) and line.strip())
