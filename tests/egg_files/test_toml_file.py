from __future__ import annotations

import tomllib

import pytest

from tests.egg_files.helpers import changed, put, sample, tried
from wingsd.egg_files.changes import NotDone

VELOCITY = sample("velocity.toml")


def test_velocitys_settings() -> None:
    new = changed(
        "toml",
        VELOCITY,
        put("bind", "0.0.0.0:25565"),
        put("show-max-players", "20"),
        put("servers.*", "{{config.docker.interface}}$1", r"regex:^127\.0\.0\.1(:\d+)$"),
        put("query.enabled", "true"),
        put("advanced.ratio", "2"),
        put("mirror[1].name", "zwei"),
    )
    assert new == (
        VELOCITY.replace("0.0.0.0:25577", "0.0.0.0:25565")
        .replace("= 500 #", "= 20 #")
        .replace("127.0.0.1:30066", "172.18.0.1:30066")
        .replace("enabled = false", "enabled = true")
        .replace("ratio = 1.5", "ratio = 2.0")
        .replace('"two"', '"zwei"')
    )


def test_missing_tables_are_made() -> None:
    new = changed("toml", VELOCITY, put("forced.hosts[0].name", "x"), put("query.map", "Velocity"))
    data = tomllib.loads(new)
    assert data["forced"] == {"hosts": [{"name": "x"}]}
    assert data["query"] == {"enabled": False, "port": 25577, "map": "Velocity"}
    assert "# Configure your servers here." in new


def test_an_empty_file() -> None:
    assert tomllib.loads(changed("toml", "", put("a.b", "1"))) == {"a": {"b": 1}}


def test_a_single_value_takes_the_place_of_a_table_among_others() -> None:
    text = changed("toml", "[b]\nx = 1\n[a]\ny = 2\n[c]\n", put("a", "z"))
    assert tomllib.loads(text) == {"a": "z", "b": {"x": 1}, "c": {}}


def test_tables_out_of_order_are_written_right_or_not_at_all() -> None:
    text = "[a.b]\nc = 1\n[z]\n[a.d]\ne = 1\n"
    assert changed("toml", text, put("a.d.e", 7)) == text.replace("e = 1", "e = 7")


def test_what_one_library_reads_and_another_does_not_is_refused() -> None:
    with pytest.raises(NotDone):
        tried("toml", "\r", put("a", "1"))
