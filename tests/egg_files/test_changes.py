from __future__ import annotations

import time
from typing import Any

import pytest

from tests.egg_files.helpers import NODE, put
from wingsd.egg_files.changes import Change, NotDone


def new_value(value: Any, found: object, if_value: str = "") -> object:
    return Change.from_replacement(put("a", value, if_value), NODE).new_value(found)


@pytest.mark.parametrize(
    ("found", "new"),
    [("old", "new"), ("other", None), ("OLD", None), (None, None), (["old"], None)],
)
def test_a_plain_condition_is_the_whole_text(found: object, new: object) -> None:
    assert new_value("new", found, "old") == new


@pytest.mark.parametrize(("found", "if_value"), [(True, "true"), (25565, "25565"), (1.5, "1.5")])
def test_a_condition_knows_every_scalar_by_its_text(found: object, if_value: str) -> None:
    assert new_value("x", found, if_value) == "x"


@pytest.mark.parametrize(
    ("found", "new"),
    [
        ("127.0.0.1:25566", "172.18.0.1:25566"),
        ("localhost", "172.18.0.1"),
        ("10.0.0.1:25566", None),
        (None, None),
    ],
)
def test_bungeecords_own_condition(found: str | None, new: str | None) -> None:
    pattern = r"regex:^(127\.0\.0\.1|localhost)(:\d{1,5})?$"
    assert new_value("{{config.docker.interface}}$2", found, pattern) == new


@pytest.mark.parametrize(
    ("pattern", "template", "found", "new"),
    [
        # Expected values are those of Go's regexp.ReplaceAllString.
        (r"(\d+)", "<$1>", "a1b22", "a<1>b<22>"),
        (r"(?P<port>\d+)", "${port}0", "80", "800"),
        (r"(\d+)", "$1x", "80", ""),
        (r"(\d+)", "${1}x", "80", "80x"),
        (r"(\d+)", "$$1", "80", "$1"),
        (r"(\d+)", "$9", "80", ""),
        (r"a(b)?", "[$1]", "a", "[]"),
        (r".*", "X", "abc", "X"),
        (r"x*", "-", "abc", "-a-b-c-"),
        (r"\pL+", "L", "é1ü", "L1L"),
        (r"é", "e", "caféé", "cafee"),
    ],
)
def test_expressions_are_gos(pattern: str, template: str, found: str, new: str) -> None:
    assert new_value(template, found, f"regex:{pattern}") == new


def test_a_number_that_matches_stays_a_number() -> None:
    assert new_value("1$1", 25, r"regex:^(\d+)$") == 125


def test_an_expression_made_to_be_slow_is_not() -> None:
    started = time.thread_time()
    assert new_value("x", "a" * 20_000 + "!", "regex:^(a+)+$") is None
    assert time.thread_time() - started < 2


@pytest.mark.parametrize("pattern", ["(a", "(?=a)", "[z-a]"])
def test_what_is_no_expression_is_refused(pattern: str) -> None:
    with pytest.raises(NotDone, match="not a regular expression"):
        Change.from_replacement(put("a", "b", f"regex:{pattern}"), NODE)


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{{config.docker.interface}}:1", "172.18.0.1:1"),
        ("{{ config.docker.network.interface }}", "172.18.0.1"),
        ("{{config.docker.network.enableIcc}}", "true"),
        ("{{config.docker.network.network-mtu}}/{{config.api.port}}", "1500/8080"),
        ("{{server.build.memory}}", "{{server.build.memory}}"),
        ("no {{config}} here", "no {{config}} here"),
    ],
)
def test_the_nodes_configuration_is_looked_up(text: str, filled: str) -> None:
    assert Change.from_replacement(put("a", text), NODE).value == filled


@pytest.mark.parametrize(
    "name", ["token", "docker.registries.example.password", "docker", "remote", "api.ssl.key"]
)
def test_an_egg_learns_no_secret(name: str) -> None:
    with pytest.raises(NotDone, match="cannot be read by eggs"):
        Change.from_replacement(put("a", f"x {{{{config.{name}}}}}"), NODE)


@pytest.mark.parametrize("name", ["docker.network", "docker.network.nothing", "api.port.x"])
def test_what_the_node_does_not_have_is_refused(name: str) -> None:
    with pytest.raises(NotDone, match="has no value at"):
        Change.from_replacement(put("a", f"{{{{config.{name}}}}}"), NODE)


@pytest.mark.parametrize("value", [["a"], {"a": 1}])
def test_a_value_that_is_no_scalar_is_refused(value: object) -> None:
    with pytest.raises(NotDone, match="must be a text"):
        Change.from_replacement(put("a", value), NODE)


def test_an_empty_match_is_refused() -> None:
    with pytest.raises(NotDone, match="match is empty"):
        Change.from_replacement(put("", "x"), NODE)
