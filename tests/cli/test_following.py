"""`wingsctl receive` and `send` with `--follow`: the requests to the node, and the output."""

from __future__ import annotations

import shlex
import time
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.cli.daemon import UUID, Command, Scripted, found, past, running
from wingsd.cli import progress
from wingsd.cli.client import Exit

TOKEN = "aaa.bbb.ccc"
WORDS = ("send", UUID, "--to", "https://x", "--token", TOKEN, "--follow")
BEGUN = {"server": UUID, "after": 6, "backups_stay_in": "/backups"}
INVITATION = {
    "server": UUID,
    "url": "https://x",
    "url_is_certain": True,
    "token": TOKEN,
    "expires": 1_700_000_000.0,
    "after": 6,
}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "POLL_INTERVAL", 0.001)


def follow(**changes: Any) -> dict[str, Any]:
    usual = {
        "rounds": 12,
        "changed_bytes": 5 << 20,
        "missing_bytes": 1 << 20,
        "whole_at": time.time() - 40,
        "predicted_downtime": 1.76,
        "stop_at": None,
        "trouble": None,
    }
    return running(step="seed", doing="keeping a copy") | {"follow": usual | changes}


def test_the_line_for_the_source_has_the_word(scripted: Scripted, wingsctl: Command) -> None:
    scripted.answers("POST", "receive", INVITATION, status=201)
    ran = wingsctl("receive", UUID, "--follow")
    (line,) = [line for line in ran.out.splitlines() if "wingsctl send" in line]
    assert tuple(shlex.split(line)[1:]) == WORDS
    assert scripted.asked[0][2]["follow"] is True


def test_it_returns_when_a_copy_follows(scripted: Scripted, wingsctl: Command) -> None:
    scripted.answers("POST", "send", BEGUN, status=202)
    asking = found(running=running(step="ask") | {"follow": None})
    scripted.answers("GET", f"transfers/{UUID}", asking, found(running=follow()))
    ran = wingsctl(*WORDS)
    assert (ran.status, ran.err) == (0, "")
    assert f"{UUID}: a copy follows it; a transfer ends that" in ran.out
    order = scripted.asked[0][2]
    assert (order["follow"], order["stop_at"]) == (True, None)
    assert len(scripted.asked) == 3


def test_a_refusal_is_told_with_its_reason(scripted: Scripted, wingsctl: Command) -> None:
    scripted.answers("POST", "send", BEGUN, status=202)
    ended = past(outcome="failure", reason="while asking: no")
    scripted.answers("GET", f"transfers/{UUID}", found(past=[ended]))
    ran = wingsctl(*WORDS)
    assert ran.status == Exit.FAILED
    assert "while asking: no" in ran.err
    assert wingsctl(*WORDS, "--no-wait", "--json").json == BEGUN


def test_a_transfer_that_is_gone_without_a_result_is_not_waited_for(
    scripted: Scripted, wingsctl: Command
) -> None:
    scripted.answers("POST", "send", BEGUN, status=202)
    asking, gone = running(step="ask") | {"follow": None}, found(past=[past(transfer=6)])
    # That it would follow later shows a command that goes on to wait.
    answers = (found(running=asking), gone, found(running=follow()))
    scripted.answers("GET", f"transfers/{UUID}", *answers)
    ran = wingsctl(*WORDS)
    assert (ran.status, ran.out) == (Exit.FAILED, "")
    assert "the transfer does not exist any more" in ran.err


def later(**delta: float) -> datetime:
    return (datetime.now() + timedelta(**delta)).replace(second=0, microsecond=0)


@pytest.mark.parametrize("form", ["%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S"])
def test_the_end_is_a_time_of_this_machine(
    scripted: Scripted, wingsctl: Command, form: str
) -> None:
    scripted.answers("POST", "send", BEGUN, status=202)
    at = later(days=3)
    ran = wingsctl(*WORDS, "--stop-at", at.strftime(form), "--no-wait")
    assert scripted.asked[0][2]["stop_at"] == at.timestamp()
    assert f"it is moved at {at:%Y-%m-%d %H:%M:%S}" in ran.out


def test_now_is_as_soon_as_the_copy_is_whole(scripted: Scripted, wingsctl: Command) -> None:
    scripted.answers("POST", "send", BEGUN, status=202)
    before = time.time()
    assert wingsctl(*WORDS, "--stop-at", "now", "--no-wait").status == 0
    assert before <= scripted.asked[0][2]["stop_at"] <= time.time()


@pytest.mark.parametrize("delta", [{"hours": 2}, {"hours": -2}])
def test_a_time_alone_is_the_next_one(
    scripted: Scripted, wingsctl: Command, delta: dict[str, float]
) -> None:
    scripted.answers("POST", "send", BEGUN, status=202)
    wingsctl(*WORDS, "--stop-at", f"{later(**delta):%H:%M}", "--no-wait")
    at = datetime.fromtimestamp(scripted.asked[0][2]["stop_at"])
    assert (at.hour, at.minute) == (later(**delta).hour, later(**delta).minute)
    assert 0 < (at - datetime.now()).total_seconds() <= 24 * 3600 + 3700


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((*WORDS, "--stop-at", "soon"), "is no time such as 04:30"),
        ((*WORDS, "--stop-at", "2001-01-01 04:30"), "is over"),
        ((*WORDS, "--stop-at", "9999-99-99 04:30"), "is no time"),
        ((*WORDS[:-1], "--stop-at", "04:30"), "--stop-at needs --follow"),
    ],
)
def test_what_makes_no_sense_is_a_wrong_command_line(
    scripted: Scripted, wingsctl: Command, words: tuple[str, ...], says: str
) -> None:
    ran = wingsctl(*words)
    assert ran.status == Exit.USAGE
    assert says in " ".join(ran.err.split())
    assert scripted.asked == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "keeping a copy: the copy is 40 s old, 5.0 MiB had changed, 1.0 MiB are missing"),
        ({}, "about 1.8 s of downtime"),
        (
            {"whole_at": None, "predicted_downtime": None},
            "no whole copy seen, 1.0 MiB are missing",
        ),
        (
            {"whole_at": None, "missing_bytes": None},
            "no whole copy seen, what is missing is not known",
        ),
        ({"stop_at": 4_000_000_000}, "moved at 2096-"),
        ({"trouble": "it is\naway"}, "the last round has failed: it is away"),
    ],
)
def test_how_far_the_copy_is_is_shown(
    scripted: Scripted, wingsctl: Command, changes: dict[str, Any], says: str
) -> None:
    each = follow(**changes)
    scripted.answers("GET", "transfers?past=20", {"running": [each], "expected": [], "past": []})
    scripted.answers("GET", f"transfers/{UUID}", found(running=each))
    for words in (("transfers",), ("show", UUID)):
        assert says in " ".join(wingsctl(*words).out.split())
