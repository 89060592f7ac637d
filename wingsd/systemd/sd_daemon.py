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

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from wingsd.errors import ConfigError
from wingsd.threadio import Thread
from wingsd.util.reactor import Periodic, Reactor

#: Seconds for a busy manager to receive a notification.
_SEND_TIMEOUT = 1.0
# Seconds: the extension of the start timeout in each request, the interval of requests, and their
# end, so that the manager notices a disk that hangs.
_EXTENDED_BY = 60.0
_EXTENDED_EVERY = 20.0
_EXTENDED_FOR = 3600.0
_MICROSECONDS = 1_000_000


class Notifier:
    """Notifies the service manager, at the datagram socket `address`; empty: there is none.

    Does not raise: the daemon works without the manager. `error` is that of the last attempt.
    """

    def __init__(self, address: str = "") -> None:
        self.error: OSError | None = None
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Notifier:
        """Take the address out of `environ`, so that child processes do not use it."""
        return cls(environ.pop("NOTIFY_SOCKET", ""))

    @property
    def is_enabled(self) -> bool:
        """True if there is a manager."""
        return bool(self._address)

    def ready(self, status: str) -> None:
        """Report that the service is ready, at the start or after `reloading`."""
        self._send("READY=1", _status(status))

    def status(self, text: str) -> None:
        """Set the status line of the service."""
        self._send(_status(text))

    def reloading(self) -> None:
        """Report a reload, to be followed by `ready` (Type=notify-reload)."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now}")

    def stopping(self, status: str, within: float) -> None:
        """Report that the service is stopping, within `within` seconds."""
        self._send("STOPPING=1", _status(status), _extended(within))

    def alive(self) -> None:
        """Reset the watchdog's timer."""
        self._send("WATCHDOG=1")

    @contextmanager
    def extending(self) -> Iterator[None]:
        """Extend the start timeout while the block runs, for an hour at most."""
        over = Event()
        requests = Thread(lambda: self._extend_until(over), "wingsd-notify")
        if self.is_enabled:
            requests.start()
        try:
            yield
        finally:
            over.set()
            if self.is_enabled:
                requests.join()

    def _extend_until(self, over: Event) -> None:
        end = time.monotonic() + _EXTENDED_FOR
        while time.monotonic() < end:
            self._send(_extended(_EXTENDED_BY))
            if over.wait(_EXTENDED_EVERY):
                return

    def _send(self, *assignments: str) -> None:
        if not self.is_enabled:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as way:
                way.settimeout(_SEND_TIMEOUT)
                way.sendto("\n".join(assignments).encode(), self._address)
        except OSError as error:
            self.error = error
        else:
            self.error = None


def watchdog_period(environ: MutableMapping[str, str]) -> float | None:
    """Return the seconds of the manager's watchdog, None without one; see sd_watchdog_enabled(3).

    The variables are removed from `environ`.
    """
    period, pid = (environ.pop(f"WATCHDOG_{name}", "") for name in ("USEC", "PID"))
    if not (period.isascii() and period.isdigit() and int(period)):
        return None
    return int(period) / _MICROSECONDS if pid in ("", str(os.getpid())) else None


def _status(text: str) -> str:
    return f"STATUS={' '.join(text.split())}"


def _extended(seconds: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={round(seconds * _MICROSECONDS)}"


#: Seconds without an answer of the state database after which the daemon counts as stuck. A flush
#: of a busy disk may take minutes, and a restart would not help.
STUCK_AFTER = 300.0


class Watchdog:
    """Resets the manager's watchdog twice in each period of `period` seconds.

    That shows that the reactor runs. `ping` asks the thread of the state database, which each step
    of a transfer waits for, for an answer. Without one for `STUCK_AFTER` seconds the watchdog is
    not reset any more, and the manager ends the daemon.
    """

    _log = Logger()

    def __init__(
        self,
        notifier: Notifier,
        period: float,
        ping: Callable[[], Deferred[Any]],
        reactor: IReactorTime,
    ) -> None:
        self._notifier = notifier
        self._period = period
        self._ping = ping
        self._reactor = reactor
        self._asked: float | None = None
        self._is_stuck = False
        self._loop = Periodic(reactor, self._reset)

    def start(self) -> None:
        """Start; the first reset is immediate."""
        running: Deferred[Any] = self._loop.start(self._period / 2)
        running.addErrback(lambda failure: self._log.failure("the watchdog failed", failure))

    def stop(self) -> None:
        """Stop resetting the watchdog."""
        self._loop.stop()

    def _reset(self) -> None:
        now = self._reactor.seconds()
        if self._asked is None:
            self._asked = now
            self._ping().addBoth(self._answered)
        waits = 0.0 if self._asked is None else now - self._asked
        if waits < STUCK_AFTER:
            self._notifier.alive()
        elif not self._is_stuck:
            self._is_stuck = True
            self._log.critical(
                "no answer from the state database for {seconds:.0f} s: check the disk of "
                "system.root_directory; the watchdog ends this daemon",
                seconds=waits,
            )

    def _answered(self, _: object) -> None:
        self._asked = None
        self._is_stuck = False


_TCP = {socket.AF_INET: "INET", socket.AF_INET6: "INET6"}


def passed_endpoint(reactor: Reactor) -> str | None:
    """Return the endpoint of the passed TCP socket, None without one.

    Other sockets are ignored. Raises `ConfigError` when there are several.
    """
    found = list(_passed(reactor))
    if len(found) > 1:
        ways = " or ".join(f"--endpoint {endpoint}" for endpoint in found)
        raise ConfigError(
            f"systemd passes {len(found)} TCP sockets: leave one in the socket unit "
            f"(ListenStream=), or choose one with {ways}"
        )
    return found[0] if found else None


def _passed(reactor: Reactor) -> Iterator[str]:
    for index in count():
        try:
            # Twisted has removed the variables from the environment.
            endpoint: Any = serverFromString(reactor, f"systemd:domain=INET:index={index}")
        except LookupError:
            return
        if domain := _domain(endpoint.fileno):
            yield f"systemd:domain={domain}:index={index}"


def _domain(fileno: int) -> str:
    """Return the domain of a socket; empty unless it listens on TCP."""
    try:
        with socket.socket(fileno=os.dup(fileno)) as passed:
            listens = passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            return _TCP.get(passed.family, "") if listens else ""
    except OSError:  # not a socket
        return ""
