"""The log as entries of systemd-journald, with fields of their own.

Fields are lines `NAME=value`; a value with a line break is written by its length instead.
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

from wingsd.errors import WingsdError

__all__ = ["SOCKET", "JournalObserver", "Journald", "entry", "is_journal", "own_field"]

_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
#: The most bytes that the journal takes for a name.
_LONGEST = 64


def own_field(key: str) -> str | None:
    """Return the name of wingsd's own field for `key`, such as WINGSD_SERVER for `server`.

    None for what no field can be called.
    """
    name = f"WINGSD_{key.upper()}"
    return name if _NAME.fullmatch(name) and len(name) <= _LONGEST else None


def entry(fields: Mapping[str, str]) -> bytes:
    """Return the entry that has these fields."""
    return b"".join(_field(name.encode(), _text(value)) for name, value in fields.items())


def _text(value: str) -> bytes:
    # A name of a file may hold bytes that are no text; a journal shows no such entry to people.
    return value.encode("utf-8", "backslashreplace")


def _field(name: bytes, value: bytes) -> bytes:
    if b"\n" not in value:
        return b"%s=%s\n" % (name, value)
    return b"%s\n%s%s\n" % (name, len(value).to_bytes(8, "little"), value)


SOCKET = "/run/systemd/journal/socket"
#: Seconds for a journal that is busy. Once it was too busy, it is no longer waited for: a flood of
#: lines would stop the daemon for as long with each of them.
_PATIENCE = 1.0
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_TOO_LARGE = {errno.EMSGSIZE, errno.ENOBUFS}


def is_journal(fileno: int, environ: Mapping[str, str]) -> bool:
    """Return whether what is written to `fileno` goes to the journal.

    By JOURNAL_STREAM, systemd.exec(5). It alone does not tell: whoever starts another program
    with its output elsewhere may leave the variable as it is.
    """
    try:
        status = os.fstat(fileno)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class Journald:
    """journald's socket at `address`. What it does not take is lost; `lost` counts that."""

    def __init__(self, address: str = SOCKET) -> None:
        self.lost = 0
        self._address = address
        # Not connected: journald may be started anew.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def send(self, entry: bytes) -> bool:
        """Have an entry written; return whether journald took it."""
        self._socket.settimeout(0.0 if self.lost else _PATIENCE)
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
        """Hand over the entry as a file in memory that nobody can change any more."""
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
#: What lies on the stack between an event's place in the code and here.
_LOGGING = (
    "twisted.logger.",
    "twisted.python.log",
    "wingsd.app.logging",
    "wingsd.systemd.journald",
)
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
    error = event.get("error")
    if "code" not in event and isinstance(error, WingsdError):
        yield "WINGSD_CODE", error.code
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
