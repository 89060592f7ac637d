"""From a terminal's bytes to lines: the last of them, floods, and lines that mean something."""

from __future__ import annotations

import json
from time import thread_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.servers.harness import FakeNode, Outcome, with_settings
from wingsd.config import ThrottlesConfig
from wingsd.panel.schemas import Configuration, Egg, Startup
from wingsd.servers import console
from wingsd.servers.console import (
    BYTES,
    CUT,
    LONGEST_EPISODE,
    LONGEST_MATCHED_LINE,
    MAX_LINE,
    QUIET,
    SUSTAINED,
    TEXTS_MAX,
    WINDOW,
    Console,
    FeatureMatch,
    FeatureMatcher,
    LineSplitter,
    StartupDetector,
    Throttle,
    text,
)
from wingsd.servers.power_states import PowerAction


def read(*pieces: bytes) -> list[str]:
    lines = LineSplitter()
    found = [line for piece in pieces for line in lines.feed(piece)]
    return [text(line) for line in found + lines.end()]


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ([b"one\ntwo\n"], ["one", "two"]),
        ([b"one\r\ntwo\r\n"], ["one", "two"]),
        ([b"on", b"e\r", b"\ntw", b"o"], ["one", "two"]),
        ([b"\n\r\n\n"], ["", "", ""]),
        ([b""], []),
        ([b"50%\r100%\r\n"], ["50%\r100%"]),
        ([b"\xff\xc3\xa4\xc3\n"], ["\ufffd\u00e4\ufffd"]),
        ([b"\xc3", b"\xa4\n"], ["\u00e4"]),
    ],
)
def test_lines(pieces: list[bytes], lines: list[str]) -> None:
    assert read(*pieces) == lines


@given(st.lists(st.binary(max_size=40)))
def test_how_the_bytes_come_makes_no_difference(pieces: list[bytes]) -> None:
    assert read(*pieces) == read(b"".join(pieces))


@pytest.mark.parametrize("size", [1, 1000, MAX_LINE, 10 * MAX_LINE])
def test_a_line_without_end_is_cut(size: int) -> None:
    data = b"x" * 10 * MAX_LINE + b"\nnext\n"
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    assert read(*pieces) == ["x" * MAX_LINE + CUT, "next"]


def test_a_line_as_long_as_allowed_is_whole() -> None:
    assert read(b"x" * MAX_LINE + b"\r\n") == ["x" * MAX_LINE]


def test_a_cut_goes_through_no_character() -> None:
    assert read(b"x" * (MAX_LINE - 1) + "\u20ac".encode() + b"\n") == ["x" * (MAX_LINE - 1) + CUT]


def test_the_last_lines_are_kept() -> None:
    kept = Console(3)
    for number in range(5):
        kept.add(str(number))
    assert kept.lines(10) == ["2", "3", "4"]
    assert kept.lines(2) == ["3", "4"]
    assert kept.lines(0) == kept.lines(-1) == []


def test_what_is_kept_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "KEPT_BYTES", 10)
    kept = Console(100)
    for line in ("\u20ac\u20ac", "abc", "abcde"):
        kept.add(line)
    assert kept.lines(100) == ["abc", "abcde"]


LINE = b"x"
RULES = ThrottlesConfig()


@pytest.mark.promise("console-flood-hides-no-state")
def test_the_limit_is_that_of_wings() -> None:
    throttle = Throttle(RULES)
    assert throttle.admit([LINE] * 2001, 0) == 2000
    assert throttle.admit([LINE], 0.05) == 0


@pytest.mark.promise("console-flood-hides-no-state")
@pytest.mark.parametrize(("lines", "in_a_second"), [(500, SUSTAINED), (3000, 3000)])
def test_bursts_are_limited_by_the_second_as_well(lines: int, in_a_second: int) -> None:
    throttle = Throttle(ThrottlesConfig(lines=lines))
    admitted = [throttle.admit([LINE] * 10_000, tenth / 10) for tenth in range(20)]
    assert max(admitted) == lines
    assert sum(admitted[:10]) == sum(admitted[10:]) == in_a_second


@pytest.mark.promise("console-flood-hides-no-state")
def test_without_a_limit_of_lines_that_of_bytes_stays() -> None:
    throttle = Throttle(ThrottlesConfig(enabled=False))
    assert throttle.admit([LINE] * 100_000, 0) == 100_000
    assert throttle.admit([LINE] * 100_000, 0) == BYTES - 100_000


