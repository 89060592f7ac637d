"""Log events as entries of the system's journal, with what they are about in fields."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

from twisted.logger import ILogObserver, LogEvent, LogLevel, eventAsText
from zope.interface import implementer

from wingsd.systemd.entries import entry, own_field
from wingsd.systemd.journald import Journald

__all__ = ["JournalObserver"]

# As syslog(3) numbers them.
_PRIORITIES = {
    LogLevel.debug: 7,
    LogLevel.info: 6,
    LogLevel.warn: 4,
    LogLevel.error: 3,
    LogLevel.critical: 2,
}
_IDENTIFIER = {"SYSLOG_IDENTIFIER": "wingsd"}
#: What lies on the stack between an event's place in the code and here.
_LOGGING = ("twisted.logger.", "twisted.python.log", "wingsd.logs", "wingsd.systemd.observer")
#: Hands out what was logged before the log had begun: the place is no longer on the stack.
_LATE = "twisted.application.app"


@implementer(ILogObserver)
class JournalObserver:
    """Sends each event to `journald`, the system's own by default.

    The keys of wingsd's own events are fields: `server` is WINGSD_SERVER.
    """

    def __init__(self, journald: Journald | None = None) -> None:
        self._journald = journald or Journald()

    def __call__(self, event: LogEvent) -> None:
        """Send `event`, and once the journal takes entries again, how many it did not take."""
        message = eventAsText(event, includeTimestamp=False, includeSystem=False).rstrip()
        if not message:
            return
        fields = {
            "MESSAGE": message,
            "PRIORITY": str(_PRIORITIES[event.get("log_level", LogLevel.info)]),
            **_IDENTIFIER,
            "WINGSD_NAMESPACE": event.get("log_namespace") or "",
            **dict(_place(sys._getframe(1))),
            **dict(_about(event)),
        }
        if self._journald.send(entry(fields)):
            self._tell_of_lost()

    def _tell_of_lost(self) -> None:
        lost = self._journald.lost
        if not lost:
            return
        message = f"{lost} lines of this log were lost: the journal was too busy to take them"
        told = entry(
            {"MESSAGE": message, "PRIORITY": str(_PRIORITIES[LogLevel.warn]), **_IDENTIFIER}
        )
        if self._journald.send(told):
            self._journald.lost = 0


def _about(event: LogEvent) -> Iterator[tuple[str, str]]:
    if not str(event.get("log_namespace")).startswith("wingsd."):
        return  # Twisted's events hold all kinds of objects.
    for key, value in event.items():
        if key.startswith("log_") or not isinstance(value, str | int | float | Exception):
            continue
        name = own_field(key)
        if name is not None:
            yield name, str(value)


def _place(frame: FrameType | None) -> Iterator[tuple[str, str]]:
    """Yield where in the code the event is from."""
    while frame is not None and _module(frame).startswith(_LOGGING):
        frame = frame.f_back
    if frame is None or _module(frame) == _LATE:
        return
    code = frame.f_code
    yield "CODE_FILE", code.co_filename
    yield "CODE_LINE", str(frame.f_lineno)
    yield "CODE_FUNC", code.co_qualname


def _module(frame: FrameType) -> str:
    name: Any = frame.f_globals.get("__name__", "")
    return str(name)
