"""The server of the SFTP process in this one, and asyncssh's client of it.

Tests are plain functions with a loop of their own: the daemon's reactor takes no part.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
import attrs

from wingsd.config import SftpConfig, SystemConfig
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
from wingsd.sftp.server.ciphers import use_fast_ciphers
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


def serve(
    directory: Path,
    test: Callable[[Served], Awaitable[None]],
    *,
    sftp: SftpConfig | None = None,
    **granted: Any,
) -> None:
    """Run a test with a server; `granted` are fields of `Granted`."""
    files = directory / "files"
    files.mkdir(exist_ok=True)
    usual: dict[str, Any] = {"permissions": ("*",)}
    grant = Granted(0, USER, SERVER, str(files), **usual | granted)
    asyncio.run(asyncio.wait_for(_serve(directory, files, grant, sftp or SftpConfig(), test), 60))


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
