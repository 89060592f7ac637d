"""Pools of threads for blocking functions, with their results as Deferreds."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

__all__ = ["Thread", "Workers", "relayed"]

#: The I/O class in which a thread's requests wait until no other thread has any, linux/ioprio.h.
IDLE = 3
_CLASS_SHIFT = 13
#: "Who": a thread, of which 0 is the one that calls.
_PROCESS, _CALLER = 1, 0
#: The numbers of ioprio_set(2) and ioprio_get(2), by the names of architectures in uname(2).
_NUMBERS = {
    "x86_64": (251, 252),
    "aarch64": (30, 31),
    "riscv64": (30, 31),
    "loongarch64": (30, 31),
    "ppc64le": (273, 274),
    "s390x": (282, 283),
}


def make_idle() -> None:
    """Let the calling thread's reads and writes come after those of all others.

    Raises `OSError`, also on an architecture that is not known here. Which I/O schedulers heed the
    class is a matter of the kernel: BFQ does, and mq-deadline as far as it has priorities.
    """
    _call(0, IDLE << _CLASS_SHIFT)


def io_class() -> int:
    """Return the I/O class of the calling thread, 0 where none was set. Raises `OSError`."""
    return _call(1) >> _CLASS_SHIFT


def _call(which: int, *priority: int) -> int:
    numbers = _NUMBERS.get(os.uname().machine)
    if numbers is None:
        raise OSError("the system call is not known on this architecture")
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (numbers[which], _PROCESS, _CALLER, *priority)
    result: int = libc.syscall(*(ctypes.c_long(each) for each in arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


#: The file for a thread's name in `top -H` and `ps -L`; the kernel keeps 15 bytes.
_COMM = Path("/proc/thread-self/comm")


class Thread(threading.Thread):
    """A daemon thread with its name known to the kernel, and with the nice value `nice`.

    With `idle_io` its reads and writes come after those of all others, where the kernel can do so.
    Threads that it starts inherit both. A higher nice value of the daemon is kept, as an
    unprivileged process may not lower it.
    """

    def __init__(
        self, target: Callable[[], object], name: str, *, nice: int = 0, idle_io: bool = False
    ) -> None:
        super().__init__(target=target, name=name, daemon=True)
        self._nice = nice
        self._idle_io = idle_io

    def run(self) -> None:
        """Set name and priorities, then call the target."""
        # All are optional: there may be no /proc, or a sandbox forbids the call.
        with suppress(OSError):
            _set_name(self.name)
        with suppress(OSError):
            _set_nice(self._nice)
        if self._idle_io:
            with suppress(OSError):
                make_idle()
        super().run()


def _set_name(name: str) -> None:
    if sys.version_info < (3, 14):  # which does so itself
        _COMM.write_text(name)


def _set_nice(nice: int) -> None:
    # On Linux each thread has a nice value of its own, setpriority(2).
    thread = threading.get_native_id()
    if nice > os.getpriority(os.PRIO_PROCESS, thread):
        os.setpriority(os.PRIO_PROCESS, thread, nice)


P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """A pool of threads for one kind of blocking work, all with the nice value `nice`.

    With `idle_io` their reads and writes come after those of all others.

    A thread stays in its pool, so other work keeps its own priority. `when_idle` is called
    on the reactor when no work is left.
    """

    def __init__(
        self,
        reactor: IReactorFromThreads,
        name: str,
        threads: int,
        *,
        nice: int = 0,
        idle_io: bool = False,
        when_idle: Callable[[], object] | None = None,
    ) -> None:
        self._reactor = reactor
        self._when_idle = when_idle
        self._unfinished = 0
        self._pool = ThreadPool(0, threads, name)

        def thread(*, target: Callable[[], object], name: str) -> Thread:
            # A daemon thread: one that hangs (an engine or a disk that does not answer) must not
            # keep the process from ending. Twisted's name for it is too long for the kernel.
            return Thread(target, f"wingsd-{self._pool.name}", nice=nice, idle_io=idle_io)

        self._pool.threadFactory = thread  # type: ignore[assignment]

    def start(self) -> None:
        """Start the pool."""
        self._pool.start()

    def stop(self) -> None:
        """Stop the pool. A thread that is still busy ends after its work; it is not waited for."""
        if self._pool.working:
            # It waits for all of them, so not on the reactor.
            Thread(self._pool.stop, "wingsd-stop").start()
        else:
            self._pool.stop()

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Call `work` in a thread of this pool; return its result."""
        self._unfinished += 1
        result = deferToThreadPool(self._reactor, self._pool, work, *args, **kwargs)
        return result.addBoth(self._finished)

    def _finished(self, result: T) -> T:
        self._unfinished -= 1
        if self._unfinished == 0 and self._when_idle is not None:
            self._when_idle()
        return result


def relayed(reactor: IReactorFromThreads, function: Callable[P, object]) -> Callable[P, None]:
    """Return a function for any thread that calls `function` on the reactor."""

    def relay(*args: P.args, **kwargs: P.kwargs) -> None:
        reactor.callFromThread(function, *args, **kwargs)

    return relay
