"""The server of the SFTP process in this one, and asyncssh's client of it.

Tests are plain functions with a loop of their own: the daemon's reactor takes no part.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import asyncssh
import attrs

from wingsd.config import SftpConfig, SftpLimits, SystemConfig
from wingsd.sftp.host_key import load_host_key
from wingsd.sftp.messages import (
    Begin,
    Begun,
    FileEvent,
    Granted,
    Login,
    Rejected,
    SftpMessage,
    Start,
)
from wingsd.sftp.server import packets
from wingsd.sftp.server.ciphers import use_fast_ciphers
from wingsd.sftp.server.connection import SftpConnection
from wingsd.sftp.server.main import DaemonLink, SftpServer
from wingsd.sftp.server.turns import Turns

SERVER = "5b0c7a6e-95c1-4a5b-8a53-7f6c5d2e4b22"
USER = "3f1f0f0e-6f8e-4b43-9a55-0d6b3b1f3a11"
NAME = "anna.5b0c7a6e"
PASSWORD = "correct horse"


class FakeDaemon(DaemonLink):
    """The daemon's answers: a password is right, and grants what `granted` has."""

    def __init__(self, granted: Granted) -> None:
        super().__init__()
        self.granted = granted
        self.sent: list[SftpMessage] = []
        #: Whether connections need not wait.
        self.has_places = True
        self.logins: list[Login] = []
        #: Passwords that are right, and public keys.
        self.passwords = {PASSWORD}
        self.keys: set[str] = set()

    async def login(self, login: Login) -> Granted | Rejected:
        self.logins.append(login)
        right = self.keys if login.kind == "public_key" else self.passwords
        if login.username != NAME or login.secret not in right:
            return Rejected(login.request)
        return attrs.evolve(self.granted, request=login.request)

    def send(self, *messages: SftpMessage) -> None:
        self.sent += messages

    def post(self, message: SftpMessage, *, now: bool = True) -> None:
        self.sent.append(message)
        if isinstance(message, Begin) and self.has_places:
            self.received(Begun(message.connection))

    def of(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.sent if isinstance(message, kind)]

    @property
    def events(self) -> list[tuple[str, ...]]:
        found = self.of(FileEvent)
        return [(each.event, each.path, *filter(None, [each.target])) for each in found]

    @property
    def begun(self) -> list[Begin]:
        return self.of(Begin)


@attrs.define
class Served:
    """A running server with one directory, `files`."""

    files: Path
    daemon: FakeDaemon
    server: SftpServer
    port: int

    @property
    def own(self) -> SftpConnection:
        """The server's end of the only connection."""
        (own,) = self.server._connections.values()
        return own

    async def emptied(self) -> None:
        """Return when there is no connection left."""
        while self.server._connections:
            await asyncio.sleep(0.01)

    async def serves(self) -> None:
        """Check that a client that means no harm is served."""
        async with self.client() as sftp:
            assert await sftp.realpath(".") == "/"

    def fill(self, name: str) -> None:
        """Make a file of a GiB of zeros."""
        with (self.files / name).open("wb") as file:
            file.truncate(1 << 30)

    @asynccontextmanager
    async def connection(
        self, username: str = NAME, password: str | None = PASSWORD, **options: Any
    ) -> AsyncIterator[asyncssh.SSHClientConnection]:
        usual = {"known_hosts": None, "config": None, "client_keys": None}
        async with asyncssh.connect(
            "127.0.0.1", self.port, username=username, password=password, **usual | options
        ) as connection:
            yield connection

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[asyncssh.SFTPClient]:
        async with (
            self.connection(**options) as connection,
            connection.start_sftp_client() as sftp,
        ):
            yield sftp


def serving(
    *, sftp: SftpConfig | None = None, limits: SftpLimits | None = None, **granted: Any
) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., None]]:
    """Run a test with a server as its `served`, whose settings or limits these are.

    `granted` are fields of `Granted`.
    """
    config = sftp or SftpConfig(limits=limits or SftpLimits())

    def decorate(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
        signature = inspect.signature(test)

        @wraps(test)
        def run(tmp_path: Path, **fixtures: Any) -> None:
            if "tmp_path" in signature.parameters:
                fixtures["tmp_path"] = tmp_path
            files = tmp_path / "files"
            files.mkdir()
            usual: dict[str, Any] = {"permissions": ("*",)}
            grant = Granted(0, USER, SERVER, str(files), **usual | granted)

            async def work(served: Served) -> None:
                await test(served=served, **fixtures)

            asyncio.run(asyncio.wait_for(_serve(tmp_path, files, grant, config, work), 60))

        others = [
            each
            for name, each in signature.parameters.items()
            if name not in ("served", "tmp_path")
        ]
        path = inspect.Parameter("tmp_path", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        run.__signature__ = inspect.Signature([path, *others])  # type: ignore[attr-defined]
        return run

    return decorate


def connected(**options: Any) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., None]]:
    """Run a test with a server and a client of it, its `sftp`."""

    def decorate(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
        @wraps(test)
        async def with_client(served: Served, **fixtures: Any) -> None:
            async with served.client() as sftp:
                await test(served=served, sftp=sftp, **fixtures)

        signature = inspect.signature(test)
        others = [each for name, each in signature.parameters.items() if name != "sftp"]
        with_client.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
        return serving(**options)(with_client)

    return decorate


# Packets


INIT = struct.pack(">IBI", 5, packets.INIT, 3)
FIRST_HANDLE = (0).to_bytes(8, "big")


def string(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


def packet(kind: int, body: bytes, request: int = 1) -> bytes:
    return string(struct.pack(">BI", kind, request) + body)


def opening(path: bytes, flags: int = packets.READ, request: int = 1) -> bytes:
    return packet(packets.OPEN, string(path) + struct.pack(">II", flags, 0), request)


def reading(size: int = packets.MAX_DATA, request: int = 1) -> bytes:
    """Return a request that reads the beginning of the file that was opened first."""
    body = string(FIRST_HANDLE) + struct.pack(">QI", 0, size)
    return packet(packets.READ_DATA, body, request)


async def _serve(
    directory: Path,
    files: Path,
    granted: Granted,
    sftp: SftpConfig,
    test: Callable[[Served], Awaitable[None]],
) -> None:
    daemon = FakeDaemon(granted)
    key = load_host_key(str(directory))
    start = Start(key.private, SystemConfig().openat_mode, -1, -1, str(directory), sftp)
    use_fast_ciphers()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        server = SftpServer(listening, daemon, start, Turns(lambda: 0.0, 1))
        server.start()
        try:
            port = listening.getsockname()[1]
            await test(Served(files, daemon, server, port))
        finally:
            await server.stop()
