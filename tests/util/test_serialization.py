"""Plain data into values: nothing is converted, and every fault is named by its path."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingsd.errors import InvalidData
from wingsd.util.serialization import InvalidField, Keywords, structure, unknown_keys, unstructure


def _even(_: object, attribute: attrs.Attribute[int], value: int) -> None:
    if value % 2:
        raise InvalidField(attribute.name, f"expected an even number, found {value}")


@attrs.frozen
class Leaf:
    name: str
    size: int = attrs.field(default=0, validator=_even)
    ratio: float = 1.0
    on: bool = False
    note: str | None = None


@attrs.frozen
class Tree:
    leaf: Leaf = Leaf("none")
    leaves: tuple[Leaf, ...] = ()
    words: tuple[str, ...] = ()
    ports: dict[str, tuple[int, ...]] = attrs.field(factory=dict)
    by_name: dict[str, Leaf] = attrs.field(factory=dict)
    anything: dict[str, Any] = attrs.field(factory=dict)


def faults(data: object, cls: type[Any] = Tree) -> list[str]:
    with pytest.raises(InvalidData) as caught:
        structure(data, cls)
    return str(caught.value).splitlines()


def test_every_level_is_filled() -> None:
    data = {
        "leaf": {"name": "one", "size": 2, "ratio": 0.5, "on": True, "note": "n"},
        "leaves": [{"name": "two"}, {"name": "three"}],
        "words": ["a", "b"],
        "ports": {"127.0.0.1": [1, 2]},
        "by_name": {"four": {"name": "four"}},
        "anything": {"text": "x", "number": 1, "list": [1]},
    }
    assert structure(data, Tree) == Tree(
        Leaf("one", 2, 0.5, True, "n"),
        (Leaf("two"), Leaf("three")),
        ("a", "b"),
        {"127.0.0.1": (1, 2)},
        {"four": Leaf("four")},
        {"text": "x", "number": 1, "list": [1]},
    )


def test_what_is_absent_or_null_is_the_default() -> None:
    assert structure({}, Tree) == Tree()
    assert structure(dict.fromkeys(attrs.fields_dict(Tree)), Tree) == Tree()
    assert structure({"name": "x", "size": None, "note": None}, Leaf) == Leaf("x")


def test_an_empty_php_array_is_an_empty_map() -> None:
    assert structure({"ports": [], "by_name": [], "anything": []}, Tree) == Tree()
    assert structure([], Tree) == Tree()
    assert structure({"ports": {"127.0.0.1": []}}, Tree) == Tree(ports={"127.0.0.1": ()})


def test_a_whole_number_will_do_for_a_number_but_nothing_else_is_converted() -> None:
    ratio = structure({"name": "x", "ratio": 2}, Leaf).ratio
    assert (ratio, type(ratio)) == (2.0, float)


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("name", 5, "expected a text, found a whole number"),
        ("name", True, "expected a text, found true or false"),
        ("name", ["x"], "expected a text, found a list"),
        ("size", "5", "expected a whole number, found a text"),
        ("size", 5.0, "expected a whole number, found a number"),
        ("size", True, "expected a whole number, found true or false"),
        ("size", {"a": 1}, "expected a whole number, found a map of keys and values"),
        ("ratio", "0.5", "expected a number, found a text"),
        ("ratio", False, "expected a number, found true or false"),
        ("on", 1, "expected true or false, found a whole number"),
        ("on", "yes", "expected true or false, found a text"),
    ],
)
def test_a_wrong_type_is_named_with_its_path(key: str, value: object, what: str) -> None:
    assert faults({"leaf": {"name": "x", key: value}}) == [f"leaf.{key}: {what}"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"leaf": {}}, "leaf.name: is missing and has no default"),
        ({"leaf": {"name": None}}, "leaf.name: is missing and has no default"),
        ({"leaf": 5}, "leaf: expected a map of keys and values, found a whole number"),
        ({"leaf": ["x"]}, "leaf: expected a map of keys and values, found a list"),
        ({"words": "a"}, "words: expected a list, found a text"),
        ({"words": {}}, "words: expected a list, found a map of keys and values"),
        ({"words": ["a", None]}, "words[1]: expected a text, found nothing"),
        ({"leaves": [{"name": "a"}, {}]}, "leaves[1].name: is missing and has no default"),
        ({"ports": {"a": [1, "b"]}}, "ports['a'][1]: expected a whole number, found a text"),
        ({"by_name": {"a": {}}}, "by_name['a'].name: is missing and has no default"),
        ({"leaf": {"name": "x", "size": 3}}, "leaf.size: expected an even number, found 3"),
        (None, "expected a map of keys and values, found nothing"),
        ("text", "expected a map of keys and values, found a text"),
    ],
)
def test_a_fault_has_the_path_of_its_key(data: object, expected: str) -> None:
    assert faults(data) == [expected]


def test_all_faults_are_named_at_once() -> None:
    found = faults({"leaf": {"size": "x"}, "words": [1], "by_name": {"a": {"name": 1}}})
    assert sorted(found) == [
        "by_name['a'].name: expected a text, found a whole number",
        "leaf.name: is missing and has no default",
        "leaf.size: expected a whole number, found a text",
        "words[0]: expected a text, found a whole number",
    ]


def test_unknown_keys_are_ignored_and_listed() -> None:
    data = {"leaf": {"name": "x", "colour": 1}, "more": {"than": "known"}, 5: None}
    assert structure(data, Tree) == Tree(Leaf("x"))
    assert list(unknown_keys(data, Tree)) == ["leaf.colour", "more", "5"]


def test_free_maps_hold_no_unknown_keys() -> None:
    assert unknown_keys({"anything": {"a": {"b": 1}}, "ports": {"x": []}}, Tree) == {}
    assert unknown_keys([], Tree) == {}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from([*attrs.fields_dict(Tree), *attrs.fields_dict(Leaf)])


@given(json_values | st.dictionaries(keys, json_values | st.dictionaries(keys, json_values)))
def test_any_data_gives_a_value_or_an_invalid_data(data: object) -> None:
    for cls in (Tree, Leaf):
        try:
            assert isinstance(structure(data, cls), cls)
        except InvalidData as error:
            assert str(error)


class Colour(Enum):
    RED = "red"


@attrs.frozen
class Told:
    colour: Colour
    size: Annotated[int, "In metres.", Keywords(minimum=0)]
    leaves: Annotated[tuple[Leaf, ...], "All of them."] = ()
    more: Leaf | None = None


def test_values_are_plain_data_again_without_what_is_as_usual() -> None:
    told = Told(Colour.RED, 0, (Leaf("one"), Leaf("two", 2)))
    plain = {"colour": "red", "size": 0, "leaves": [{"name": "one"}, {"name": "two", "size": 2}]}
    assert unstructure(told) == plain
    assert unstructure({"all": [told, 1, None]}) == {"all": [plain, 1, None]}
