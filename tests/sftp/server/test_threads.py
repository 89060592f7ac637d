"""The threads of connections, and of requests that last."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import asyncssh
import pytest

from tests.sftp.server.harness import Served, serve
from wingsd.filesystem.directory import OpenFile
from wingsd.sftp.server import operations
from wingsd.sftp.server.threads import ConnectionThread, FileThreads

T = TypeVar("T")


async def done(threads: FileThreads, work: Callable[[], T]) -> T:
    ended: asyncio.Future[Callable[[], T]] = asyncio.get_running_loop().create_future()
    threads.run(work, ended.set_result)
    return (await ended)()


async def _ends_in_the_loop() -> None:
    threads = FileThreads(2)
    assert await done(threads, threading.current_thread) is not threading.current_thread()
    with pytest.raises(FileNotFoundError):
        await done(threads, lambda: open("/nowhere/at/all"))  # noqa: SIM115


def test_work_is_done_in_a_thread_and_its_result_or_error_comes_to_the_loop() -> None:
    asyncio.run(_ends_in_the_loop())


async def _many() -> None:
    threads = FileThreads(3)
    meeting = threading.Barrier(3)
    met = [done(threads, lambda: meeting.wait(10)) for _ in range(9)]
    assert sorted(await asyncio.gather(*met)) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert sum(each.name.startswith("wingsd-sftp-") for each in threading.enumerate()) >= 3


def test_as_much_work_is_done_at_once_as_there_are_threads() -> None:
    asyncio.run(_many())


async def _calls() -> None:
    thread, calls, ended = ConnectionThread(), list[str](), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def serve_it() -> None:
        begun, over = threading.current_thread(), asyncio.Event()
        thread.call(lambda: calls.append(f"{threading.current_thread() is begun}"))
        thread.call(over.set)
        await over.wait()
        loop.call_soon_threadsafe(ended.set)

    thread.call(lambda: calls.append("too early"))
    thread.start(serve_it)
    await ended.wait()
    while any(each.name == "wingsd-sftp-connection" for each in threading.enumerate()):
        await asyncio.sleep(0.01)
    thread.call(lambda: calls.append("too late"))
    assert calls == ["True"]


def test_a_thread_takes_calls_while_its_loop_runs() -> None:
    asyncio.run(_calls())


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


def test_a_disk_that_stands_still_holds_up_no_other_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(served: Served) -> None:
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

    serve(tmp_path, test)


def test_a_deletion_that_lasts_holds_up_no_other_channel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(served: Served) -> None:
        (served.files / "tree").mkdir()
        stuck = Stuck()
        monkeypatch.setattr(operations, "delete", stuck)
        async with served.connection() as connection:
            first, second = [await connection.start_sftp_client() for _ in range(2)]
            deleting = asyncio.ensure_future(first.rmdir("tree"))
            await stuck.wait()
            assert await second.listdir("/") == ["tree"]
            assert not deleting.done()
            stuck.released.set()
            await deleting

    serve(tmp_path, test)
