"""`wingsctl receive` and `send`: what is asked of the daemon, and what is told of the end."""

from __future__ import annotations

import io
import json
import shlex
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from tests.cli.daemon import UUID, Command, Scripted, found, past, running
from wingsd.cli import progress
from wingsd.cli.client import Exit

TOKEN = "aaa.bbb.ccc"
INVITATION: dict[str, Any] = {
    "server": UUID,
    "url": "https://node.example.com:8080",
    "url_is_certain": True,
    "token": TOKEN,
    "expires": 1_700_000_000.0,
    "after": 6,
}
BEGUN = {"server": UUID, "after": 6, "backups_stay_in": "/backups"}
DESCRIPTION = {"settings": {"uuid": UUID}, "process_configuration": {}}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "POLL_INTERVAL", 0.001)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(DESCRIPTION))
    return str(path)


def test_the_line_for_the_source_is_printed_whole(scripted: Scripted, wingsctl: Command) -> None:
    scripted.answers("POST", "receive", INVITATION, status=201)
    ran = wingsctl("receive", UUID)
    assert (ran.status, ran.err) == (0, "")
    (line,) = [line for line in ran.out.splitlines() if "wingsctl send" in line]
    words = ["wingsctl", "send", UUID, "--to", INVITATION["url"], "--token", TOKEN]
    assert shlex.split(line) == words
    assert "a guess" not in ran.out
    order: dict[str, Any] = {"server": UUID, "settings": None, "addresses": []}
    order["seconds"] = 3600
    assert scripted.asked == [("POST", "/v1/receive", order)]


def test_an_address_that_is_a_guess_is_called_one(scripted: Scripted, wingsctl: Command) -> None:
    scripted.answers("POST", "receive", INVITATION | {"url_is_certain": False}, status=201)
    assert "https://node.example.com:8080 is a guess" in wingsctl("receive", UUID).out
    ran = wingsctl("receive", UUID, "--url", "https://other:1", "--json")
    assert (ran.json["url"], ran.json["url_is_certain"]) == ("https://other:1", True)
    assert "--to https://other:1 " in ran.json["send"]


@pytest.mark.parametrize("url", ["node.example.com:8080", "ftp://node", "https://", "node"])
@pytest.mark.parametrize("words", [("receive", UUID, "--url"), ("send", UUID, "--to")])
def test_what_is_no_address_is_a_wrong_command_line(
    scripted: Scripted, wingsctl: Command, words: tuple[str, ...], url: str
) -> None:
    ran = wingsctl(*words, url, *(("--token", TOKEN) if words[0] == "send" else ()))
    assert ran.status == Exit.USAGE
    assert f"{url!r} is not a URL such as https://" in ran.err.replace("\n", " ")
    assert scripted.asked == []


def test_all_options_of_the_server(scripted: Scripted, wingsctl: Command, file: str) -> None:
    scripted.answers("POST", "receive", INVITATION, status=201)
    addresses = ("--address", "203.0.113.5:1", "--address", "203.0.113.5:2")
    assert wingsctl("receive", "--settings", file, *addresses, "--minutes", "5").status == 0
    ((_, _, order),) = scripted.asked
    assert order == {
        "server": UUID,
        "settings": DESCRIPTION,
        "addresses": ["203.0.113.5:1", "203.0.113.5:2"],
        "seconds": 300,
    }


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "expected an object with the keys settings"),
        ('{"settings": 5}', "expected an object with the keys settings"),
        ('{"settings": {"uuid": "x"}}', "have no valid settings.uuid"),
        ('{"settings": {}}', "have no valid settings.uuid"),
        ("\xff", "cannot be read as JSON"),
    ],
)
def test_settings_that_are_none_are_a_wrong_command_line(
    wingsctl: Command, tmp_path: Path, content: str, says: str
) -> None:
    path = tmp_path / "settings.json"
    path.write_text(content, encoding="latin-1")
    ran = wingsctl("receive", "--settings", str(path))
    assert ran.status == Exit.USAGE
    assert says in ran.err.replace("\n", " ")


