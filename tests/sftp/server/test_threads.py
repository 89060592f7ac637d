"""The threads of connections, and how they leave the cores to the daemon."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from threading import Event, Thread

import asyncssh
import pytest
from twisted.internet.task import Clock

from tests.sftp.server.harness import Served, serving
from wingsd.filesystem.directory import OpenFile
from wingsd.sftp.messages import Closed
from wingsd.sftp.server.connection import SftpConnection
from wingsd.sftp.server.past import EACH, PastThreads
from wingsd.sftp.server.turns import Turns, cpu_time


@serving()
async def test_a_thread_takes_calls_while_its_loop_runs(served: Served) -> None:
    calls = list[str]()

    def call(own: SftpConnection, name: str) -> None:
        own.call(lambda: calls.append(f"{name} {threading.current_thread().name}"))

    call(SftpConnection(0, served.server), "too early")
    async with served.client():
        own = served.own
        call(own, "in time")
        while not calls:
            await asyncio.sleep(0.01)
    while any(each.name == "wingsd-sftp-connection" for each in threading.enumerate()):
        await asyncio.sleep(0.01)
    call(own, "too late")
    assert calls == ["in time wingsd-sftp-connection"]


class Stuck:
    """Work that does not go on before it is released."""

    def __init__(self) -> None:
        self.begun, self.released = threading.Event(), threading.Event()

    def __call__(self, *_: object) -> bytes:
        self.begun.set()
        assert self.released.wait(30)
        return b""

    async def wait(self) -> None:
        while not self.begun.is_set():
            await asyncio.sleep(0.01)


@serving()
async def test_a_disk_that_stands_still_holds_up_no_other_connection(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    (served.files / "file").write_text("x")
    stuck = Stuck()
    monkeypatch.setattr(OpenFile, "read_at", stuck)
    async with served.client() as held:
        file = await held.open("file", "rb")
        reading = asyncio.ensure_future(file.read())
        await stuck.wait()
        async with served.client() as sftp:
            assert await sftp.listdir("/") == ["file"]
        assert not reading.done()
        (own, *_) = served.server._connections.values()
        own.disconnect("the server is suspended")
        stuck.released.set()
        await reading
        with pytest.raises((asyncssh.Error, OSError)):  # reset, if it asks in that moment
            await held.listdir("/")


@pytest.mark.promise("sftp-process-is-restarted")
@serving()
async def test_a_connection_ends_whole_where_no_thread_can_be_started_for_its_request(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    (served.files / "file").write_text("x")
    monkeypatch.setattr(served.server.threads, "submit", refuse)
    with suppress(asyncssh.Error, OSError):
        async with served.client() as sftp:
            await sftp.open("file", "rb")
            await sftp.rename("file", "other")
    await served.emptied()
    assert len(served.daemon.of(Closed)) == 1
    (usage,) = served.server.usages.values()
    assert not usage.files._opened
    assert not (served.files / "other").exists()


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


def test_requests_for_the_past_of_one_server_leave_threads_to_others() -> None:
    threads = PastThreads(EACH + 1)
    gate = Event()
    running = list[int]()
    most = list[int]()

    def work(number: int) -> bytes:
        running.append(number)
        most.append(len(running))
        assert gate.wait(30)
        running.remove(number)
        return b"%d" % number

    slow = [threads.submit("one", partial(work, number)) for number in range(3 * EACH)]
    assert threads.submit("another", lambda: b"at once").result(30) == b"at once"
    assert not any(each.done() for each in slow)
    gate.set()
    assert [each.result(30) for each in slow] == [b"%d" % each for each in range(3 * EACH)]
    assert max(most) == EACH

    def fail() -> bytes:
        raise ZeroDivisionError

    for _ in range(2 * EACH):
        with pytest.raises(ZeroDivisionError):
            threads.submit("one", fail).result(30)
    assert threads.submit("one", lambda: b"again").result(30) == b"again"
