"""`wingsctl history`, against a daemon that answers what the tests say."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import pytest

from tests.cli.daemon import UUID, Command, Scripted
from tests.cli.test_showing import status

FOLLOWS = {
    "state": "follows",
    "since": 1_700_000_000.0,
    "destination": "https://b.example.com/api/transfers",
    "missed": False,
    "sent_bytes": 1 << 20,
    "waits_for": "",
}


def known(**changes: Any) -> dict[str, Any]:
    return {
        "server": UUID,
        "name": "Lobby",
        "every_seconds": 300,
        "late": False,
        "left": None,
        "newest": 1_700_000_000.0,
        "looked": time.time() - 100,
        "points": 2,
        "bytes": 5 << 20,
        "damaged": 0,
        "unreadable": [],
        "unsettled": 0,
        "seconds": 1.25,
        "cpu_seconds": 0.5,
        "trouble": "",
        "busy_seconds": None,
    } | changes


def point(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "number": number,
        "time": 1_700_000_000.0 + number,
        "label": "running",
        "files": 12,
        "bytes": 5 << 20,
        "stored_bytes": 1 << 20,
        "unsettled": 0,
        "unsettled_files": [],
        "damaged": False,
        "damaged_files": [],
    } | changes


def task(**changes: Any) -> dict[str, Any]:
    return {
        "server": UUID,
        "kind": "make",
        "over": True,
        "error": "",
        "detail": "",
        "code": "",
        "point": None,
        "damaged": {},
    } | changes


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "up to date"),
        ({"late": True}, "LATE"),
        ({"trouble": "the disk is full"}, "NO point can be made: the disk is full"),
        ({"damaged": 1, "late": True}, "1 points are DAMAGED"),
        ({"every_seconds": 0}, "no points are made"),
        ({"name": None, "every_seconds": 0, "newest": None}, "its server is not on this node"),
        (
            {"name": None, "left": FOLLOWS},
            "to https://b.example.com, 1.0 MiB of 5.0 MiB are there",
        ),
    ],
)
def test_histories_are_listed_with_their_states(
    scripted: Scripted, wingsctl: Command, changes: dict[str, Any], state: str
) -> None:
    found = {"directory": "/history", "histories": [known(**changes)]}
    scripted.answers("GET", "history", found)
    heading, line = wingsctl("history").out.splitlines()
    assert heading.split() == ["server", "newest", "points", "bytes", "name", "state"]
    assert line.startswith(UUID)
    assert line.endswith(state)
    assert wingsctl("history", "--json").json == found


def test_a_node_without_histories_says_so(scripted: Scripted, wingsctl: Command) -> None:
    scripted.answers("GET", "history", {"directory": "/history", "histories": []})
    assert "system.history.every is 0" in wingsctl("history").out


def test_the_points_of_a_server_are_listed(scripted: Scripted, wingsctl: Command) -> None:
    points = [
        point(7, stored_bytes=None, unsettled=2, unsettled_files=["logs/latest.log", "a"]),
        point(6, label="stopped"),
        point(5, damaged=True, damaged_files=["world/r.0.0.mca"]),
        point(4, damaged=True),
    ]
    scripted.answers("GET", f"history/{UUID}", known(points=points, damaged=4, unreadable=[2, 3]))
    shown = wingsctl("history", UUID).out
    for expected in (
        "every 5 min 0 s",
        "1 min 4",
        "took 1.2 s, 0.5 s of CPU",
        "4 points are DAMAGED",
        "points 2, 3: nothing of them can be used",
        "point 5 is DAMAGED: world/r.0.0.mca",
        "point 4 is DAMAGED: all of it",
        "unsettled in the newest point: logs/latest.log, a",
    ):
        assert expected in shown
    (line,) = [each for each in shown.splitlines() if each.startswith("6 ")]
    assert "stopped" in line


def test_it_is_shown_again_and_again_until_it_is_interrupted(
    scripted: Scripted, wingsctl: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = [None, None, KeyboardInterrupt()]

    def sleep(seconds: float) -> None:
        if (interrupt := pauses.pop(0)) is not None:
            raise interrupt

    monkeypatch.setattr("wingsd.cli.history.time.sleep", sleep)
    scripted.answers(
        "GET", f"history/{UUID}", *(known(points=[], bytes=size) for size in range(4))
    )
    ran = wingsctl("history", UUID, "--live", "--json")
    assert [json.loads(line)["bytes"] for line in ran.out.splitlines()] == [0, 1, 2]
    assert ran.status == 0


def test_a_history_that_is_in_use_is_shown_without_its_points(
    scripted: Scripted, wingsctl: Command
) -> None:
    scripted.answers("GET", f"history/{UUID}", known(points=None, busy_seconds=200))
    shown = wingsctl("history", UUID).out
    assert "for 3 min 20 s" in shown
    assert "shown when the work on it is over" in shown
    scripted.answers("GET", f"history/{UUID}", known(points=[]))
    assert "no points yet" in wingsctl("history", UUID).out


def test_a_point_is_made_and_waited_for(
    scripted: Scripted, wingsctl: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wingsd.cli.history.POLL_INTERVAL", 0.0)
    scripted.answers("POST", f"history/{UUID}", task(over=False))
    scripted.answers("GET", f"history/{UUID}/task", task(over=False), task(point=8))
    assert wingsctl("history", "make", UUID).out == f"{UUID}: point 8 is made\n"
    scripted.answers("POST", f"history/{UUID}", task())
    assert "nothing has changed" in wingsctl("history", "make", UUID).out
    failed = task(error="the disk is full", detail="free some", code="storage-failed")
    scripted.answers("POST", f"history/{UUID}", failed)
    ran = wingsctl("history", "make", UUID)
    assert ran.status == 1
    assert "the disk is full (storage-failed)" in ran.err


def test_a_point_is_removed_and_a_whole_history_only_after_a_question(
    scripted: Scripted, wingsctl: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    scripted.answers("DELETE", f"history/{UUID}/points/6", task(kind="delete"))
    assert wingsctl("history", "delete", UUID, "6").out == f"{UUID}: point 6 is removed\n"
    assert wingsctl("history", "delete", UUID).status == 2
    assert wingsctl("history", "delete", UUID, "6", "--all").status == 2
    scripted.asked.clear()
    backups = {"making": [], "backups": [{"point": 5}, {"point": None}]}
    scripted.answers("GET", f"backups?server={UUID}", backups)
    ran = wingsctl("history", "delete", UUID, "--all")
    assert ran.status == 1
    assert "with all its points, and 1 backups with it?" in ran.err
    assert [each for each in scripted.asked if each[0] == "DELETE"] == []
    scripted.answers("DELETE", f"history/{UUID}", task(kind="delete"))
    ran = wingsctl("history", "delete", UUID, "--all", "--yes")
    assert ran.out == f"{UUID}: its history is removed, and 1 backups with it\n"


def test_a_damaged_history_is_a_failure(scripted: Scripted, wingsctl: Command) -> None:
    scripted.answers("POST", f"history/{UUID}/verify", task(kind="verify"))
    assert wingsctl("history", "verify", UUID).out == f"{UUID}: its history is whole\n"
    damaged = task(kind="verify", damaged={"12": ["a", "b"], "9": []})
    scripted.answers("POST", f"history/{UUID}/verify", damaged)
    ran = wingsctl("history", "verify", UUID)
    assert ran.status == 1
    assert ran.out.splitlines() == [
        "point 9 is DAMAGED: all of it",
        "point 12 is DAMAGED: a, b",
    ]


def test_the_status_has_a_line_of_histories(scripted: Scripted, wingsctl: Command) -> None:
    totals = {
        "count": 3,
        "late": 1,
        "failing": 0,
        "damaged": 2,
        "points": 70,
        "bytes": 5 << 20,
        "oldest": time.time() - 130,
    }
    scripted.answers("GET", "status", status(histories=totals))
    shown = wingsctl("status").out
    assert "3 with 70 points, 5.0 MiB, all looked at within 2 min" in shown
    assert "1 LATE" in shown
    assert "FAILING" not in shown
    assert "2 DAMAGED" in shown
    scripted.answers("GET", "status", status(histories=None))
    assert "histories" not in wingsctl("status").out
