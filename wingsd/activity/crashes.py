"""Crashes of servers in the activity log, in the form of each family's node.

Pelican's Wings records a crash after which the server is started again, Calagopus' every one, and
Pterodactyl's none.
"""

from __future__ import annotations

import json

from wingsd.activity.log import ActivityRecorder
from wingsd.config import CALAGOPUS, PELICAN
from wingsd.events import CRASHED, Event, EventBus

__all__ = ["CrashActivity"]

#: The address that Pelican's Wings gives for what the node does itself.
_LOCAL = "127.0.0.1"


class CrashActivity:
    """Records the crashes that are published on `bus`."""

    def __init__(self, family: str, recorder: ActivityRecorder, bus: EventBus) -> None:
        self._recorder = recorder
        if family == PELICAN:
            bus.subscribe_to_all(self._note_pelican)
        elif family == CALAGOPUS:
            bus.subscribe_to_all(self._note_calagopus)

    def _note_pelican(self, event: Event) -> None:
        if event.name != CRASHED:
            return
        crash = json.loads(event.args[0])
        if crash["restarted"]:
            metadata = {
                "exit_code": crash["exit_code"],
                "oomkilled": crash["out_of_memory"],
                "logs": crash["lines"],
            }
            self._recorder.record(event.server, "server:crashed", metadata, None, _LOCAL)

    def _note_calagopus(self, event: Event) -> None:
        if event.name == CRASHED:
            crash = json.loads(event.args[0])
            metadata = {"exit_code": crash["exit_code"], "oom_killed": crash["out_of_memory"]}
            self._recorder.record(event.server, "server:crash.detected", metadata)
