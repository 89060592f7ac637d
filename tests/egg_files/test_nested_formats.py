"""Paths through maps and lists, on JSON, where data and text are the same thing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.egg_files.helpers import changed, put, sample, tried
from wingsd.egg_files.changes import NotDone
from wingsd.panel.schemas import Replacement


def after(data: object, *replacements: Replacement) -> Any:
    text, failures = tried("json", json.dumps(data), *replacements)
    assert failures == []
    return json.loads(text)


def refusal(data: object, match: str) -> str:
    text, failures = tried("json", json.dumps(data), put(match, "x"))
    assert json.loads(text) == data
    assert len(failures) == 1
    return failures[0]


@pytest.mark.parametrize(
    ("match", "data", "new"),
    [
        ("a", {}, {"a": "x"}),
        ("a.b.c", {}, {"a": {"b": {"c": "x"}}}),
        ("a.b", {"a": None}, {"a": {"b": "x"}}),
        ("a[0]", {}, {"a": ["x"]}),
        ("a[0].b", {}, {"a": [{"b": "x"}]}),
        ("a[0].b", {"a": []}, {"a": [{"b": "x"}]}),
        ("a[0].b", {"a": [{"b": "y", "c": 1}]}, {"a": [{"b": "x", "c": 1}]}),
        ("a[1].b", {"a": [{}, {"b": "y"}]}, {"a": [{}, {"b": "x"}]}),
        ("a.1.b", {"a": [{}, {"b": "y"}]}, {"a": [{}, {"b": "x"}]}),
        ("a[0][1]", {"a": [[1, "y"]]}, {"a": [[1, "x"]]}),
        ("[0].a", [{"a": "y"}], [{"a": "x"}]),
        ("a~1b", {"a.b": "y"}, {"a.b": "x"}),
        (r"a\.b.c", {"a.b": {}}, {"a.b": {"c": "x"}}),
        ("a~0b", {"a~b": "y"}, {"a~b": "x"}),
        ("a", {"a": {"b": 1}}, {"a": "x"}),
    ],
)
def test_paths(match: str, data: object, new: object) -> None:
    assert after(data, put(match, "x")) == new


@pytest.mark.parametrize(
    ("match", "data", "new"),
    [
        (
            "s.*.port",
            {"s": {"a": {"port": "y"}, "b": {}, "c": None, "d": 4}},
            {"s": {"a": {"port": "x"}, "b": {"port": "x"}, "c": None, "d": 4}},
        ),
        ("s.*.port", {"s": [{"port": "y"}, 3]}, {"s": [{"port": "x"}, 3]}),
        ("s.*", {"s": {"a": "y", "b": "z"}}, {"s": {"a": "x", "b": "x"}}),
        ("s.*", {"s": ["y", "z"]}, {"s": ["x", "x"]}),
        ("*.port", {"a": {"port": "y"}}, {"a": {"port": "x"}}),
        ("s.*.t.*.u", {"s": {"a": {"t": [{"u": "y"}]}}}, {"s": {"a": {"t": [{"u": "x"}]}}}),
        ("s.*.port", {}, {}),
        ("s.*.port", {"s": {}}, {"s": {}}),
    ],
)
def test_a_wildcard_is_every_child_there_is(match: str, data: object, new: object) -> None:
    assert after(data, put(match, "x")) == new


def test_a_conditional_change_makes_nothing() -> None:
    data = {"a": {"b": "y"}, "list": []}
    for match in ("a.c", "x.y.z", "list[0]", "a"):
        assert after(data, put(match, "x", "y")) == data
    assert after(data, put("a.b", "x", "y")) == {"a": {"b": "x"}, "list": []}


@pytest.mark.parametrize(
    ("match", "data", "word"),
    [
        ("a.b", {"a": "text"}, "nothing can be below it"),
        ("a.b", {"a": False}, "nothing can be below it"),
        ("a[0]", {"a": {"b": 1}}, "a list with the index 0 should be"),
        ("a.b", {"a": [1]}, "there is a list"),
        ("a[1]", {"a": [1]}, "has 1 entries"),
        ("a[1].b", {"a": []}, "has 0 entries"),
        ("a[1]", {}, "no list that has the index 1"),
        ("a.b[2].c", {}, "no list that has the index 2"),
        ("a..b", {"a": {}}, "empty part"),
        (".a", {}, "empty part"),
    ],
)
def test_a_path_that_leads_nowhere_changes_nothing(match: str, data: object, word: str) -> None:
    assert word in refusal(data, match)


def test_one_child_in_the_way_does_not_hold_up_the_others() -> None:
    data = {"s": {"a": {"p": 1}, "b": {"p": {"q": "y"}}}}
    text, failures = tried("json", json.dumps(data), put("s.*.p.q", "x"))
    assert json.loads(text) == {"s": {"a": {"p": 1}, "b": {"p": {"q": "x"}}}}
    assert failures == ['"s.*.p.q": "p" is a single value, nothing can be below it']


def test_one_change_that_cannot_be_made_does_not_hold_up_the_others() -> None:
    text, failures = tried("json", '{"a": 1, "b": 1}', put("a.x", 2), put("b", 2))
    assert json.loads(text) == {"a": 1, "b": 2}
    assert len(failures) == 1


FACTORIO = sample("factorio.json")


def test_factorios_settings() -> None:
    new = changed(
        "json",
        FACTORIO,
        put("name", "Ünser Server"),
        put("max_players", "20"),
        put("visibility.public", "false"),
        put("game_password", "12345"),
        put("tags[1]", "wingsd"),
        put("require_user_verification", True),
    )
    assert new.startswith('{\n  "name": "Ünser Server",\n  "_comment_max_players": "Max')
    assert list(json.loads(new)) == [*json.loads(FACTORIO), "require_user_verification"]
    assert json.loads(new) == {
        **json.loads(FACTORIO),
        "name": "Ünser Server",
        "max_players": 20,
        "visibility": {"public": False, "lan": True},
        "game_password": "12345",
        "tags": ["game", "wingsd"],
        "require_user_verification": True,
    }


@pytest.mark.parametrize(
    ("text", "new"),
    [
        ("", '{\n  "a": 2\n}\n'),
        ("  \n", '{\n  "a": 2\n}\n'),
        ('{"a":1}', '{"a": 2}'),
        ('{\n\t"a": 1\n}', '{\n\t"a": 2\n}'),
        ('{\n    "b": [],\n    "a": 1\n}\n', '{\n    "b": [],\n    "a": 2\n}\n'),
    ],
)
def test_the_layout_is_the_files_own(text: str, new: str) -> None:
    assert changed("json", text, put("a", "2")) == new


def test_an_empty_file_becomes_an_empty_map() -> None:
    assert changed("json", "", put("a", "b", "c")) == "{}\n"


def test_json_that_is_too_deep_is_refused() -> None:
    with pytest.raises(NotDone, match="too deeply"):
        tried("json", "[" * 100_000 + "]" * 100_000, put("a", 1))
