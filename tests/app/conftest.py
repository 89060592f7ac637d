"""Signals are handled after a test as they were before it."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def kept_signals() -> Iterator[None]:
    before = {each: signal.getsignal(each) for each in (signal.SIGHUP, signal.SIGUSR1)}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)
