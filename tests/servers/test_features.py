"""Console lines for which a page has a dialogue."""

from __future__ import annotations

import json

import attrs
import pytest

from tests.servers.harness import FakeNode, Outcome, configuration
from wingsd.panel.schemas import Configuration, Egg, Process, Startup
from wingsd.servers.console import (
    LONGEST_MATCHED_LINE,
    TEXTS_MAX,
    FeatureMatch,
    FeatureMatcher,
)
from wingsd.servers.power_states import PowerAction

FEATURES = {"eula": ["agree to the EULA", "eula.txt"], "java": ["UnsupportedClassVersion"]}


def with_features(features: object, *, strip_ansi: bool = False) -> Configuration:
    known = configuration()
    settings = attrs.evolve(known.settings, egg=Egg(features=features))
    process = Process(Startup(("up",), strip_ansi), known.process.stop)
    return attrs.evolve(known, settings=settings, process=process)


def test_the_first_text_of_the_egg_is_found_in_any_case() -> None:
    matcher = FeatureMatcher(FEATURES)
    line = "unsupportedclassversion: see EULA.TXT"
    assert matcher.match(line) == FeatureMatch("eula", "eula.txt", line)
    assert matcher.match("java.lang.UnsupportedClassVersionError") is not None
    assert matcher.match("nothing") is None


def test_colours_do_not_matter_where_the_egg_strips_them() -> None:
    line = "agree to the \x1b[31mEULA\x1b[0m"
    assert FeatureMatcher(FEATURES).match(line) is None
    stripped = FeatureMatcher(FEATURES, strip_ansi=True).match(line)
    assert stripped == FeatureMatch("eula", "agree to the EULA", "agree to the EULA")


@pytest.mark.parametrize(
    "features",
    [None, [], "eula", 5, {"eula": "eula"}, {"eula": None}, {"eula": [None, 5, "", {}]}],
)
def test_what_is_not_in_the_form_is_ignored(features: object) -> None:
    matcher = FeatureMatcher(features)
    assert matcher.match("the eula") is None
    assert matcher.ignored == 0


def test_the_texts_and_the_length_of_a_line_are_bounded() -> None:
    many = {"key": [f"text {number:04}" for number in range(TEXTS_MAX + 7)]}
    matcher = FeatureMatcher(many)
    assert matcher.ignored == 7
    assert matcher.match(f"text {TEXTS_MAX - 1:04}") is not None
    assert matcher.match(f"text {TEXTS_MAX:04}") is None
    assert matcher.match("x" * LONGEST_MATCHED_LINE + "text 0001") is None
    assert FeatureMatcher({"key": ["x" * (LONGEST_MATCHED_LINE + 1)]}).match("x" * 9999) is None


def test_a_line_is_published_once_with_the_key_and_the_text(node: FakeNode) -> None:
    server = node.server(with_features(FEATURES))
    Outcome.of(server.power(PowerAction.START)).value()
    node.process().say("You need to agree to the eula: see eula.txt, \u00fc\nnothing\n".encode())
    (found,) = node.told("feature match")
    assert json.loads(found) == {
        "key": "eula",
        "pattern": "agree to the EULA",
        "line": "You need to agree to the eula: see eula.txt, \u00fc",
    }
    assert node.told("daemon message") == []


def test_texts_that_are_not_looked_for_are_named_at_the_start(node: FakeNode) -> None:
    server = node.server(with_features({"key": ["text"] * (TEXTS_MAX + 1)}))
    Outcome.of(server.power(PowerAction.START)).value()
    (message,) = node.told("daemon message")
    assert f"only the first {TEXTS_MAX} are looked for" in message
