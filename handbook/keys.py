"""The keys of the configuration, read from its classes.

A key's name, type, unit, default and bounds are what the daemon itself reads them by. Its words
are the comment above its field, `#: …`; a field without one is an error here, so that no key can
be left out of the reference.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, get_args, get_origin

import attrs

from wingsd.config import DEFAULTS, Config
from wingsd.util.serialization import Span

__all__ = ["Key", "Section", "Undocumented", "sections"]

#: What a comment says, in so many words, of a key that Wings does not have; and what a docstring
#: says of a section of them.
OWN = "(wingsd's own)"
ALL_OWN = "(all of it wingsd's own)"
_COMMENT = "#:"
_KINDS = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Span: "time",
    tuple: "list",
    dict: "map",
}


class Undocumented(Exception):
    """A key or a section without a description."""


@attrs.frozen
class Key:
    """One key by its whole path.

    `kind` is what its value is, and `unit` that of a number, which may be empty; `default` is a
    value of YAML, None where there is none. `others` are the defaults of families that differ.
    `bounds` are the checks of the value, in words.
    """

    path: str
    kind: str
    unit: str
    default: Any
    others: dict[str, Any]
    bounds: str
    words: str
    is_required: bool
    is_secret: bool
    is_own: bool


@attrs.frozen
class Section:
    """The keys of one map of the file; `path` is empty for the file itself."""

    path: str
    words: str
    keys: tuple[Key, ...]


@cache
def sections(root: type = Config) -> tuple[Section, ...]:
    """Return all sections of the configuration, each before its subsections.

    `root` is the attrs class of the whole file. Raises `Undocumented` where words are missing.
    """
    return tuple(_sections(root, ""))


def _sections(cls: type, path: str) -> Iterator[Section]:
    fields = attrs.fields(attrs.resolve_types(cls))
    comments = _comments(cls)
    keys = [_key(field, path, comments) for field in fields if _inner(field.type) is None]
    words = _words_of_class(cls, path)
    if ALL_OWN in words:
        keys = [attrs.evolve(key, is_own=True) for key in keys]
    yield Section(path, _without(ALL_OWN, words), tuple(keys))
    for field in fields:
        inner = _inner(field.type)
        if inner is not None:
            below = f"{path}.{field.name}".lstrip(".")
            yield from _sections(inner, below if attrs.has(field.type) else f"{below}.*")


def _inner(kind: Any) -> type | None:
    """Return the class of a section's keys; None for a single value."""
    if get_origin(kind) is dict:
        kind = get_args(kind)[1]
    return kind if isinstance(kind, type) and attrs.has(kind) else None


def _key(field: attrs.Attribute[Any], path: str, comments: dict[str, str]) -> Key:
    here = f"{path}.{field.name}".lstrip(".")
    words = comments.get(field.name, "")
    if not words:
        raise Undocumented(f"{here} has no comment `{_COMMENT}` above its field")
    kind, unit = _kind(field.type)
    return Key(
        path=here,
        kind=kind,
        unit=unit,
        default=_default(field),
        others=dict(_others(here)),
        bounds=_bounds(field.validator, here),
        words=_without(OWN, words),
        is_required=field.default is attrs.NOTHING,
        is_secret=not field.repr,
        is_own=OWN in words,
    )


def _without(mark: str, words: str) -> str:
    return " ".join(words.replace(f" {mark}", "").split())


def _kind(kind: Any) -> tuple[str, str]:
    unit = ""
    if get_origin(kind) is Annotated:
        kind, unit = get_args(kind)
    return _KINDS[get_origin(kind) or kind], unit


def _default(field: attrs.Attribute[Any]) -> Any:
    if field.default is attrs.NOTHING:
        return None
    factory = getattr(field.default, "factory", None)
    value = field.default if factory is None else factory()
    return list(value) if isinstance(value, tuple) else value


def _others(path: str) -> Iterator[tuple[str, Any]]:
    for family, defaults in DEFAULTS.items():
        value: Any = defaults
        for name in path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None:
            yield family.capitalize(), value


def _bounds(validator: Any, path: str) -> str:
    """Return the description of a validator, as part of a sentence."""
    if validator is None:
        return ""
    text = (inspect.getdoc(validator) or "").rstrip(".")
    if not text:
        raise Undocumented(f"{path}: its check has no docstring")
    return text[:1].lower() + text[1:]


def _words_of_class(cls: type, path: str) -> str:
    """Return the text of a class's docstring after the path at its beginning."""
    text = " ".join((inspect.getdoc(cls) or "").split())
    if not path:
        return text
    place, _, words = text.partition(": ")
    if place != f"`{path}`" or not words:
        raise Undocumented(f"the docstring of {cls.__name__} must begin with `{path}`: {text!r}")
    return words[:1].upper() + words[1:]


def _comments(cls: type) -> dict[str, str]:
    """Return the comments `#:` right above the fields of a class, by the fields' names."""
    source = textwrap.dedent(inspect.getsource(cls))
    lines = source.splitlines()
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.ClassDef)  # noqa: S101 - it was a class
    return {
        statement.target.id: _comment_above(lines, statement.lineno)
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    }


def _comment_above(lines: list[str], number: int) -> str:
    words: list[str] = []
    for line in reversed(lines[: number - 1]):
        if not line.strip().startswith(_COMMENT):
            break
        words.insert(0, line.strip().removeprefix(_COMMENT).strip())
    return " ".join(words)
