"""sd-daemon(3): notifications to systemd, its watchdog, and the socket that it passes."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from itertools import count
from threading import Event
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from wingsd.errors import ConfigError
from wingsd.threadio.workers import Thread

__all__ = ["STUCK_AFTER", "Notifier", "Watchdog", "passed_endpoint", "watchdog_period"]

#: Seconds for a manager that is busy.
_PATIENCE = 1.0
# Seconds: how long a start may go on from each request for more time, how often that is asked for,
# and until when. A disk that hangs for ever must not keep the manager from seeing it.
_EXTENDED_BY = 60.0
_EXTENDED_EVERY = 20.0
_EXTENDED_FOR = 3600.0
_MICROSECONDS = 1_000_000


class Notifier:
    """The way to the service manager, a datagram socket at `address`; empty: there is none.

    Nothing is raised: a manager that cannot be told is no reason to serve no more. What the last
    attempt failed with is kept in `error`.
    """

    def __init__(self, address: str = "") -> None:
        self.error: OSError | None = None
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Notifier:
        """Take the address out of `environ`: what this process starts shall not speak for it."""
        return cls(environ.pop("NOTIFY_SOCKET", ""))

    @property
    def is_heard(self) -> bool:
        """Whether there is a manager that listens."""
        return bool(self._address)

    def ready(self, status: str) -> None:
        """It serves: for the first time, or again after `reloading`."""
        self._send("READY=1", _status(status))

    def status(self, text: str) -> None:
        """Show `text` where people look how the service is, on one line."""
        self._send(_status(text))

    def reloading(self) -> None:
        """It reads its configuration anew; `ready` is to follow (Type=notify-reload)."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now}")

    def stopping(self, status: str, within: float) -> None:
        """It is ending, which takes up to `within` seconds."""
        self._send("STOPPING=1", _status(status), _extended(within))

    def alive(self) -> None:
        """Keep the watchdog from biting."""
        self._send("WATCHDOG=1")

    @contextmanager
    def extending(self) -> Iterator[None]:
        """Ask for more time again and again while the block runs, for an hour at most."""
        over = Event()
        asking = Thread(lambda: self._extend_until(over), "wingsd-notify")
        if self.is_heard:
            asking.start()
        try:
            yield
        finally:
            over.set()
            if self.is_heard:
                asking.join()

    def _extend_until(self, over: Event) -> None:
        end = time.monotonic() + _EXTENDED_FOR
        while time.monotonic() < end:
            self._send(_extended(_EXTENDED_BY))
            if over.wait(_EXTENDED_EVERY):
                return

    def _send(self, *assignments: str) -> None:
        if not self.is_heard:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as way:
                way.settimeout(_PATIENCE)
                way.sendto("\n".join(assignments).encode(), self._address)
        except OSError as error:
            self.error = error
        else:
            self.error = None


def watchdog_period(environ: MutableMapping[str, str]) -> float | None:
    """Return the seconds in which the manager wants to hear `alive`, None when it does not.

    As sd_watchdog_enabled(3) reads `environ`, which it is taken out of.
    """
    period, pid = (environ.pop(f"WATCHDOG_{name}", "") for name in ("USEC", "PID"))
    if not (period.isascii() and period.isdigit() and int(period)):
        return None
    return int(period) / _MICROSECONDS if pid in ("", str(os.getpid())) else None


def _status(text: str) -> str:
    return f"STATUS={' '.join(text.split())}"


def _extended(seconds: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={round(seconds * _MICROSECONDS)}"


#: Seconds without an answer after which what is waited for is taken to be stuck. A disk that is
#: written to as fast as it can may take minutes for a flush, and killing the daemon helps nobody.
STUCK_AFTER = 300.0


class Watchdog:
    """Tells `notifier` twice in each period of `period` seconds that the daemon lives.

    That the reactor runs shows in its being told at all. `pulse` asks for a sign of the thread
    that writes the journal of transfers, which each step of each transfer waits for; when none has
    come for `STUCK_AFTER`, nothing is told, and the manager ends the daemon.
    """

    _log = Logger()

    def __init__(
        self,
        notifier: Notifier,
        period: float,
        pulse: Callable[[], Deferred[Any]],
        reactor: Any,
    ) -> None:
        self._notifier = notifier
        self._period = period
        self._pulse = pulse
        self._reactor = reactor
        self._asked: float | None = None
        self._is_stuck = False
        self._beating = LoopingCall(self._beat)
        self._beating.clock = reactor

    def start(self) -> None:
        """Begin; the first sign is given at once."""
        beating: Deferred[Any] = self._beating.start(self._period / 2)
        beating.addErrback(lambda failure: self._log.failure("the watchdog failed", failure))

    def stop(self) -> None:
        """Give no more signs."""
        if self._beating.running:
            self._beating.stop()

    def _beat(self) -> None:
        now = self._reactor.seconds()
        if self._asked is None:
            self._asked = now
            self._pulse().addBoth(self._answered)
        waits = 0.0 if self._asked is None else now - self._asked
        if waits < STUCK_AFTER:
            self._notifier.alive()
        elif not self._is_stuck:
            self._is_stuck = True
            self._log.critical(
                "nothing could be written to the journal of transfers for {seconds:.0f} s: see "
                "whether the disk of system.root_directory answers; the watchdog ends this daemon",
                seconds=waits,
            )

    def _answered(self, _: object) -> None:
        self._asked = None
        self._is_stuck = False


_TCP = {socket.AF_INET: "INET", socket.AF_INET6: "INET6"}


@attrs.frozen
class _Passed:
    """A socket by its place among those passed; `domain` is empty when nobody listens on TCP."""

    index: int
    domain: str

    @property
    def endpoint(self) -> str:
        return f"systemd:domain={self.domain}:index={self.index}"


def passed_endpoint(reactor: Any) -> str | None:
    """Return the endpoint of the TCP socket that was passed, None without one.

    Sockets of other kinds are for other purposes. Raises `ConfigError` where several would do.
    """
    found = [passed for passed in _passed(reactor) if passed.domain]
    if len(found) > 1:
        ways = " or ".join(f"--endpoint {passed.endpoint}" for passed in found)
        raise ConfigError(
            f"systemd passes {len(found)} sockets that this node could listen on: leave one in "
            f"the socket unit (ListenStream=), or choose by {ways}"
        )
    return found[0].endpoint if found else None


def _passed(reactor: Any) -> Iterator[_Passed]:
    for index in count():
        try:
            # Twisted has taken the variables out of the environment, and is the one to ask.
            endpoint: Any = serverFromString(reactor, f"systemd:domain=INET:index={index}")
        except LookupError:
            return
        yield _Passed(index, _domain(endpoint.fileno))


def _domain(fileno: int) -> str:
    try:
        with socket.socket(fileno=os.dup(fileno)) as passed:
            listens = passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            return _TCP.get(passed.family, "") if listens else ""
    except OSError:  # no socket
        return ""
