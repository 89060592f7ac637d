"""The interface to systemd: notifications, the journal, passed sockets. A no-op without systemd.

These protocols are small and stable. The maintained library, python3-systemd, is a C extension
on libsystemd: without a Debian package it would need a compiler.
"""

from wingsd.systemd.journald import Journald, JournalObserver, is_journal
from wingsd.systemd.sd_daemon import Notifier, Watchdog, passed_endpoint, watchdog_period

__all__ = [
    "JournalObserver",
    "Journald",
    "Notifier",
    "Watchdog",
    "is_journal",
    "passed_endpoint",
    "watchdog_period",
]
