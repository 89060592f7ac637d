"""The entries of the activity log: what is taken, what is merged, and their form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.activity.conftest import USER, UUID
from tests.support.recording_observer import RecordedActivity
from tests.support.state import is_activity
from wingsd.activity import (
    CALL_MAX,
    METADATA_MAX,
    MetadataTooLarge,
    merge,
    metadata_text,
    record_crashes,
)
from wingsd.events import CRASHED, EXPLAINED, STATUS, Event, EventBus
from wingsd.statedb import ActivityEntry

B = "11111111-6e2b-4c43-9d57-0c4c5e1c7f10"
WRITE = "server:sftp.write"
MINUTE = 1_700_000_040  # a whole minute


def row(metadata: Any, event: str = WRITE, **changes: Any) -> ActivityEntry:
    usual: dict[str, Any] = {"server": UUID, "user": USER, "ip": "192.0.2.1", "at": MINUTE}
    return ActivityEntry(event=event, metadata=json.dumps(metadata), **usual | changes)


def files(*rows: ActivityEntry, most: int = 100) -> list[Any]:
    entries, taken = merge(rows, most)
    assert taken == len(rows)
    assert all(map(is_activity, entries))
    return [entry["metadata"].get("files") for entry in entries]


def test_metadata_is_bounded_and_unicode() -> None:
    assert json.loads(metadata_text({"command": "say é\ud800\x00"})) == {"command": "say é?\x00"}
    rest = METADATA_MAX - len('{"command":""}')
    assert len(metadata_text({"command": "x" * rest})) == METADATA_MAX
    with pytest.raises(MetadataTooLarge, match="65,537 bytes"):
        metadata_text({"command": "x" * (rest + 1)})


def test_the_form_is_that_of_wings() -> None:
    (entry,), _ = merge([row({"command": "x"}, "server:console.command", at=MINUTE + 1.9)], 100)
    assert entry == {
        "user": USER,
        "server": UUID,
        "event": "server:console.command",
        "metadata": {"command": "x"},
        "ip": "192.0.2.1",
        "timestamp": "2023-11-14T22:14:01Z",
    }


def test_files_of_a_minute_are_one_entry() -> None:
    rows = [row({"files": ["/a"]}), row({}, "server:power.stop"), row({"files": ["/b", "/a"]})]
    entries, _ = merge([*rows, row({"files": ["/c"]}, at=MINUTE + 59.9)], 100)
    assert [entry["event"] for entry in entries] == [WRITE, "server:power.stop"]
    assert entries[0]["metadata"] == {"files": ["/a", "/b", "/a", "/c"]}
    assert entries[0]["timestamp"] == "2023-11-14T22:14:00Z"


@pytest.mark.parametrize(
    "changes",
    [{"user": None}, {"server": B}, {"ip": None}, {"event": "server:sftp.delete"}, {"at": 0.0}],
)
def test_files_of_another_user_server_address_event_or_minute_stay_apart(
    changes: dict[str, Any],
) -> None:
    rows = row({"files": ["/a"]}), row({"files": ["/b"]}, **changes), row({"files": ["/c"]})
    assert files(*rows) == [["/a", "/c"], ["/b"]]


def test_files_of_other_directories_stay_apart() -> None:
    rows = [row({"files": ["a"], "directory": f"/{number % 2}"}) for number in range(4)]
    assert files(*rows) == [["a", "a"], ["a", "a"]]


def test_a_rename_loses_neither_from_nor_to() -> None:
    one, two = {"from": "/a", "to": "/b"}, {"from": "/b", "to": "/c"}
    rename = "server:sftp.rename"
    assert files(row({"files": [one]}, rename), row({"files": [two]}, rename)) == [[one, two]]
    pelican = [row(one, rename), row(two, rename)]
    assert [entry["metadata"] for entry in merge(pelican, 100)[0]] == [one, two]


def test_a_call_has_so_many_entries_and_all_rows_that_are_in_them() -> None:
    rows = [row({"files": [number]}) for number in range(300)]
    rows[100] = row({}, "server:power.kill")
    assert files(*rows, most=2) == [[*range(100), *range(101, 300)], None]
    entries, taken = merge(rows, 1)
    assert (len(entries), taken) == (1, 100)


def test_merged_metadata_and_a_call_are_bounded() -> None:
    rows = [row({"files": ["x" * (METADATA_MAX // 2)]}) for _ in range(100)]
    entries, taken = merge(rows, 100)
    assert len(entries) == taken, "two of them are too long for one"
    assert CALL_MAX - METADATA_MAX < len(json.dumps(entries)) < CALL_MAX + METADATA_MAX


# A crash in the activity log of each family


RESTARTED = {
    "exit_code": 3,
    "out_of_memory": True,
    "reason": "",
    "restarted": True,
    "lines": ["a", "b"],
}
TOO_SOON = RESTARTED | {"restarted": False}
PELICAN = (
    "server:crashed",
    {"exit_code": 3, "oomkilled": True, "logs": ["a", "b"]},
    None,
    "127.0.0.1",
)
CALAGOPUS = ("server:crash.detected", {"exit_code": 3, "oom_killed": True}, None, None)


@pytest.mark.parametrize(
    ("family", "entries"),
    [("pterodactyl", []), ("pelican", [PELICAN]), ("calagopus", [CALAGOPUS, CALAGOPUS])],
)
def test_each_family_records_what_its_node_does(family: str, entries: list[Any]) -> None:
    recorded, bus = RecordedActivity(UUID), EventBus()
    record_crashes(family, recorded, bus)
    bus.publish(Event(UUID, STATUS, ("offline",)))
    for crash in (RESTARTED, TOO_SOON):
        bus.publish(Event(UUID, CRASHED, (json.dumps(crash),)))
    assert recorded.entries == entries
    assert recorded.times == [None] * len(entries)


@pytest.mark.parametrize(
    ("family", "crash", "address"),
    [
        ("pterodactyl", "", None),
        ("pelican", "server:crashed", "127.0.0.1"),
        ("calagopus", "server:crash.detected", None),
    ],
)
def test_the_sentences_about_what_a_server_lacked_are_entries(
    family: str, crash: str, address: str | None
) -> None:
    recorded, bus = RecordedActivity(UUID), EventBus()
    record_crashes(family, recorded, bus)
    bus.publish(Event(UUID, EXPLAINED, ("cpu.throttled", "It was slow.")))
    bus.publish(Event(UUID, CRASHED, (json.dumps(RESTARTED | {"reason": "It was killed."}),)))
    if not crash:
        assert recorded.entries == []
        return
    throttled, killed = recorded.entries
    assert throttled == ("server:cpu.throttled", {"reason": "It was slow."}, None, address)
    assert (killed[0], killed[1]["reason"]) == (crash, "It was killed.")