@pytest.mark.parametrize("token", ["", " ", "Bearer ", "-"])
def test_an_empty_token_is_a_wrong_command_line(
    wingsctl: Command, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    ran = wingsctl("send", UUID, "--to", "https://x", "--token", token)
    assert ran.status == Exit.USAGE
    assert "it is empty" in ran.err


def test_wait_follows_an_arrival_to_its_end(scripted: Scripted, wingsctl: Command) -> None:
    expected = {"server": UUID, "expires": 1.0}
    coming = running(direction="in", doing="receiving the archive")
    scripted.answers("POST", "receive", INVITATION, status=201)
    scripted.answers(
        "GET",
        f"transfers/{UUID}",
        found(expected=expected, past=[past(transfer=6, outcome="failure")]),
        found(expected=expected, running=coming),
        found(running=coming),
        found(past=[past(direction="in"), past(transfer=6)]),
    )
    ran = wingsctl("receive", UUID, "--wait")
    assert ran.status == 0
    assert f"{UUID} in direct: receiving the archive" in ran.err
    assert ran.out.endswith(f"{UUID}: moved: 12 files, 1.0 GiB, in 3 min 20 s\n")


def test_a_revoked_invitation_is_not_waited_for(scripted: Scripted, wingsctl: Command) -> None:
    scripted.answers("POST", "receive", INVITATION, status=201)
    scripted.answers("GET", f"transfers/{UUID}", found(past=[past(transfer=6)]))
    ran = wingsctl("receive", UUID, "--wait", "--json")
    assert ran.status == Exit.FAILED
    assert "does not exist any more" in json.loads(ran.err)["error"]


def test_sending_goes_on_to_the_end(scripted: Scripted, wingsctl: Command, file: str) -> None:
    scripted.answers("POST", "send", BEGUN, status=202)
    scripted.answers("GET", f"transfers/{UUID}", found(running=running()), found(past=[past()]))
    words = ("send", UUID, "--to", "https://x", "--token", TOKEN, "--settings", file, "--delete")
    ran = wingsctl(*words)
    assert ran.status == 0
    moved, stays = ran.out.splitlines()
    assert moved == f"{UUID}: moved: 12 files, 1.0 GiB sent, in 3 min 20 s"
    # Said by name: with --delete, they are all that is left of it here.
    assert "are in /backups, and follow it" in stays
    order = {
        "server": UUID,
        "url": "https://x",
        "token": TOKEN,
        "settings": DESCRIPTION,
        "remove": True,
    }
    assert scripted.asked[0] == ("POST", "/v1/send", order)


def failing(scripted: Scripted) -> tuple[str, ...]:
    scripted.answers("POST", "send", BEGUN, status=202)
    ended = past(outcome="failure", reason="while sending: no")
    scripted.answers("GET", f"transfers/{UUID}", found(past=[ended]))
    return "send", UUID, "--to", "https://x", "--token", TOKEN


def test_a_failure_is_shown_with_its_reason(scripted: Scripted, wingsctl: Command) -> None:
    ran = wingsctl(*failing(scripted))
    assert (ran.status, ran.out) == (Exit.FAILED, "")
    assert ran.err == f"wingsctl: {UUID}: transfer failed\n  while sending: no\n"


def test_programs_get_it_as_json(scripted: Scripted, wingsctl: Command) -> None:
    ran = wingsctl(*failing(scripted), "--json")
    assert (ran.status, ran.err) == (Exit.FAILED, "")
    assert (ran.json["outcome"], ran.json["reason"]) == ("failure", "while sending: no")
    assert ran.json["backups_stay_in"] == "/backups"


def test_no_wait_returns_at_once(scripted: Scripted, wingsctl: Command) -> None:
    words = failing(scripted)
    out = wingsctl(*words, "--no-wait").out
    assert f"wingsctl show {UUID}" in out
    assert "are in /backups, and follow it" in out
    assert wingsctl(*words, "--no-wait", "--json").json == BEGUN


def test_an_interrupt_says_that_the_transfer_continues(
    scripted: Scripted, wingsctl: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = failing(scripted)
    scripted.answers("GET", f"transfers/{UUID}", found(running=running()))
    monkeypatch.setattr(time, "sleep", Mock(side_effect=KeyboardInterrupt))
    ran = wingsctl(*words)
    assert ran.status == Exit.INTERRUPTED
    assert f"cancel it with wingsctl cancel {UUID}" in ran.err


def test_a_daemon_that_ends_during_the_transfer_is_reported(
    scripted: Scripted, wingsctl: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = failing(scripted)
    scripted.answers("GET", f"transfers/{UUID}", found(running=running()))
    monkeypatch.setattr(time, "sleep", lambda _: scripted.stop())
    ran = wingsctl(*words)
    assert ran.status == Exit.NO_DAEMON
    assert "wingsd has ended during the transfer" in ran.err
    assert f"wingsctl show {UUID}" in ran.err


@pytest.mark.parametrize("given", ["option", "environment", "standard input"])
def test_the_token_can_come_from_the_environment_or_standard_input(
    scripted: Scripted, wingsctl: Command, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    failing(scripted)
    option = {"option": ["--token", f"Bearer {TOKEN}"], "standard input": ["--token", "-"]}
    if given == "environment":
        monkeypatch.setenv("WINGSCTL_TOKEN", TOKEN)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{TOKEN}\n"))
    wingsctl("send", UUID, "--to", "https://x", "--no-wait", *option.get(given, []))
    assert scripted.asked[0][2]["token"] == TOKEN


# `wingsctl receive` and `send` with `--follow`: the requests to the node, and the output


FOLLOW = ("send", UUID, "--to", INVITATION["url"], "--token", TOKEN, "--follow")


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


def test_it_returns_when_a_copy_follows(scripted: Scripted, wingsctl: Command) -> None:
    scripted.answers("POST", "send", BEGUN, status=202)
    asking = found(running=running(step="ask") | {"follow": None})
    scripted.answers("GET", f"transfers/{UUID}", asking, found(running=follow()))
    ran = wingsctl(*FOLLOW)
    assert (ran.status, ran.err) == (0, "")
    assert f"{UUID}: a copy follows it; a transfer ends that" in ran.out
    order = scripted.asked[0][2]
    assert (order["follow"], order["stop_at"]) == (True, None)
    assert len(scripted.asked) == 3


def test_a_refusal_is_told_with_its_reason(scripted: Scripted, wingsctl: Command) -> None:
    scripted.answers("POST", "send", BEGUN, status=202)
    ended = past(outcome="failure", reason="while asking: no")
    scripted.answers("GET", f"transfers/{UUID}", found(past=[ended]))
    ran = wingsctl(*FOLLOW)
    assert ran.status == Exit.FAILED
    assert "while asking: no" in ran.err
    assert wingsctl(*FOLLOW, "--no-wait", "--json").json == BEGUN


def later(**delta: float) -> datetime:
    return (datetime.now() + timedelta(**delta)).replace(second=0, microsecond=0)


@pytest.mark.parametrize("form", ["%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S"])
def test_the_end_is_a_time_of_this_machine(
    scripted: Scripted, wingsctl: Command, form: str
) -> None:
    scripted.answers("POST", "send", BEGUN, status=202)
    at = later(days=3)
    ran = wingsctl(*FOLLOW, "--stop-at", at.strftime(form), "--no-wait")
    assert scripted.asked[0][2]["stop_at"] == at.timestamp()
    assert f"it is moved at {at:%Y-%m-%d %H:%M:%S}" in ran.out


def test_now_is_as_soon_as_the_copy_is_whole(scripted: Scripted, wingsctl: Command) -> None:
    scripted.answers("POST", "send", BEGUN, status=202)
    before = time.time()
    assert wingsctl(*FOLLOW, "--stop-at", "now", "--no-wait").status == 0
    assert before <= scripted.asked[0][2]["stop_at"] <= time.time()


@pytest.mark.parametrize("delta", [{"hours": 2}, {"hours": -2}])
def test_a_time_alone_is_the_next_one(
    scripted: Scripted, wingsctl: Command, delta: dict[str, float]
) -> None:
    scripted.answers("POST", "send", BEGUN, status=202)
    wingsctl(*FOLLOW, "--stop-at", f"{later(**delta):%H:%M}", "--no-wait")
    at = datetime.fromtimestamp(scripted.asked[0][2]["stop_at"])
    assert (at.hour, at.minute) == (later(**delta).hour, later(**delta).minute)
    assert 0 < (at - datetime.now()).total_seconds() <= 24 * 3600 + 3700


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((*FOLLOW, "--stop-at", "soon"), "is no time such as 04:30"),
        ((*FOLLOW, "--stop-at", "2001-01-01 04:30"), "is over"),
        ((*FOLLOW, "--stop-at", "9999-99-99 04:30"), "is no time"),
        ((*FOLLOW[:-1], "--stop-at", "04:30"), "--stop-at needs --follow"),
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
