"""What systemd and a service say to each other. Without systemd, all of it does nothing.

These protocols are small and promised to stay, so they are spoken here. A library for them that
is kept, python3-systemd, is C upon libsystemd: it would need a compiler wherever wingsd is not
installed as a Debian package, and knows no more of them.
"""

from wingsd.systemd.journald import Journald, is_journal
from wingsd.systemd.notify import Notifier, watchdog_period
from wingsd.systemd.observer import JournalObserver
from wingsd.systemd.sockets import passed_endpoint
from wingsd.systemd.watchdog import Watchdog

__all__ = [
    "JournalObserver",
    "Journald",
    "Notifier",
    "Watchdog",
    "is_journal",
    "passed_endpoint",
    "watchdog_period",
]
