"""JSON Schema (2020-12) of attrs classes, as their types tell it. Pure.

In `Annotated`, a text describes a value, and `Keywords` are the schema's own. A field that has a
default may be left out. What is asked may then also be null, and hold more than is known; what is
answered never does.
"""

from __future__ import annotations

from enum import Enum
from inspect import getdoc
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import attrs

from wingsd.structure import Keywords
from wingsd.web.answers import EncodedObject

__all__ = ["Schemas"]

Schema = dict[str, Any]

_SCALARS: dict[object, Schema] = {
    bool: {"type": "boolean"},
    bytes: {"type": "string", "format": "binary"},
    float: {"type": "number"},
    int: {"type": "integer"},
    str: {"type": "string"},
    Any: {},
    EncodedObject: {"type": "object"},
}


class Schemas:
    """The schemas of a document; `found` has those of classes by their names."""

    def __init__(self) -> None:
        self.found: dict[str, Schema] = {}
        self._kinds: dict[str, tuple[type, bool]] = {}

    def asked(self, kind: Any) -> Schema:
        """Return the schema of what is sent to the node. Raises `TypeError` where none can be."""
        return self._of(kind, asked=True)

    def answered(self, kind: Any) -> Schema:
        """Return the schema of what the node answers. Raises `TypeError` where none can be."""
        return self._of(kind, asked=False)

    def texts(self, cls: Any) -> dict[str, tuple[Schema, bool]]:
        """Return the schemas of what is sent as texts, by name, and whether each must be there."""
        return {
            field.name: (self._of(field.type, asked=False), _is_required(field))
            for field in attrs.fields(attrs.resolve_types(cls))
        }

    def _of(self, kind: Any, *, asked: bool, null: bool = False) -> Schema:
        if get_origin(kind) is Annotated:
            plain, *notes = get_args(kind)
            return self._of(plain, asked=asked, null=null) | _said(notes)
        schema = self._plain(kind, asked=asked)
        return _or_null(schema) if null else schema

    def _plain(self, kind: Any, *, asked: bool) -> Schema:
        origin, arguments = get_origin(kind), get_args(kind)
        if origin in (Union, UnionType):
            # That it may be nothing is said by the field, which has a default then.
            kinds = [self._of(each, asked=asked) for each in arguments if each is not NoneType]
            return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
        if origin in (list, tuple):
            return {"type": "array", "items": self._of(arguments[0], asked=asked)}
        if origin is dict:
            values = self._of(arguments[1], asked=asked)
            return {"type": "object"} | ({"additionalProperties": values} if values else {})
        if kind in _SCALARS:
            return dict(_SCALARS[kind])
        return self._named(kind, asked=asked)

    def _named(self, kind: Any, *, asked: bool) -> Schema:
        """Return a reference to the schema of a class, which is made once."""
        known = self._kinds.setdefault(kind.__name__, (kind, asked))
        if known != (kind, asked):
            raise TypeError(f"there are two schemas named {kind.__name__}")
        if kind.__name__ not in self.found:
            self.found[kind.__name__] = {}  # Its place; what is in it comes after it.
            self.found[kind.__name__] |= _described(kind) | self._class(kind, asked=asked)
        return {"$ref": f"#/components/schemas/{kind.__name__}"}

    def _class(self, kind: Any, *, asked: bool) -> Schema:
        if issubclass(kind, Enum):
            return {"type": "string", "enum": [each.value for each in kind]}
        if not attrs.has(kind):
            raise TypeError(f"{kind.__name__} is nothing that JSON could hold")
        fields = attrs.fields(attrs.resolve_types(kind))
        schema: Schema = {
            "type": "object",
            "required": [field.name for field in fields if _is_required(field)],
            "properties": {field.name: self._property(field, asked=asked) for field in fields},
        }
        if not schema["required"]:
            del schema["required"]
        return schema if asked else schema | {"additionalProperties": False}

    def _property(self, field: attrs.Attribute[Any], *, asked: bool) -> Schema:
        optional = not _is_required(field)
        schema = self._of(field.type, asked=asked, null=asked and optional)
        if isinstance(field.default, bool | int | float):
            schema["default"] = field.default
        return schema


def _is_required(field: attrs.Attribute[Any]) -> bool:
    return field.default is attrs.NOTHING


def _described(kind: type) -> Schema:
    return {"description": " ".join((getdoc(kind) or "").split())}


def _said(notes: list[Any]) -> Schema:
    schema: Schema = {}
    for note in notes:
        schema |= _plain_words(note) if isinstance(note, Keywords) else {"description": note}
    return schema


def _plain_words(note: Keywords) -> Schema:
    return {word: list(said) if isinstance(said, tuple) else said for word, said in note.words}


def _or_null(schema: Schema) -> Schema:
    if "type" in schema:
        return schema | {"type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}
