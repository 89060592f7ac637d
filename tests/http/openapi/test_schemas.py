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


def answered(kind: Any) -> tuple[Any, dict[str, Any]]:
    schemas = Schemas()
    return schemas.response(kind), schemas.found


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
