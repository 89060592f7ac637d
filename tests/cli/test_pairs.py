"""`wingsctl pair` and `maintenance`: what is asked of the daemon, and what is shown."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest

from tests.cli.daemon import Command, Scripted

KEY = "ab" * 32
MADE: dict[str, Any] = {
    "name": "old-node",
    "url": "https://new.example.com:8080",
    "url_is_certain": False,
    "key": KEY,
    "expires": 1_700_000_000.0,
    "bytes": 1 << 40,
    "servers": 50,
}
PAIR: dict[str, Any] = {
    "name": "new.example.com:8080",
    "direction": "out",
    "peer": "old-node",
    "url": "https://new.example.com:8080",
    "created": 1_600_000_000.0,
    "expires": 1_700_000_000.0,
    "used": None,
    "bytes": 1 << 40,
    "servers": 50,
    "used_bytes": 0,
    "used_servers": 0,
}


def test_the_command_for_the_source_is_printed_whole(
    scripted: Scripted, wingsctl: Command
) -> None:
    scripted.answers("POST", "pairs", MADE, status=201)
    ran = wingsctl("pair", "--from", "old-node", "--days", "7", "--bytes", "1TiB")
    assert (ran.status, ran.err) == (0, "")
    (line,) = [line for line in ran.out.splitlines() if "--accept" in line]
    assert shlex.split(line) == ["wingsctl", "pair", "--accept", MADE["url"], KEY]
    assert "a guess" in ran.out
    body = {"name": "old-node", "days": 7, "bytes": 1 << 40, "servers": 100}
    assert scripted.asked == [("POST", "/v1/pairs", body)]


def test_the_source_accepts_a_pair(scripted: Scripted, wingsctl: Command) -> None:
    scripted.answers("POST", "pairs/accept", PAIR, status=201)
    ran = wingsctl("pair", "--accept", MADE["url"], KEY)
    assert ran.status == 0
    assert "new.example.com:8080, where it is called old-node" in ran.out
    body = {"url": MADE["url"], "key": KEY}
    assert scripted.asked == [("POST", "/v1/pairs/accept", body)]


def test_pairs_are_listed(scripted: Scripted, wingsctl: Command) -> None:
    into = PAIR | {"name": "b", "direction": "in", "url": "", "used_servers": 3}
    scripted.answers("GET", "pairs", {"pairs": [PAIR, into]})
    ran = wingsctl("pair", "list")
    assert "3 of 50" in ran.out
    assert "which calls this node old-node" in ran.out
    assert json.loads(wingsctl("pair", "list", "--json").out) == {"pairs": [PAIR, into]}


def test_no_pairs_are_listed(scripted: Scripted, wingsctl: Command) -> None:
    scripted.answers("GET", "pairs", {"pairs": []})
    assert wingsctl("pair", "list").out == "no pairs\n"


def test_a_pair_is_revoked(scripted: Scripted, wingsctl: Command) -> None:
    scripted.answers("DELETE", "pairs/new.example.com%3A8080?direction=out", b"", status=204)
    ran = wingsctl("pair", "revoke", "new.example.com:8080", "--direction", "out")
    assert (ran.status, ran.out) == (0, "new.example.com:8080: revoked\n")


@pytest.mark.parametrize("size", ["", "0", "-5GiB", "5QiB", "1e999", "nan"])
def test_a_size_that_is_none_is_refused(size: str, wingsctl: Command) -> None:
    assert wingsctl("pair", "--bytes", size).status == 2


def test_maintenance_is_begun_and_shown(scripted: Scripted, wingsctl: Command) -> None:
    scripted.answers("PUT", "maintenance", b"", status=204)
    scripted.answers("GET", "maintenance", {"since": 1_700_000_000.0, "why": "new disks"})
    ran = wingsctl("maintenance", "on", "--why", "new disks")
    assert ran.status == 0
    assert "new disks" in ran.out
    assert scripted.asked[0] == ("PUT", "/v1/maintenance", {"why": "new disks"})


def test_maintenance_ends(scripted: Scripted, wingsctl: Command) -> None:
    scripted.answers("DELETE", "maintenance", b"", status=204)
    scripted.answers("GET", "maintenance", {"since": None, "why": ""})
    assert wingsctl("maintenance", "off").out == "this node takes servers\n"
