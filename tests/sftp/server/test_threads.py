"""The threads of connections, and of requests that last."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from pathlib import Path

import asyncssh
import pytest

from tests.sftp.server.harness import Served, serve
from wingsd.filesystem.directory import OpenFile
from wingsd.sftp.messages import Closed
from wingsd.sftp.server import operations
from wingsd.sftp.server.connection import SftpConnection


def test_a_thread_takes_calls_while_its_loop_runs(tmp_path: Path) -> None:
    async def test(served: Served) -> None:
        calls = list[str]()

        def call(own: SftpConnection, name: str) -> None:
            own.call(lambda: calls.append(f"{name} {threading.current_thread().name}"))

        call(SftpConnection(0, served.server), "too early")
        async with served.client():
            (own,) = served.server._connections.values()
            call(own, "in time")
            while not calls:
                await asyncio.sleep(0.01)
        while any(each.name == "wingsd-sftp-connection" for each in threading.enumerate()):
            await asyncio.sleep(0.01)
        call(own, "too late")
        assert calls == ["in time wingsd-sftp-connection"]

    serve(tmp_path, test)


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


@pytest.mark.promise("sftp-process-is-restarted")
def test_a_connection_ends_whole_where_no_thread_can_be_started_for_its_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    async def test(served: Served) -> None:
        (served.files / "file").write_text("x")
        monkeypatch.setattr(served.server.threads, "submit", refuse)
        with suppress(asyncssh.Error, OSError):
            async with served.client() as sftp:
                await sftp.open("file", "rb")
                await sftp.rename("file", "other")
        while served.server._connections:
            await asyncio.sleep(0.01)
        assert len(served.daemon.of(Closed)) == 1
        (usage,) = served.server.usages.values()
        assert not usage.files._opened
        assert not (served.files / "other").exists()

    serve(tmp_path, test)
