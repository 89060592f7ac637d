"""A crash in the activity log of each family."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.activity.conftest import UUID
from wingsd.activity import CrashActivity
from wingsd.events import CRASHED, STATUS, Event, EventBus

RESTARTED = {"exit_code": 3, "out_of_memory": True, "restarted": True, "lines": ["a", "b"]}
TOO_SOON = RESTARTED | {"restarted": False}
PELICAN = (
    "server:crashed",
    {"exit_code": 3, "oomkilled": True, "logs": ["a", "b"]},
    "127.0.0.1",
)
CALAGOPUS = ("server:crash.detected", {"exit_code": 3, "oom_killed": True}, None)


class Recorded:
    def __init__(self) -> None:
        self.entries: list[tuple[str, Mapping[str, object], str | None]] = []

    def record(
        self,
        server: str,
        event: str,
        metadata: Mapping[str, object],
        user: str | None = None,
        ip: str | None = None,
        at: float | None = None,
    ) -> None:
        assert (server, user, at) == (UUID, None, None)
        self.entries.append((event, metadata, ip))


@pytest.mark.parametrize(
    ("family", "entries"),
    [("pterodactyl", []), ("pelican", [PELICAN]), ("calagopus", [CALAGOPUS, CALAGOPUS])],
)
def test_each_family_records_what_its_node_does(family: str, entries: list[Any]) -> None:
    recorded, bus = Recorded(), EventBus()
    CrashActivity(family, recorded, bus)
    bus.publish(Event(UUID, STATUS, ("offline",)))
    for crash in (RESTARTED, TOO_SOON):
        bus.publish(Event(UUID, CRASHED, (json.dumps(crash),)))
    assert recorded.entries == entries
