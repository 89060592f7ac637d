"""YAML files: comments, order, quotes and anchors are kept by ruamel.yaml.

Most servers read YAML 1.1, where `yes` is a boolean; ruamel.yaml reads 1.2, where it is a text. So
texts are written in a way that both understand, and an unquoted `yes` is taken for a boolean.
"""

from __future__ import annotations

import io
import re
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import (
    DoubleQuotedScalarString,
    ScalarString,
    SingleQuotedScalarString,
)

from wingsd.egg_files.changes import NotDone, Scalar
from wingsd.egg_files.nested_formats import NestedFile

_MAX_DEPTH = 64
#: Entries that merging may copy, counted roughly: the library takes some 10 us for each.
_MAX_MERGED = 500_000
_MERGE = "<<"
_NEL = "\x85"
_NEVER_FOLD = 1 << 20
_KEY = r"^( *)[^\s#-][^\n]*:[ \t]*\n(?:[ \t]*(?:#[^\n]*)?\n)*\1"
_MAP_BELOW = re.compile(_KEY + r"( +)[^\s#-]", re.MULTILINE)
_LIST_BELOW = re.compile(_KEY + r"( *)- ", re.MULTILINE)
# A line of YAML may end with other characters, too: what follows them is no comment.
_EMPTY = re.compile(r"(?:[ \t]*(?:#[^\n\r\x85\u2028\u2029]*|---[ \t]*)?(?:\n|\Z))*")
_RESOLVER: Any = yaml.resolver.Resolver()
_FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TEXT = "tag:yaml.org,2002:str"
_BOOLEAN = "tag:yaml.org,2002:bool"
_YES = frozenset(("yes", "on", "true"))


class YamlFile(NestedFile):
    """A YAML file of one document. Raises NotDone for invalid YAML."""

    def __init__(self, source: str) -> None:
        self._yaml = YAML()
        self._yaml.preserve_quotes = True
        self._yaml.width = _NEVER_FOLD
        _indent_as(self._yaml, source)
        _check_work(source)
        self._is_empty = _EMPTY.fullmatch(source) is not None
        try:
            root = {} if self._is_empty else self._yaml.load(source)
        except (MemoryError, RecursionError):
            raise
        except Exception as error:  # For impossible values, any of Python's own.
            raise _not_yaml(error) from error
        super().__init__(root, source)

    def plain(self, found: object) -> object:
        """Return the value as YAML 1.1 has it."""
        if isinstance(found, ScalarString):
            return str(found)
        if isinstance(found, str):
            return found.lower() in _YES if _kind(found) == _BOOLEAN else found
        if isinstance(found, bool):
            return found
        if isinstance(found, int):
            return int(found)
        return float(found) if isinstance(found, float) else found

    def scalar(self, new: Scalar, found: object) -> object:
        """Return the value in the quotes it had, or in some where it needs them."""
        return _quoted(new, found) if isinstance(new, str) else new

    def key(self, name: str) -> str:
        """Return the key, in quotes where YAML 1.1 would not read it as text."""
        return _quoted(name, None)

    def dump(self) -> str:
        """Return the text; the comments of an empty file stay above it.

        Raises NotDone for one that could not be opened here again.
        """
        out = io.StringIO()
        self._yaml.dump(self.root, out)
        text = out.getvalue()
        if self._is_empty:
            head = self.source
            text = (head if not head or head.endswith("\n") else head + "\n") + text
        _check_work(text)
        return text


def _check_work(source: str) -> None:
    """Refuse deep nesting and endless merging before ruamel.yaml sees them.

    It takes quadratic time for the one, and cubic time for the other. libyaml, which does not, is
    used for the check; it reads YAML 1.1, and Wings' own parser is derived from it.
    """
    depth = events = merged = aliases = 0
    try:
        for event in yaml.parse(source, Loader=_FAST):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > _MAX_DEPTH:
                raise NotDone(f"it is nested more than {_MAX_DEPTH} levels deep")
            events += 1
            aliases += isinstance(event, yaml.AliasEvent)
            merged += isinstance(event, yaml.ScalarEvent) and event.value == _MERGE
        if merged and (merged + aliases) * events > _MAX_MERGED:
            raise NotDone(f"it merges too much with {_MERGE}")
    except yaml.YAMLError as error:
        raise _not_yaml(error) from error


def _not_yaml(error: Exception) -> NotDone:
    """Return the message for an error of either library."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    where = f"line {mark.line + 1}: " if mark else ""
    what = getattr(error, "problem", None) or getattr(error, "context", None) or error
    return NotDone(f"it is not YAML: {where}{what}")


def _kind(text: str) -> str:
    """Return the tag that YAML 1.1 gives to an unquoted text."""
    return str(_RESOLVER.resolve(yaml.ScalarNode, text, (True, False)))


def _quoted(text: str, found: object) -> str:
    style: type[str] = str
    # In single quotes, ruamel.yaml writes a NEL that comes back as a blank.
    if isinstance(found, DoubleQuotedScalarString) or _NEL in text:
        style = DoubleQuotedScalarString
    # Within braces, ruamel.yaml writes `?a` and `:a` as they are, which are read otherwise.
    elif (
        isinstance(found, SingleQuotedScalarString)
        or _kind(text) != _TEXT
        or text.startswith(("?", ":"))
    ):
        style = SingleQuotedScalarString
    return style(text)


def _indent_as(writer: YAML, source: str) -> None:
    below = _MAP_BELOW.search(source)
    dash = _LIST_BELOW.search(source)
    offset = len(dash[2]) if dash else 0
    writer.indent(mapping=len(below[2]) if below else 2, sequence=offset + 2, offset=offset)
