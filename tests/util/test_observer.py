"""Whoever listens hears how long a call took and how it ended."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from tests.support.recording_observer import RecordingObserver
from wingsd.util.observer import ENGINE, PANEL, Observer


def test_a_failed_call_is_timed_and_raises() -> None:
    heard, clock, error = RecordingObserver(), Clock(), OSError("gone")

    def look() -> None:
        with heard.timing(ENGINE, "look", clock.seconds):
            clock.advance(2)
            raise error

    with pytest.raises(OSError, match="gone"):
        look()
    assert heard.calls == [(ENGINE, "look", 2, error)]


def test_the_default_observer_does_nothing() -> None:
    with Observer().timing(PANEL, "list", Clock().seconds):
        pass
    Observer().answered(ValueError())
