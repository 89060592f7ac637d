"""The points at which a daemon in this process dies, and what is meant by that.

A daemon's calls of the operating system, of its database, its engine and its connections are
points. At one of them it dies as by SIGKILL: that call is not made, and none after it is. Calls
are a daemon's by the context that `Life.run` sets; what it has begun in threads is, too.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import attrs
from twisted.internet.defer import Deferred

from wingsd.filesystem import syscalls

__all__ = ["KINDS", "Death", "Died", "Life", "current_life", "outside", "points_of_the_system"]

P = ParamSpec("P")
T = TypeVar("T")

#: Calls that change files.
CHANGES = (
    *("rename", "replace", "unlink", "remove", "rmdir", "mkdir", "link", "symlink"),
    *("truncate", "ftruncate", "write", "writev", "pwrite", "pwritev", "fsync", "fdatasync"),
    *("chmod", "fchmod", "chown", "fchown", "lchown", "utime", "posix_fallocate"),
    *("copy_file_range", "sendfile", "setxattr"),
)
#: Calls that read them: what changes files meanwhile is tried between these.
READS = ("open", "read", "pread", "readv", "preadv", "fstat", "stat", "lstat", "scandir")
#: Those that Python has no function for.
SYSTEM_CALLS = {"renameat2": "change", "syncfs": "change", "openat2": "read"}
#: The kinds of points.
KINDS = ("change", "read", "database", "engine", "received", "sent", "thread")
#: How many points are remembered.
SHOWN = 12


class Died(BaseException):
    """The daemon that makes this call has died. Nothing may catch it."""


@attrs.frozen
class Death:
    """A daemon dies at the point of a `kind` with that number."""

    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.kind} {self.number}"


class Life:
    """A daemon from its start to its death. `each` is called at each of its points.

    `died` is called when it dies, in any thread. `last` are the last points.
    """

    def __init__(
        self, name: str, died: Callable[[], object], each: Callable[[], object] = lambda: None
    ) -> None:
        self.name = name
        self.is_dead = False
        self.death: Death | None = None
        self.counts: Counter[str] = Counter()
        self.last: deque[str] = deque(maxlen=SHOWN)
        #: How many threads work for it, and how much it has given to threads that is not done.
        self.working = self.waiting = 0
        #: How often it was called.
        self.calls = 0
        self._died = died
        self._each = each
        #: What a dead daemon has begun, which must not be collected: what a coroutine does then
        #: would be another daemon's, by the context in which that happens.
        self._unfinished: list[object] = []
        self._lock = threading.Lock()

    def plan(self, death: Death | None) -> None:
        """Have it die at a point, counted from now on."""
        with self._lock:
            self.counts.clear()
            self.death = death

    def point(self, kind: str, what: str) -> None:
        """Come to a point. Raises `Died` where it dies there, or has died."""
        if not self.passes(kind, what):
            raise Died

    def passes(self, kind: str, what: str) -> bool:
        """Return whether it lives on at a point."""
        if self.is_dead:
            return False
        self.calls += 1
        self._each()
        with self._lock:
            if self.is_dead:
                return False
            self.counts[kind] += 1
            self.last.append(what)
            death = self.death
            if death is None or death.kind != kind or self.counts[kind] < death.number:
                return True
            self.is_dead = True
        self._died()
        return False

    def die(self) -> None:
        """Die now, at whatever point it is."""
        with self._lock:
            if self.is_dead:
                return
            self.is_dead = True
        self._died()

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Call a function of the daemon, unless it has died."""
        self.calls += 1
        if self.is_dead:
            self._unfinished.append((function, args, kwargs))
            return None
        before = _life.set(self)
        try:
            return function(*args, **kwargs)
        except Died:
            return None
        finally:
            _life.reset(before)

    def never(self) -> Deferred[Any]:
        """Return what a dead daemon waits for."""
        result: Deferred[Any] = Deferred()
        self._unfinished.append(result)
        return result

    def mourn(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> None:
        """Call a function of the daemon, also when it has died: then it has no effect."""
        before = _life.set(self)
        try:
            function(*args, **kwargs)
        except Died:
            pass
        finally:
            _life.reset(before)

    def work(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function of the daemon in a thread. Raises `Died`."""
        with self._lock:
            self.working += 1
        before = _life.set(self)
        try:
            self.point("thread", f"begin {_name(function)}")
            result = function(*args, **kwargs)
            self.point("thread", f"end {_name(function)}")
        finally:
            _life.reset(before)
            with self._lock:
                self.working -= 1
        return result


_life: ContextVar[Life | None] = ContextVar("life", default=None)


def current_life() -> Life | None:
    """Return whose call this is in."""
    return _life.get()


@contextmanager
def outside() -> Iterator[None]:
    """Make calls that are no daemon's."""
    before = _life.set(None)
    try:
        yield
    finally:
        _life.reset(before)


@contextmanager
def points_of_the_system() -> Iterator[None]:
    """Have the calls of the operating system be points."""
    places: Sequence[tuple[Any, str, str]] = (
        *((os, name, "change") for name in CHANGES),
        *((os, name, "read") for name in READS),
        *((syscalls, name, kind) for name, kind in SYSTEM_CALLS.items()),
    )
    before = [(place, name, getattr(place, name)) for place, name, _ in places]
    for place, name, kind in places:
        setattr(place, name, _counted(getattr(place, name), kind, name))
    users = _users_of_system_calls()
    try:
        for module, name in users:
            setattr(module, name, getattr(syscalls, name))
        yield
    finally:
        for place, name, function in before:
            setattr(place, name, function)
        for module, name in users:
            setattr(module, name, getattr(syscalls, name))


def _users_of_system_calls() -> list[tuple[Any, str]]:
    """Return the modules that have imported these functions by their names."""
    import sys  # noqa: PLC0415

    return [
        (module, name)
        for key, module in sys.modules.items()
        if key.startswith("wingsd.") and module is not syscalls
        for name in SYSTEM_CALLS
        if hasattr(module, name)
    ]


def _counted(function: Callable[..., Any], kind: str, name: str) -> Callable[..., Any]:
    @wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        life = _life.get()
        if life is not None:
            life.point(kind, name)
        return function(*args, **kwargs)

    return counted


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", type(function).__name__)
