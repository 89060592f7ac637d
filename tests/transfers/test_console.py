"""What a transfer prints in the console of its server."""

from __future__ import annotations

import json

import pytest

from tests.support.logged_errors import Logged
from tests.support.step_logs import StepLogHarness
from wingsd.transfers.steps import (
    DESTINATION,
    SOURCE,
    SendStep,
    UploadFigures,
    console_line,
    progress_bar,
)

GIB = 1 << 30


@pytest.fixture
def heard() -> StepLogHarness:
    """A transfer to another node, and what a browser would get of it."""
    return StepLogHarness(SendStep, "a-server")


async def test_each_state_is_sent_once_and_each_step_has_a_line(heard: StepLogHarness) -> None:
    steps = [SendStep.ASK, SendStep.STOP, SendStep.SEND, SendStep.AWAIT, SendStep.DONE]
    await heard.begin()
    for step in steps[1:]:
        heard.step_log.advance(step)
    assert heard.states() == ["pending", "processing", "success", "completed"]
    assert heard.said() == [step.text for step in steps]


async def test_a_transfer_begins_with_its_state_and_not_with_a_line(heard: StepLogHarness) -> None:
    await heard.begin()
    heard.step_log.advance(SendStep.STOP)
    names = [event.name for event in heard.events]
    assert names == ["transfer status", "transfer logs", "transfer logs"]


def test_the_last_line_comes_before_the_final_state(heard: StepLogHarness) -> None:
    heard.step_log.advance(SendStep.FAILED)
    names = [event.name for event in heard.events]
    assert names == ["transfer logs", "transfer status", "transfer status"]


def test_progress_is_shown_every_five_seconds_until_it_is_hidden(heard: StepLogHarness) -> None:
    done = [0]
    heard.step_log.show_progress(lambda: f"Uploading {progress_bar(done[0], 100)}")
    heard.clock.advance(4.9)
    assert heard.said() == []
    done[0] = 20
    heard.clock.advance(0.2)
    done[0] = 40
    heard.clock.advance(5)
    assert heard.said() == [
        "Uploading [=====                    ] 20 B / 100 B",
        "Uploading [==========               ] 40 B / 100 B",
    ]
    heard.step_log.hide_progress()
    heard.clock.advance(60)
    assert len(heard.said()) == 2
    assert heard.clock.getDelayedCalls() == []


@pytest.mark.promise("silent-destination-is-named")
def test_what_is_waited_for_is_printed_and_logged_every_minute(
    heard: StepLogHarness, logged: Logged
) -> None:
    heard.step_log.show_waiting("the destination has not answered for")
    heard.clock.pump([59.0, 1.0, 60.0])
    expected = [f"the destination has not answered for {each}" for each in ("1 min", "2 min")]
    assert heard.said() == expected
    assert logged.lines[-2:] == [f"a-server: {each}" for each in expected]
    heard.step_log.hide_progress()


def test_the_figures_of_an_upload_are_published_with_its_lines(heard: StepLogHarness) -> None:
    known: list[UploadFigures] = []
    heard.step_log.show_progress(lambda: "x", figures=lambda: known[-1] if known else None)
    heard.clock.advance(5)
    known.append(UploadFigures(read=20, sent=10, total=100, files=3))
    heard.clock.advance(5)
    (figures,) = (event.args[0] for event in heard.events if event.name == "transfer progress")
    assert json.loads(figures) == {
        "archive_bytes_processed": 20,
        "network_bytes_processed": 10,
        "bytes_total": 100,
        "files_processed": 3,
        "archive_progress": 20,
        "network_progress": 10,
        "total": 100,
    }
    heard.step_log.hide_progress()


def test_console_lines_are_logged_too(heard: StepLogHarness, logged: Logged) -> None:
    heard.step_log.say("hello")
    heard.step_log.warn("look here")
    assert heard.said() == ["hello", "look here"]
    assert logged.lines[-2:] == ["a-server: hello", "a-server: look here"]


def test_a_console_line_about_an_error_ends_with_its_code(heard: StepLogHarness) -> None:
    heard.step_log.warn("the two nodes have different trees", "move-root-mismatch")
    assert heard.said() == ["the two nodes have different trees (move-root-mismatch)"]


def test_a_line_has_the_date_and_the_node() -> None:
    assert console_line(1_700_000_000, SOURCE, "hi") == (
        "\x1b[33m\x1b[1mTue, 14 Nov 2023 22:13:20 UTC [Transfer System] [Source Node]:\x1b[0m hi"
    )
    assert "[Destination Node]:" in console_line(0, DESTINATION, "x")


@pytest.mark.promise("log-lines-cannot-be-forged")
def test_text_from_outside_is_escaped_in_a_line() -> None:
    assert console_line(0, SOURCE, "a\x1b[2J\nb").endswith(":\x1b[0m a\\x1b[2J\\nb")


@pytest.mark.parametrize(
    ("done", "total", "bar"),
    [
        (0, 10 * GIB, f"[{' ' * 25}] 0 B / 10.0 GiB"),
        (2 * GIB, 10 * GIB, f"[{'=' * 5}{' ' * 20}] 2.0 GiB / 10.0 GiB"),
        (10 * GIB, 10 * GIB, f"[{'=' * 25}] 10.0 GiB / 10.0 GiB"),
        (5 << 20, 0, "5.0 MiB of an unknown total"),
    ],
)
def test_the_bar_is_as_long_as_what_is_done(done: int, total: int, bar: str) -> None:
    assert progress_bar(done, total) == bar


def test_a_tree_that_grew_is_not_more_than_full() -> None:
    assert progress_bar(3 * GIB, 2 * GIB) == f"[{'=' * 25}] 3.0 GiB / 3.0 GiB"
