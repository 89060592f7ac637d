"""Collects the log of a test. An error that is logged and not expected fails it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer


@implementer(ILogObserver)
class Logged:
    """The failures and lines logged since `start`."""

    def __init__(self) -> None:
        self._failures: list[Failure] = []
        self.lines: list[str] = []

    def start(self) -> None:
        globalLogPublisher.addObserver(self)

    def stop(self) -> None:
        globalLogPublisher.removeObserver(self)

    def take(self, kind: type[BaseException]) -> list[Failure]:
        """Return the failures of that kind; they were expected."""
        taken = [failure for failure in self._failures if failure.check(kind)]
        self._failures = [failure for failure in self._failures if failure not in taken]
        return taken

    def assert_none(self) -> None:
        assert not self._failures, "\n".join(f.getTraceback() for f in self._failures)

    def __call__(self, event: LogEvent) -> None:
        self.lines.append(formatEvent(event))
        failure = event.get("log_failure")
        if failure is not None and event.get("log_level", LogLevel.critical) >= LogLevel.error:
            self._failures.append(failure)


@pytest.fixture(autouse=True)
def logged() -> Iterator[Logged]:
    """What is logged during the test; at its end no error may be left that nobody took."""
    errors = Logged()
    errors.start()
    # What the test before this one left is garbage only now. The rest stays for long, and need not
    # be visited below: with all that is there, a visit takes longer than most tests.
    gc.collect()
    gc.freeze()
    yield errors
    gc.collect()  # a Deferred tells of an error nobody handled when it goes
    errors.stop()
    errors.assert_none()
