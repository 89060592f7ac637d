"""`wingsctl backups` and `verify`, against a daemon that answers what the tests say."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cli.daemon import UUID, Command, Scripted

BACKUP = "5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11"
OTHER = "5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c12"
STORED = {
    "backup": BACKUP,
    "server": UUID,
    "path": f"/backups/{BACKUP}.tar.gz",
    "bytes": 5 << 20,
    "files": 12,
    "made": 1_700_000_000.0,
    "state": "complete",
    "checked": None,
    "fault": "",
}
OF_WINGS = {**STORED, "server": None, "files": None, "state": None}


def check(**changes: Any) -> dict[str, Any]:
    return {
        "backup": BACKUP,
        "bytes": 5 << 20,
        "total_bytes": 5 << 20,
        "whole": True,
        "fault": "",
        "sha256": "ab" * 32,
        "files": 12,
    } | changes


def test_backups_are_listed(scripted: Scripted, wingsctl: Command) -> None:
    making = [{"backup": BACKUP, "server": UUID}]
    damaged = {**STORED, "state": "damaged", "fault": "it is cut", "checked": 1_700_000_001.0}
    scripted.answers("GET", "backups", {"making": making, "backups": [damaged, OF_WINGS]})
    ran = wingsctl("backups")
    assert ran.status == 0
    first, heading, second, third = ran.out.splitlines()
    assert first == f"{BACKUP}: being made, of {UUID}"
    assert heading.split() == ["backup", "server", "made", "bytes", "files", "checked", "state"]
    assert "damaged: it is cut" in second
    assert "unknown" in third
    assert "no catalogue" in third


def test_those_of_one_server_are_listed_as_json(scripted: Scripted, wingsctl: Command) -> None:
    found = {"making": [], "backups": [STORED]}
    scripted.answers("GET", f"backups?server={UUID}", found)
    assert wingsctl("backups", UUID, "--json").json == found


@pytest.mark.parametrize(
    ("server", "query", "whose"), [([], "", ""), ([UUID], f"?server={UUID}", f" of {UUID}")]
)
def test_without_backups_it_says_of_whom(
    scripted: Scripted, wingsctl: Command, server: list[str], query: str, whose: str
) -> None:
    scripted.answers("GET", f"backups{query}", {"making": [], "backups": []})
    assert wingsctl("backups", *server).out == f"no backups{whose} on this node\n"


LEFT = {
    "state": "follows",
    "since": 1_700_000_000.0,
    "destination": "https://b.example:8080/api/transfers",
    "missed": False,
    "sent_bytes": 0,
    "waits_for": "",
}


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        ({}, "follows its server to https://b.example:8080"),
        ({"sent_bytes": 1 << 20}, ", 1.0 MiB of 5.0 MiB are there"),
        ({"waits_for": "the disk is full"}, "it waits: the disk is full"),
        ({"state": "kept"}, "it stays here, as an operator has said"),
        ({"state": "done"}, "not needed here any more, and being removed"),
        ({"destination": None}, "follows its server to another node"),
    ],
)
def test_backups_of_servers_that_moved_away_are_listed(
    scripted: Scripted, wingsctl: Command, left: dict[str, Any], expected: str
) -> None:
    stored = STORED | {"left": LEFT | left, "dropped_since": None}
    coming = [{"backup": OTHER, "server": UUID, "bytes": 1 << 20, "made": None}]
    found = {"making": [], "backups": [stored], "coming": coming}
    scripted.answers("GET", "backups", found)
    lines = wingsctl("backups").out.splitlines()
    assert f"{OTHER}: on its way here, of {UUID}, 1.0 MiB" in lines
    (line,) = [each for each in lines if each.startswith(f"{BACKUP}: ")]
    assert expected in line


@pytest.mark.parametrize(
    ("deletes", "expected"), [(True, "are deleted after 1 days"), (False, "; it stays (")]
)
def test_backups_that_the_panel_dropped_are_listed(
    scripted: Scripted, wingsctl: Command, deletes: bool, expected: str
) -> None:
    stored = STORED | {"left": LEFT | {"missed": True}, "dropped_since": 1_700_000_000.0}
    found = {"making": [], "backups": [stored], "dropped_kept_days": 1, "deletes_dropped": deletes}
    scripted.answers("GET", "backups", found)
    assert expected in wingsctl("backups").out


@pytest.mark.parametrize(
    ("order", "method", "path", "expected"),
    [
        ("send", "POST", f"backups/{BACKUP}/send", "it is sent to its server's node"),
        ("keep", "POST", f"backups/{BACKUP}/keep", "it stays here"),
        ("delete", "DELETE", f"backups/{BACKUP}", "deleted"),
    ],
)
def test_an_operator_decides_about_a_backup_that_was_left(
    scripted: Scripted, wingsctl: Command, order: str, method: str, path: str, expected: str
) -> None:
    answer = {"backup": BACKUP, "server": UUID, "state": "kept"}
    scripted.answers(method, path, answer)
    assert expected in wingsctl("backups", order, BACKUP).out
    assert wingsctl("backups", order, BACKUP, "--json").json == answer
    assert wingsctl("backups", order, "x").status == 2
    refused = {"error": "is not left here", "detail": "its server is on this node"}
    scripted.answers(method, path, refused, status=409)
    assert wingsctl("backups", order, BACKUP).status == 1


def test_a_check_is_watched_to_its_end(
    scripted: Scripted, wingsctl: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wingsd.cli.backups.POLL_INTERVAL", 0.0)
    path = f"backups/{BACKUP}/verify"
    scripted.answers("POST", path, check(whole=None, bytes=0))
    scripted.answers("GET", path, check(whole=None), check())
    ran = wingsctl("verify", BACKUP.upper())
    assert ran.status == 0
    assert "whole" in ran.out
    assert "ab" * 32 in ran.out
    assert [method for method, _, _ in scripted.asked] == ["POST", "GET", "GET"]


def test_a_damaged_backup_is_an_exit_status(scripted: Scripted, wingsctl: Command) -> None:
    damaged = check(whole=False, fault="it is cut", files=None)
    scripted.answers("POST", f"backups/{BACKUP}/verify", damaged)
    ran = wingsctl("verify", BACKUP)
    assert ran.status == 1
    assert "DAMAGED" in ran.out
    assert "it is cut" in ran.err
    told = wingsctl("verify", BACKUP, "--json")
    assert (told.status, told.json) == (1, damaged)


def test_what_is_no_backup_is_refused(scripted: Scripted, wingsctl: Command) -> None:
    assert wingsctl("verify", "x").status == 2
    assert wingsctl("verify", BACKUP).status == 5


REWRITING = {
    "backup": BACKUP,
    "state": "rewriting",
    "bytes": 1 << 20,
    "total_bytes": 5 << 20,
    "new_bytes": 0,
    "not_kept": "",
    "fault": "",
}


@pytest.mark.promise("backups-suit-the-destination")
def test_backups_are_rewritten_for_wings_one_after_the_other(
    scripted: Scripted, wingsctl: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wingsd.cli.backups.POLL_INTERVAL", 0.0)
    other = STORED | {"backup": OTHER, "server": None}
    scripted.answers("GET", "backups", {"making": [], "backups": [STORED, other]})
    path = f"backups/{BACKUP}/for-wings"
    done = REWRITING | {
        "state": "rewritten",
        "new_bytes": 6 << 20,
        "not_kept": "without 1 symlink",
    }
    scripted.answers("POST", path, REWRITING)
    scripted.answers("GET", path, REWRITING, done)
    scripted.answers("POST", f"backups/{OTHER}/for-wings", REWRITING | {"state": "unchanged"})
    ran = wingsctl("backups", "for-wings", "--all")
    assert (ran.status, ran.out.splitlines()) == (
        0,
        [
            f"{BACKUP}: rewritten, 5.0 MiB to 6.0 MiB; without 1 symlink",
            f"{OTHER}: is in this form already",
            "1 rewritten, 1 in this form already, 0 failed",
        ],
    )
    # The backups of a server, and one that is named twice.
    ran = wingsctl("backups", "for-wings", UUID.upper(), BACKUP, "--json")
    assert (ran.status, [each["backup"] for each in ran.json["backups"]]) == (0, [BACKUP])


def test_one_that_cannot_be_rewritten_does_not_keep_the_others(
    scripted: Scripted, wingsctl: Command
) -> None:
    other = STORED | {"backup": OTHER}
    making = [{"backup": UUID, "server": UUID}]
    scripted.answers("GET", "backups", {"making": making, "backups": [STORED, other]})
    busy = {"error": "server is currently being transferred", "detail": "try again"}
    scripted.answers("POST", f"backups/{BACKUP}/for-wings", busy, status=409)
    damaged = REWRITING | {"state": "failed", "fault": "it is damaged"}
    scripted.answers("POST", f"backups/{OTHER}/for-wings", damaged)
    ran = wingsctl("backups", "for-wings", "--all")
    assert ran.status == 1
    assert f"{BACKUP}: FAILED: server is currently being transferred: try again" in ran.out
    assert f"{OTHER}: FAILED: it is damaged" in ran.out
    assert "0 rewritten, 0 in this form already, 3 failed" in ran.out
    assert "not all backups were rewritten" in ran.err


def test_backups_to_be_rewritten_are_named(scripted: Scripted, wingsctl: Command) -> None:
    scripted.answers("GET", "backups", {"making": [], "backups": [STORED]})
    assert wingsctl("backups", "for-wings").status == 2
    assert wingsctl("backups", "for-wings", "--all", BACKUP).status == 2
    assert wingsctl("backups", "for-wings", "x").status == 2
    assert wingsctl("backups", "for-wings", OTHER).status == 5


@pytest.mark.parametrize("words", [("backups", "for-wings"), ("history", "delete")])
def test_the_usage_of_a_subcommand_has_no_server_before_its_name(
    wingsctl: Command, words: tuple[str, str]
) -> None:
    usage = f"Usage: wingsctl {' '.join(words)} [OPTIONS]"
    assert wingsctl(*words, "--help").out.startswith(usage)