@pytest.mark.promise("console-flood-hides-no-state")
def test_long_lines_are_a_flood_too() -> None:
    throttle = Throttle(RULES)
    line = b"x" * (BYTES // 4)
    assert throttle.admit([line] * 10, 0) == 4
    assert throttle.admit([line], WINDOW) == 1


@pytest.mark.promise("console-flood-hides-no-state")
def test_an_episode_is_over_when_all_has_passed_for_a_while() -> None:
    throttle = Throttle(RULES)
    throttle.admit([LINE] * (RULES.lines + 5), 0)
    throttle.admit([LINE] * 2, 0.5)
    assert throttle.active
    assert throttle.ended(QUIET) == 0
    assert throttle.ended(0.5 + QUIET) == 7
    assert throttle.ended(0.5 + QUIET) == 0
    assert not throttle.active


@pytest.mark.promise("console-flood-hides-no-state")
def test_a_flood_without_end_is_told_of_now_and_then() -> None:
    throttle = Throttle(RULES)
    told = []
    for second in range(32):
        told.append(throttle.ended(second))
        throttle.admit([LINE] * (RULES.lines + 1), second)
    episodes = [count for count in told if count]
    assert len(episodes) == 3
    assert all(abs(count - LONGEST_EPISODE) <= 1 for count in episodes)


FEATURES = {"eula": ["agree to the EULA", "eula.txt"], "java": ["UnsupportedClassVersion"]}


def with_features(features: object) -> Configuration:
    return with_settings(egg=Egg(features=features))


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


def matches(line: str, *done: str, strip_ansi: bool = False) -> bool:
    return StartupDetector(Startup(done, strip_ansi)).match(line)


@pytest.mark.parametrize(
    ("entry", "line", "matched"),
    [
        (")! For help, type ", '[12:00:00] Done (3.2s)! For help, type "help"', True),
        ("listening on", "Listening on", False),
        ("a.c", "abc", False),
        (r"regex:^Done \(\d+\.\d+s\)", "Done (3.2s)!", True),
        (r"regex:^Done \(\d+\.\d+s\)", "not Done (3.2s)!", False),
        # Go's, and not Python's.
        (r"regex:(?i)\pL+ READY\z", "Sérver ready", True),
        (r"regex:[[:digit:]]+ players", "12 players", True),
        # As Wings has it: a prefix alone is a text.
        ("regex:", "regex: is here", True),
        ("", "anything", False),
    ],
)
def test_an_entry_matches_as_in_wings(entry: str, line: str, matched: bool) -> None:
    assert matches(line, entry) is matched


@pytest.mark.parametrize(
    "line",
    [
        "\x1b[32mserver\x1b[0m is \x1b[1;33mup\x1b[m",
        "\x1b]0;the title\x07server is up",
        "\x1b]0;the title\x1b\\server is\x1b[K up",
        "\x1b(B\x1b7server is \x1b[?25hup",
    ],
)
def test_colours_are_in_the_way_unless_they_are_stripped(line: str) -> None:
    assert matches(line, "regex:^server is up$", strip_ansi=True)
    assert not matches(line, "regex:^server is up$")


def test_an_invalid_expression_is_reported_and_others_count() -> None:
    done = StartupDetector(Startup(("regex:(oops", "up")))
    (fault,) = done.errors
    assert "regex:(oops" in fault
    assert "missing )" in fault
    assert done.match("it is up")
    assert not done.match("(oops")


def test_a_detector_without_entries_is_false() -> None:
    assert not StartupDetector(Startup())
    assert not StartupDetector(Startup(("",)))
    assert StartupDetector(Startup(("up",)))
    # Not up at once, only because nobody can tell.
    assert StartupDetector(Startup(("regex:(",)))


def test_no_expression_hangs_the_node() -> None:
    done = StartupDetector(Startup((r"regex:^(a+)+$", r"regex:(x+x+)+y", r"regex:(.*)*\d{3}$")))
    began = thread_time()
    assert not done.match("a" * (LONGEST_MATCHED_LINE - 1) + "!")
    assert not done.match("x" * LONGEST_MATCHED_LINE)
    assert thread_time() - began < 1


def test_only_the_beginning_of_a_long_line_is_looked_at() -> None:
    assert matches("x" * (LONGEST_MATCHED_LINE - 2) + "up", "up")
    assert not matches("x" * LONGEST_MATCHED_LINE + "up", "up")


def test_no_control_sequences_hang_the_node() -> None:
    done = StartupDetector(Startup(("up",), strip_ansi=True))
    began = thread_time()
    for begun in ("\x1b]", "\x9d", "\x1b[", "\x9b", "\x1b "):
        assert not done.match(begun * LONGEST_MATCHED_LINE)
    assert thread_time() - began < 0.05
