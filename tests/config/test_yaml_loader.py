"""YAML that is not what it should be: every fault has its place, whatever Python calls it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingsd.config import read_yaml
from wingsd.errors import InvalidData

pytestmark = pytest.mark.promise("configuration-errors-are-named")

TAGS = ["binary", "bool", "float", "int", "map", "null", "omap", "pairs", "seq", "set", "str"]


def test_valid_yaml_is_read() -> None:
    assert read_yaml("a: [1, 2.5, 2001-01-02, x]\n") is not None
    assert read_yaml("") is None


@pytest.mark.parametrize(
    "value",
    [
        "2001-99-99",
        "!!int x",
        "!!bool maybe",
        "!!binary é",
        "&a [*a, {? *a : 1}]",
        "!!python/object:os.system {}",
        "'",
        "[",
        "*nobody",
    ],
)
def test_a_fault_is_named_by_its_place_without_the_value(value: str) -> None:
    with pytest.raises(InvalidData) as caught:
        read_yaml(f"debug: true\nkey: {value}")
    assert str(caught.value).startswith("see line 2, column ")


def test_a_duplicate_key_is_refused() -> None:
    with pytest.raises(InvalidData, match=r"^duplicate key, see line 4, column 3$"):
        read_yaml("api:\n  port: 1\n  host: x\n  port: 2\n")


def test_a_merged_key_can_be_overridden() -> None:
    text = "a: &a {x: 1, y: 1}\nb: {<<: *a, <<: {z: 3}, x: 2}\n"
    assert read_yaml(text) == {"a": {"x": 1, "y": 1}, "b": {"x": 2, "y": 1, "z": 3}}


def test_a_file_that_is_nested_too_deeply() -> None:
    with pytest.raises(InvalidData, match="nested too deeply"):
        read_yaml("[" * 5_000)


def test_a_character_that_no_yaml_has() -> None:
    with pytest.raises(InvalidData):
        read_yaml("a: \0")


@given(st.sampled_from(TAGS), st.text("ab01:_-.+~[]{}&*!?%\"' \n\té", max_size=20))
def test_any_value_with_any_tag_is_read_or_refused(tag: str, value: str) -> None:
    for text in (value, f"!!{tag} {value}", f"a: !!{tag} {value}"):
        try:
            read_yaml(text)
        except InvalidData:
            continue
