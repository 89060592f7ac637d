"""Threads as the kernel sees them, and where it does not let itself be told."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from unittest.mock import Mock

import pytest

from wingsd import threadio as threads
from wingsd.threadio import Thread

T = TypeVar("T")
#: setpriority(2).
HIGHEST_NICE_VALUE = 19


def run(look: Callable[[], T], name: str = "a-thread", nice: int = 0) -> T:
    """Return what `look` finds in a thread."""
    found: list[T] = []
    thread = Thread(lambda: found.append(look()), name, nice=nice)
    thread.start()
    thread.join()
    return found[0]


def nice_value() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.parametrize("name", ["a-thread", "of-fifteen-byte"])
def test_the_kernel_has_the_threads_name(name: str) -> None:
    assert run(Path("/proc/thread-self/comm").read_text, name) == f"{name}\n"


def test_a_name_that_is_too_long_is_cut() -> None:
    assert run(Path("/proc/thread-self/comm").read_text, "of-more-than-fifteen") == (
        "of-more-than-fi\n"
    )


def test_a_thread_has_its_own_nice_value() -> None:
    usual = nice_value()
    higher = min(usual + 3, HIGHEST_NICE_VALUE)
    assert run(nice_value, nice=higher) == higher
    assert nice_value() == usual


def test_a_thread_is_never_less_nice_than_its_process() -> None:
    higher = min(nice_value() + 3, HIGHEST_NICE_VALUE)
    assert run(lambda: run(nice_value, nice=0), nice=higher) == higher


def test_a_thread_works_with_neither_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(threads, "_COMM", tmp_path / "none" / "comm")
    monkeypatch.setattr(os, "setpriority", Mock(side_effect=PermissionError))
    assert run(lambda: "done", nice=19) == "done"
