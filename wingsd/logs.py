"""Where the log goes, and from which level on.

As twistd's options say. Without any, lines go to standard output, and where that is the system's
journal, to the journal in its own form.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LegacyLogObserverWrapper,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    textFileLogObserver,
)
from twisted.python.logfile import LogFile
from twisted.python.syslog import SyslogObserver

from wingsd.bridge import relayed
from wingsd.systemd import JournalObserver, is_journal

__all__ = ["Logs"]

_STDOUT = 1


class Logs:
    """What is logged: from the level info on, or `debug` too."""

    _log = Logger()

    def __init__(self, *, debug: bool) -> None:
        self._levels = LogLevelFilterPredicate()
        self._is_debug = False
        self.show_debug(debug)

    def show_debug(self, debug: bool) -> None:
        """Log the level debug as well, or no longer."""
        if debug is self._is_debug:
            return
        level = LogLevel.debug if debug else LogLevel.info
        self._levels.setLogLevelForNamespace("", level)
        self._is_debug = debug
        self._log.info("the log shows the level {least} and above", least=level.name)

    def observer(self, twistd: Mapping[str, Any], reactor: Any) -> ILogObserver | None:
        """Return what twistd is to log by; None where its options name something of their own.

        `twistd` are its options.
        """
        destination = _destination(twistd, reactor)
        if destination is None:
            return None
        observer: ILogObserver = FilteringLogObserver(destination, [self._levels])
        return observer


def _destination(twistd: Mapping[str, Any], reactor: Any) -> ILogObserver | None:
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
    file = LogFile.fromFullPath(name or "twistd.log")
    signal.signal(signal.SIGUSR1, relayed(reactor, lambda *_: file.rotate()))
    return textFileLogObserver(file)
