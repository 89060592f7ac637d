"""Threads as the kernel sees them: the name that it shows, and how far they yield to others."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

__all__ = ["Thread"]

#: Where a thread writes its name for `top -H` and `ps -L`; the kernel keeps 15 bytes of it.
_COMM = Path("/proc/thread-self/comm")


class Thread(threading.Thread):
    """A daemon thread; the kernel knows it by its name and lets it run at the nice value `nice`.

    The threads that it starts inherit the nice value. It is never lowered, which an unprivileged
    process may not do: where the daemon has a higher one already, that stays.
    """

    def __init__(self, target: Callable[[], object], name: str, *, nice: int = 0) -> None:
        super().__init__(target=target, name=name, daemon=True)
        self._nice = nice

    def run(self) -> None:
        """Do what the thread is for."""
        # Neither is worth a failure where there is no /proc, or a sandbox forbids the call.
        with suppress(OSError):
            _show(self.name)
        with suppress(OSError):
            _yield_as(self._nice)
        super().run()


def _show(name: str) -> None:
    if sys.version_info < (3, 14):  # which does it by itself
        _COMM.write_text(name)


def _yield_as(nice: int) -> None:
    # On Linux each thread has a nice value of its own, setpriority(2).
    thread = threading.get_native_id()
    if nice > os.getpriority(os.PRIO_PROCESS, thread):
        os.setpriority(os.PRIO_PROCESS, thread, nice)
