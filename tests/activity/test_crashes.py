"""A crash in the activity log of each family."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.activity.conftest import UUID
from tests.support.recording_observer import RecordedActivity
from wingsd.activity import record_crashes
from wingsd.events import CRASHED, STATUS, Event, EventBus

RESTARTED = {"exit_code": 3, "out_of_memory": True, "restarted": True, "lines": ["a", "b"]}
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
