from __future__ import annotations

import json

import pytest

from tests.egg_files.helpers import changed, put, sample, tried
from wingsd.egg_files.changes import NotDone

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


def test_what_has_its_value_already_is_the_same_text() -> None:
    assert changed("json", FACTORIO, put("max_players", "0"), put("tags.0", "game")) == FACTORIO


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


@pytest.mark.parametrize(
    "text", ["{", '{"a": 1} x', "// comment\n{}", '"text"', "3", "null", '{"a": 1e999}']
)
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(NotDone):
        tried("json", text, put("a", 1))


def test_what_is_too_deep_is_refused() -> None:
    with pytest.raises(NotDone, match="too deeply"):
        tried("json", "[" * 100_000 + "]" * 100_000, put("a", 1))
