"""JSON Schemas of the types of Python that requests and answers have.

In `Annotated`, a string is the description of a value, and `Keywords` are keywords of its schema.
A field with a default is optional. In requests an optional field may be null, and unknown fields
are allowed; in answers neither.
"""

from __future__ import annotations

from enum import Enum
from inspect import getdoc
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import attrs

from wingsd.http.operations import EncodedObject
from wingsd.util.serialization import Keywords

__all__ = ["SCALARS", "Schemas"]

Schema = dict[str, Any]

SCALARS: dict[object, Schema] = {
    bool: {"type": "boolean"},
    bytes: {"type": "string", "format": "binary"},
    float: {"type": "number"},
    int: {"type": "integer"},
    str: {"type": "string"},
    Any: {},
    EncodedObject: {"type": "object"},
}


class Schemas:
    """The schemas of a document. `found` has the schemas of classes by name."""

    def __init__(self) -> None:
        self.found: dict[str, Schema] = {}
        self._kinds: dict[str, tuple[type, bool]] = {}

    def request(self, kind: Any) -> Schema:
        """Return the schema of a value in a request. Raises `TypeError` for other types."""
        return self._of(kind, is_request=True)

    def response(self, kind: Any) -> Schema:
        """Return the schema of a value in an answer. Raises `TypeError` for other types."""
        return self._of(kind, is_request=False)

    def texts(self, cls: Any) -> dict[str, tuple[Schema, bool]]:
        """Return schemas of query or header values by name, and whether each is required."""
        return {
            field.name: (self._of(field.type, is_request=False), _is_required(field))
            for field in attrs.fields(attrs.resolve_types(cls))
        }

    def _of(self, kind: Any, *, is_request: bool, null: bool = False) -> Schema:
        if get_origin(kind) is Annotated:
            plain, *notes = get_args(kind)
            return self._of(plain, is_request=is_request, null=null) | _keywords(notes)
        schema = self._plain(kind, is_request=is_request)
        return _or_null(schema) if null else schema

    def _plain(self, kind: Any, *, is_request: bool) -> Schema:
        origin, arguments = get_origin(kind), get_args(kind)
        if origin in (Union, UnionType):
            # None is the default of an optional field, and not a type of its own.
            kinds = [
                self._of(each, is_request=is_request) for each in arguments if each is not NoneType
            ]
            return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
        if origin in (list, tuple):
            return {"type": "array", "items": self._of(arguments[0], is_request=is_request)}
        if origin is dict:
            values = self._of(arguments[1], is_request=is_request)
            return {"type": "object"} | ({"additionalProperties": values} if values else {})
        if kind in SCALARS:
            return dict(SCALARS[kind])
        return self._named(kind, is_request=is_request)

    def _named(self, kind: Any, *, is_request: bool) -> Schema:
        """Return a reference to the schema of a class, which is created once."""
        known = self._kinds.setdefault(kind.__name__, (kind, is_request))
        if known != (kind, is_request):
            raise TypeError(f"there are two schemas named {kind.__name__}")
        if kind.__name__ not in self.found:
            self.found[kind.__name__] = {}  # It comes before the classes of its fields.
            self.found[kind.__name__] |= _described(kind) | self._class(
                kind, is_request=is_request
            )
        return {"$ref": f"#/components/schemas/{kind.__name__}"}

    def _class(self, kind: Any, *, is_request: bool) -> Schema:
        if issubclass(kind, Enum):
            return {"type": "string", "enum": [each.value for each in kind]}
        if not attrs.has(kind):
            raise TypeError(f"{kind.__name__} has no JSON schema")
        fields = attrs.fields(attrs.resolve_types(kind))
        schema: Schema = {
            "type": "object",
            "required": [field.name for field in fields if _is_required(field)],
            "properties": {
                field.name: self._property(field, is_request=is_request) for field in fields
            },
        }
        if not schema["required"]:
            del schema["required"]
        return schema if is_request else schema | {"additionalProperties": False}

    def _property(self, field: attrs.Attribute[Any], *, is_request: bool) -> Schema:
        # An optional field is null in requests and left out of answers, which have null where a
        # field that they always have has no value.
        null = is_request or _allows_none(field.type)
        null = null and _is_required(field) is not is_request
        schema = self._of(field.type, is_request=is_request, null=null)
        if isinstance(field.default, bool | int | float):
            schema["default"] = field.default
        return schema


def _is_required(field: attrs.Attribute[Any]) -> bool:
    return field.default is attrs.NOTHING


def _allows_none(kind: Any) -> bool:
    plain = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    return get_origin(plain) in (Union, UnionType) and NoneType in get_args(plain)


def _described(kind: type) -> Schema:
    return {"description": " ".join((getdoc(kind) or "").split())}


def _keywords(notes: list[Any]) -> Schema:
    schema: Schema = {}
    for note in notes:
        schema |= _keyword_values(note) if isinstance(note, Keywords) else {"description": note}
    return schema


def _keyword_values(note: Keywords) -> Schema:
    return {
        keyword: list(value) if isinstance(value, tuple) else value
        for keyword, value in note.words
    }


def _or_null(schema: Schema) -> Schema:
    if "type" in schema:
        return schema | {"type": [schema["type"], "null"]}
    return {"anyOf": [*schema.get("anyOf", [schema]), {"type": "null"}]}
