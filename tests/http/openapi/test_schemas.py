"""Schemas of attrs classes: what types say, what is said beside them."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

import attrs
import pytest

from wingsd.http.openapi import Schemas
from wingsd.util.serialization import Keywords


class Colour(Enum):
    """What it looks like."""

    RED = "red"
    BLUE = "blue"


@attrs.frozen
class Leaf:
    """One leaf."""

    size: Annotated[int, "In metres.", Keywords(minimum=0)]
    colour: Colour = Colour.RED


@attrs.frozen
class Tree:
    """A tree, with
    leaves.
    """

    leaves: tuple[Leaf, ...]
    words: Annotated[list[str], Keywords(maxItems=3)]
    tall: bool = False
    ratio: float = 0.5
    name: str = ""
    note: str | None = None
    best: Leaf | None = None
    anything: dict[str, Any] = attrs.field(factory=dict)
    ports: dict[str, int] = attrs.field(factory=dict)
    kind: Annotated[str, Keywords(enum=("a", "b"))] = "a"


def asked(kind: Any) -> tuple[Any, dict[str, Any]]:
    schemas = Schemas()
    return schemas.request(kind), schemas.found


def answered(kind: Any) -> tuple[Any, dict[str, Any]]:
    schemas = Schemas()
    return schemas.response(kind), schemas.found


def test_what_is_asked_may_be_left_out_or_null_where_there_is_a_default() -> None:
    schema, found = asked(Tree)
    assert schema == {"$ref": "#/components/schemas/Tree"}
    assert found["Tree"] == {
        "description": "A tree, with leaves.",
        "type": "object",
        "required": ["leaves", "words"],
        "properties": {
            "leaves": {"type": "array", "items": {"$ref": "#/components/schemas/Leaf"}},
            "words": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
            "tall": {"type": ["boolean", "null"], "default": False},
            "ratio": {"type": ["number", "null"], "default": 0.5},
            "name": {"type": ["string", "null"]},
            "note": {"type": ["string", "null"]},
            "best": {"anyOf": [{"$ref": "#/components/schemas/Leaf"}, {"type": "null"}]},
            "anything": {"type": ["object", "null"]},
            "ports": {"type": ["object", "null"], "additionalProperties": {"type": "integer"}},
            "kind": {"type": ["string", "null"], "enum": ["a", "b"]},
        },
    }


def test_what_is_answered_is_left_out_and_never_null_and_there_is_nothing_else() -> None:
    _, found = answered(Tree)
    assert found["Tree"]["additionalProperties"] is False
    assert found["Tree"]["required"] == ["leaves", "words"]
    assert found["Tree"]["properties"]["note"] == {"type": "string"}
    assert found["Tree"]["properties"]["best"] == {"$ref": "#/components/schemas/Leaf"}


def test_what_is_said_of_a_value_is_in_its_schema() -> None:
    _, found = answered(Leaf)
    assert found["Leaf"]["properties"]["size"] == {
        "type": "integer",
        "description": "In metres.",
        "minimum": 0,
    }
    assert found["Colour"] == {
        "description": "What it looks like.",
        "type": "string",
        "enum": ["red", "blue"],
    }


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        (bytes, {"type": "string", "format": "binary"}),
        (Any, {}),
        (int | str, {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        (
            list[list[bool]],
            {"type": "array", "items": {"type": "array", "items": {"type": "boolean"}}},
        ),
    ],
)
def test_types_that_are_no_classes(kind: Any, schema: dict[str, Any]) -> None:
    assert answered(kind) == (schema, {})


def test_texts_are_described_one_by_one() -> None:
    @attrs.frozen
    class Query:
        which: str
        size: Annotated[str, "How many.", Keywords(type="integer")] = ""

    assert Schemas().texts(Query) == {
        "which": ({"type": "string"}, True),
        "size": ({"type": "integer", "description": "How many."}, False),
    }


def test_a_name_is_one_schemas_alone() -> None:
    schemas = Schemas()
    schemas.request(Leaf)
    with pytest.raises(TypeError, match="two schemas named Leaf"):
        schemas.response(Leaf)
    with pytest.raises(TypeError, match="two schemas named Leaf"):
        schemas.request(attrs.make_class("Leaf", ["size"]))


def test_what_json_cannot_hold_has_no_schema() -> None:
    with pytest.raises(TypeError, match="Path has no JSON schema"):
        answered(type("Path", (), {}))
