"""The log in the native protocol of systemd-journald.

Fields are lines `NAME=value`; a value with a line break is preceded by its length instead.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

from twisted.logger import ILogObserver, LogEvent, LogLevel, eventAsText
from zope.interface import implementer

_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
#: Bytes of a field name at most.
_MAX_NAME = 64


def own_field(key: str) -> str | None:
    """Return the name of wingsd's own field for `key`, such as WINGSD_SERVER for `server`.

    None when that is not a valid name.
    """
    name = f"WINGSD_{key.upper()}"
    return name if _NAME.fullmatch(name) and len(name) <= _MAX_NAME else None


def entry(fields: Mapping[str, str]) -> bytes:
    """Return the entry with these fields."""
    return b"".join(_field(name.encode(), _text(value)) for name, value in fields.items())


def _text(value: str) -> bytes:
    # A file name may contain bytes that are not UTF-8, for which journalctl shows no text.
    return value.encode("utf-8", "backslashreplace")


def _field(name: bytes, value: bytes) -> bytes:
    if b"\n" not in value:
        return b"%s=%s\n" % (name, value)
    return b"%s\n%s%s\n" % (name, len(value).to_bytes(8, "little"), value)


SOCKET = "/run/systemd/journal/socket"
#: Seconds for a busy journald. After a timeout it is not waited for again: a flood of lines would
#: block the daemon for each of them.
_SEND_TIMEOUT = 1.0
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_TOO_LARGE = {errno.EMSGSIZE, errno.ENOBUFS}


def is_journal(fileno: int, environ: Mapping[str, str]) -> bool:
    """Return whether `fileno` is connected to the journal, by JOURNAL_STREAM (systemd.exec(5)).

    The variable alone is not sufficient: it may be inherited with the output redirected.
    """
    try:
        status = os.fstat(fileno)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class Journald:
    """The socket of journald at `address`. `lost` counts entries that it did not accept."""

    def __init__(self, address: str = SOCKET) -> None:
        self.lost = 0
        self._address = address
        # Not connected: journald may be restarted.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def send(self, entry: bytes) -> bool:
        """Send an entry; return whether journald accepted it."""
        self._socket.settimeout(0.0 if self.lost else _SEND_TIMEOUT)
        try:
            try:
                self._socket.sendto(entry, self._address)
            except OSError as error:
                if error.errno not in _TOO_LARGE:
                    raise
                self._send_large(entry)
        except OSError:
            self.lost += 1
            return False
        return True

    def _send_large(self, entry: bytes) -> None:
        """Send the entry as a sealed file in memory."""
        with open(
            os.memfd_create("wingsd-journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "wb"
        ) as file:
            file.write(entry)
            file.flush()
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()]))
            self._socket.sendmsg([], [rights], 0, self._address)


# As syslog(3) numbers them.
_PRIORITIES = {
    LogLevel.debug: 7,
    LogLevel.info: 6,
    LogLevel.warn: 4,
    LogLevel.error: 3,
    LogLevel.critical: 2,
}
_IDENTIFIER = {"SYSLOG_IDENTIFIER": "wingsd"}
#: Modules on the stack between the origin of an event and here.
_LOGGING = (
    "twisted.logger.",
    "twisted.python.log",
    "wingsd.app.logging",
    "wingsd.systemd.journald",
)
#: Replays events from before the start of logging: their origin is not on the stack.
_REPLAY = "twisted.application.app"


@implementer(ILogObserver)
class JournalObserver:
    """Sends each event to `journald`, the system's own by default.

    The keys of wingsd's own events are fields: `server` is WINGSD_SERVER.
    """

    def __init__(self, journald: Journald | None = None) -> None:
        self._journald = journald or Journald()

    def __call__(self, event: LogEvent) -> None:
        """Send `event`; after lost entries also how many there were."""
        message = eventAsText(event, includeTimestamp=False, includeSystem=False).rstrip()
        if not message:
            return
        fields = {
            "MESSAGE": message,
            "PRIORITY": str(_PRIORITIES[event.get("log_level", LogLevel.info)]),
            **_IDENTIFIER,
            "WINGSD_NAMESPACE": event.get("log_namespace") or "",
            **dict(_place(sys._getframe(1))),
            **dict(_own_fields(event)),
        }
        if self._journald.send(entry(fields)):
            self._report_lost()

    def _report_lost(self) -> None:
        lost = self._journald.lost
        if not lost:
            return
        message = f"{lost} log entries were lost: the journal was busy"
        report = entry(
            {"MESSAGE": message, "PRIORITY": str(_PRIORITIES[LogLevel.warn]), **_IDENTIFIER}
        )
        if self._journald.send(report):
            self._journald.lost = 0


def _own_fields(event: LogEvent) -> Iterator[tuple[str, str]]:
    if not str(event.get("log_namespace")).startswith("wingsd."):
        return  # Twisted's events hold all kinds of objects.
    for key, value in event.items():
        if key.startswith("log_") or not isinstance(value, str | int | float | Exception):
            continue
        name = own_field(key)
        if name is not None:
            yield name, str(value)


def _place(frame: FrameType | None) -> Iterator[tuple[str, str]]:
    """Yield the fields for the origin of the event in the code."""
    while frame is not None and _module(frame).startswith(_LOGGING):
        frame = frame.f_back
    if frame is None or _module(frame) == _REPLAY:
        return
    code = frame.f_code
    yield "CODE_FILE", code.co_filename
    yield "CODE_LINE", str(frame.f_lineno)
    yield "CODE_FUNC", code.co_qualname


def _module(frame: FrameType) -> str:
    name: Any = frame.f_globals.get("__name__", "")
    return str(name)
