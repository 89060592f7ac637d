"""Which lines say that a server is up."""

from __future__ import annotations

from time import thread_time

import pytest

from wingsd.panel.schemas import Startup
from wingsd.servers.console import LONGEST_MATCHED_LINE, StartupDetector


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


def test_any_of_several_entries_matches() -> None:
    done = StartupDetector(Startup(("one", "regex:tw[o]", "three")))
    assert [done.match(line) for line in ("one", "two", "three", "four")] == [True] * 3 + [False]


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
