"""The log: its destination, its level, and the escaping of text from outside.

twistd's options name the destination. By default it is standard output, or systemd's journal, in
the journal's own protocol, where standard output is connected to it.

Values in events may come from outside: headers, paths, errors of other programs.
`EscapingObserver` is the only place that escapes them, so that none can forge a line, and that
ends a line about an error with its code. Only tracebacks have several lines; each destination
marks all but the first.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LegacyLogObserverWrapper,
    LogEvent,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    eventAsText,
    formatEvent,
    textFileLogObserver,
)
from twisted.python.logfile import LogFile
from twisted.python.syslog import SyslogObserver
from zope.interface import implementer

from wingsd.errors import ConfigError, InvalidData, WingsdError
from wingsd.node.logs import file_log, journal_log
from wingsd.systemd.journald import JournalObserver, is_journal
from wingsd.threadio import relayed
from wingsd.util.text import escaped

_STDOUT = 1
#: Where twistd writes as a daemon, in its directory.
_LOG_FILE = "twistd.log"
#: The size at which a log's file is rotated, and how many old ones are kept.
_FILE_BYTES = 10 * 1024 * 1024
_OLD_FILES = 9
#: Lines of a traceback that are kept, at its beginning and at its end.
_TRACEBACK = 200
#: The keys by which observers make an event's text, also those of `twisted.python.log`.
_TEXT_KEYS = {"log_format", "log_flattened", "log_failure", "failure", "format"}


class LogOutput:
    """The log's level, info or `debug`, and its observer."""

    _log = Logger()

    def __init__(self, *, debug: bool) -> None:
        self._levels = LogLevelFilterPredicate()
        self._is_debug = False
        self.show_debug(debug)

    def show_debug(self, debug: bool) -> None:
        """Set the level to debug, or back to info."""
        if debug is self._is_debug:
            return
        level = LogLevel.debug if debug else LogLevel.info
        self._levels.setLogLevelForNamespace("", level)
        self._is_debug = debug
        self._log.info("the log shows the level {least} and above", least=level.name)

    def observer(
        self, twistd: Mapping[str, Any], reactor: IReactorFromThreads
    ) -> ILogObserver | None:
        """Return the observer for the options `twistd`; None if they name an observer."""
        destination = _destination(twistd, reactor)
        if destination is None:
            return None
        escaping = EscapingObserver(destination)
        observer: ILogObserver = FilteringLogObserver(escaping, [self._levels])
        return observer


def log_source(twistd: Mapping[str, Any]) -> Callable[[int], list[str]] | None:
    """Return what reads the log back that twistd's options name; None if it cannot be read.

    Called before twistd changes its directory.
    """
    name = twistd["logfile"]
    if twistd["logger"] or twistd["syslog"] or name == "-":
        return None
    if twistd["nodaemon"] and not name:
        return journal_log if is_journal(_STDOUT, os.environ) else None
    return partial(file_log, os.path.abspath(name or _LOG_FILE))


@implementer(ILogObserver)
class EscapingObserver:
    """Formats events, with each value `escaped`, for the observer `destination`.

    The code of an error that an event has is a field, and the end of its message.
    """

    def __init__(self, destination: ILogObserver) -> None:
        self._destination = destination

    def __call__(self, event: LogEvent) -> None:
        """Pass on a copy of `event` with its message, traceback and fields escaped."""
        fields = {key: _plain(value) for key, value in event.items() if key not in _TEXT_KEYS}
        if isinstance(fields.get("message"), tuple):
            del fields["message"]  # an event of `twisted.python.log`
        code = escaped(_code(event))
        text, *traceback = _texts(event)
        if code:
            fields["code"] = code
            text = f"{text} ({code})"
        text = "\n".join((text, *traceback))
        self._destination(fields | {"log_format": "{log_text}", "log_text": text})


def _code(event: LogEvent) -> str:
    """Return the code of the first error among an event's values, empty without one."""
    if isinstance(code := event.get("code"), str):
        return code
    coded = (WingsdError, ConfigError, InvalidData)
    return next((each.code for each in event.values() if isinstance(each, coded)), "")


def _plain(value: Any) -> Any:
    return escaped(str(value)) if isinstance(value, str | Exception) else value


def _texts(event: LogEvent) -> Iterator[str]:
    """Yield the message of an event, and its traceback where it has one."""
    failure = event.get("log_failure")
    if failure is None and event.get("isError") and "failure" in event:
        # An error logged by `twisted.python.log`: its text has the traceback in it.
        failure = event["failure"]
        yield escaped(str(event.get("why") or "Unhandled Error"))
    else:
        escaping = {key: _Escaped(value) for key, value in event.items() if key != "log_format"}
        yield formatEvent({**event, **escaping})
    if failure is not None:
        lines = eventAsText({"log_failure": failure}, True, False, False).strip("\n").split("\n")
        if len(lines) > 2 * _TRACEBACK:
            left_out = len(lines) - 2 * _TRACEBACK
            lines[_TRACEBACK:-_TRACEBACK] = [f"… {left_out} lines omitted …"]
        yield from map(escaped, lines)


class _Escaped:
    """A value of an event; whatever a format takes of it is escaped."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __format__(self, spec: str) -> str:
        return escaped(format(self._value, spec))

    def __str__(self) -> str:
        return escaped(str(self._value))

    def __repr__(self) -> str:
        return escaped(repr(self._value))

    def __getattr__(self, name: str) -> _Escaped:
        return _Escaped(getattr(self._value, name))

    def __getitem__(self, key: Any) -> _Escaped:
        return _Escaped(self._value[key])

    def __call__(self) -> _Escaped:
        return _Escaped(self._value())


def _destination(twistd: Mapping[str, Any], reactor: IReactorFromThreads) -> ILogObserver | None:
    name = twistd["logfile"]
    if twistd["logger"] or (name == "-" and not twistd["nodaemon"]):
        return None  # twistd refuses the latter
    if twistd["syslog"]:
        legacy: Any = SyslogObserver(twistd["prefix"]).emit
        return LegacyLogObserverWrapper(legacy)
    if name == "-" or (twistd["nodaemon"] and not name):
        if not name and is_journal(_STDOUT, os.environ):
            return JournalObserver()
        return textFileLogObserver(sys.stdout)
    file = LogFile.fromFullPath(
        name or _LOG_FILE, rotateLength=_FILE_BYTES, maxRotatedFiles=_OLD_FILES
    )
    signal.signal(signal.SIGUSR1, relayed(reactor, lambda *_: _begin_anew(file)))
    return textFileLogObserver(file)


def _begin_anew(file: LogFile) -> None:
    """Rotate the log's file, or open it again when a program such as logrotate has moved it."""
    if os.path.exists(file.path):
        file.rotate()
    else:
        file.reopen()
