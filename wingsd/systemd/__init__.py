"""The interface to systemd: notifications, the journal, passed sockets. A no-op without systemd.

These protocols are small and promised to stay, so they are spoken here. A library for them that
is kept, python3-systemd, is C upon libsystemd: it would need a compiler wherever wingsd is not
installed as a Debian package, and knows no more of them.
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
