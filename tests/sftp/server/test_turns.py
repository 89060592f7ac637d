"""Connections leave the cores to the daemon while it needs them, and only then."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import pytest
from twisted.internet.task import Clock

from wingsd.sftp.server.turns import Turns, cpu_time


class Machine:
    """A clock, on which the daemon uses `cores`, and each piece of work takes `each` seconds."""

    def __init__(self, cores: int, *, each: float = 0.001) -> None:
        self.clock = Clock()
        self.cores = 0.0
        self.used = 0.0
        self.rests: list[float] = []
        self._each = each
        self.turns = Turns(lambda: self.used, cores, self.clock.seconds, self.rests.append)

    def _pass(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.used += self.cores * seconds

    def work(self, seconds: float) -> list[float]:
        """Have a connection work every 10 ms for a while; return its rests."""
        self.rests.clear()
        for _ in range(round(seconds * 100)):
            self._pass(0.01)
            self.turns.work(lambda: self._pass(self._each))
        return list(self.rests)


def test_work_is_followed_by_rests_from_when_the_daemon_works_until_after_its_end() -> None:
    machine = Machine(2)
    machine.cores = 0.3
    assert machine.work(1) == []
    machine.cores = 1.2
    assert len(machine.work(1)) > 70
    machine.cores = 0.1
    assert 30 < len(machine.work(1)) < 70


def test_a_rest_is_a_multiple_of_the_work_and_has_an_end() -> None:
    short, long = Machine(2), Machine(2, each=0.1)
    for machine in (short, long):
        machine.cores = 2.0
    assert short.work(1)[-1] == pytest.approx(0.004)
    assert long.work(1)[-1] == pytest.approx(0.01)


def test_where_there_are_cores_enough_nothing_waits() -> None:
    machine = Machine(8)
    machine.cores = 3.0
    assert machine.work(1) == []


def test_the_daemons_time_before_a_pause_is_not_taken_for_work() -> None:
    machine = Machine(2)
    machine.work(0.1)
    machine.used += 100
    machine.clock.advance(60)
    assert machine.work(0.1) == []


def test_without_the_daemons_time_nothing_waits() -> None:
    def unknown() -> float:
        raise ProcessLookupError

    done: list[int] = []
    turns = Turns(unknown, 1, Clock().seconds)
    turns.work(lambda: done.append(1))
    assert done == [1]


@contextmanager
def working_thread(turns: Turns) -> Iterator[None]:
    """A thread whose work does not end before the context does."""
    begun, over = Event(), Event()

    def hang() -> None:
        begun.set()
        over.wait()

    thread = Thread(target=turns.work, args=(hang,))
    thread.start()
    assert begun.wait(60)
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_one_that_hangs_holds_up_the_others_for_a_moment() -> None:
    machine = Machine(2)
    machine.cores = 2.0
    machine.work(0.5)
    begun = time.monotonic()
    with working_thread(machine.turns):
        machine.turns.work(lambda: None)
        assert 0.2 < time.monotonic() - begun < 60


def test_the_time_of_a_process_grows_with_what_it_does() -> None:
    seconds = cpu_time(os.getpid())
    before = seconds()
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    assert 0.05 < seconds() - before < 10
