"""Clients that send more than they wait for: what they cost is bounded, and others are served."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from sys import getsizeof
from typing import Any
from unicodedata import normalize

import asyncssh
import pytest
from asyncssh.constants import (
    MSG_CHANNEL_REQUEST,
    MSG_DEBUG,
    MSG_EXT_INFO,
    MSG_GLOBAL_REQUEST,
    MSG_IGNORE,
    MSG_KEXINIT,
    MSG_UNIMPLEMENTED,
    MSG_USERAUTH_REQUEST,
)
from asyncssh.packet import Boolean, MPInt, NameList, String, UInt32

from tests.sftp.server.harness import INIT, NAME, Served, opening, packet, reading, serving, string
from wingsd.config import SftpLimits
from wingsd.sftp.messages import Granted, Login, Rejected
from wingsd.sftp.server import packets
from wingsd.sftp.server.connection import FIRST_WINDOW, SshConnection

pytestmark = pytest.mark.promise("sftp-reads-no-faster-than-its-client")

WINDOW = (1 << 32) - 1


def waiting_answers(served: Served) -> int:
    """Return the bytes that wait for the socket of the only connection."""
    return served.own._conn.socket.get_write_buffer_size()


class Sending(asyncssh.SSHClient):
    """A client that sends this in place of its password, and goes on when it is answered."""

    def __init__(self, kind: int, *fields: bytes) -> None:
        self._kind, self._fields = kind, fields
        self._conn: asyncssh.SSHClientConnection

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self._conn = conn

    async def password_auth_requested(self) -> str | None:
        while True:
            self._conn.send_packet(self._kind, *self._fields)
            await asyncio.sleep(0)


def request(method: str, *fields: bytes, name: str = NAME) -> tuple[int, bytes]:
    whole = (String(name), String("ssh-connection"), String(method), *fields)
    return MSG_USERAUTH_REQUEST, b"".join(whole)


LONG = "\ufdfa" * 80_000  # of which 18 characters each are made: 240 KB


@pytest.mark.promise("sftp-sends-little-before-a-login")
@pytest.mark.parametrize(
    "sent",
    [
        request("password", Boolean(value=False), String(LONG)),
        request("password", Boolean(value=True), String("old"), String(LONG)),
        request("password", Boolean(value=True), String("old"), String("new")),
        request("password", Boolean(value=False), String(LONG[:30])),
        request("password", Boolean(value=False), String("wrong"), name=LONG[:300]),
        request("publickey", Boolean(value=False), String("ssh-rsa"), String(bytes(200_000))),
        request("publickey", Boolean(value=False), String("ssh-rsa"), String(bytes(7_000))),
        request("none"),
        request("keyboard-interactive", String(""), String(LONG)),
        request("unknown"),
        (MSG_IGNORE, String(bytes(1000))),
        (MSG_DEBUG, Boolean(value=False), String(""), String("")),
        (MSG_UNIMPLEMENTED, UInt32(0)),
        (MSG_EXT_INFO, UInt32(0)),
        (MSG_KEXINIT, bytes(16), *[NameList([])] * 10, Boolean(value=False), UInt32(0)),
    ],
    ids=[
        *("long password", "long new password", "changes of a password", "passwords"),
        *("long name", "long key", "half long keys", "none", "keyboard", "unknown method"),
        *("ignored", "debug", "unimplemented", "extensions", "new keys"),
    ],
)
@serving()
async def test_a_client_that_has_not_logged_in_sends_a_few_kib_at_most(
    served: Served, sent: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, received = Counter[str](), Counter[str]()

    def prepare(text: str) -> str:
        prepared["bytes"] += len(normalize("NFKC", text))
        return text

    def receive(own: SshConnection, data: bytes) -> None:
        received["bytes"] += len(data)
        take_in(own, data)

    take_in = SshConnection._take_in
    monkeypatch.setattr(SshConnection, "_take_in", receive)
    monkeypatch.setattr("asyncssh.auth.saslprep", prepare)
    monkeypatch.setattr("asyncssh.connection.saslprep", prepare)
    with pytest.raises((asyncssh.DisconnectError, OSError)) as caught:
        async with served.connection(password=None, client_factory=lambda: Sending(*sent)):
            pass
    # The client does not give up by itself: it is cut off, or has tried too often.
    is_denied = isinstance(caught.value, asyncssh.PermissionDenied)
    assert not is_denied or "Too many authentication failures" in str(caught.value)
    assert received.total() < 40 << 10
    assert prepared.total() < 10 << 10
    await served.serves()


@pytest.mark.promise("sftp-sends-little-before-a-login")
@serving()
async def test_keys_by_the_dozen_and_a_long_password_are_not_too_much_before_a_login(
    served: Served,
) -> None:
    password = "\u044f" * 512  # as long as a Panel takes

    class Certified(asyncssh.SSHKeyPair):
        """A key of 4096 bits, or a certificate of that size, that the Panel does not know."""

        def __init__(self, algorithm: bytes, size: int, number: int) -> None:
            blob = String(algorithm) + MPInt(65537) + MPInt((1 << 8 * size) - 1 - 2 * number)
            super().__init__(algorithm, algorithm, (algorithm,), (), blob, b"")

        def sign(self, _: bytes) -> bytes:
            raise AssertionError

    served.daemon.passwords.add(password)
    keys = [Certified(b"ssh-rsa", 512, number) for number in range(10)]
    keys += [Certified(b"ssh-rsa-cert-v01@openssh.com", 3000, 0)]
    async with served.connection(client_keys=keys, password=password):
        pass
    assert [each.kind for each in served.daemon.logins] == ["public_key"] * 10 + ["password"]


@pytest.mark.promise("sftp-logins-are-limited")
@pytest.mark.parametrize("kind", ["password", "publickey"])
@serving(limits=SftpLimits(authentication_password_attempts=3, authentication_pubkey_attempts=3))
async def test_logins_that_do_not_wait_for_an_answer_are_counted(
    served: Served, kind: str
) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519").public_data
    asked, loop = asyncio.Event(), asyncio.get_running_loop()

    class Client(asyncssh.SSHClient):
        _is_lost = False

        def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
            self._conn = conn

        async def public_key_auth_requested(self) -> None:
            if kind == "publickey":
                await self._send(Boolean(False), String("ssh-ed25519"), String(key))

        async def password_auth_requested(self) -> None:
            if kind == "password":
                await self._send(Boolean(False), String("wrong"))

        def connection_lost(self, exc: Exception | None) -> None:
            self._is_lost = True
            asked.set()

        async def _send(self, *fields: bytes) -> None:
            while not self._is_lost:
                asked.clear()
                parts = String(NAME), String("ssh-connection"), String(kind), *fields
                self._conn.send_packet(MSG_USERAUTH_REQUEST, *parts)
                await asked.wait()

    async def never(login: Login) -> Granted | Rejected:
        served.daemon.logins.append(login)
        loop.call_soon_threadsafe(asked.set)
        await asyncio.Event().wait()
        raise AssertionError

    served.daemon.login = never  # type: ignore[method-assign]
    with pytest.raises(asyncssh.DisconnectError):
        async with served.connection(password=None, client_factory=Client):
            pass
    assert len(served.daemon.logins) == 3


@serving()
async def test_answers_that_are_not_read_are_not_made_whatever_window_is_granted(
    served: Served,
) -> None:
    served.fill("big")
    async with served.connection() as connection:
        chan, _ = await connection.create_session(
            asyncssh.SSHClientSession, subsystem="sftp", encoding=None, window=WINDOW
        )
        assert connection._transport is not None
        connection._transport.pause_reading()
        chan.write(INIT + opening(b"/big") + reading() * 400)
        own = served.own
        while not own._conn.is_full:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)  # for all of them there would be 100 MiB
        assert waiting_answers(served) < 2 << 20
        connection._transport.resume_reading()
        while waiting_answers(served):
            await asyncio.sleep(0.01)
        connection.abort()
    await served.serves()


@asynccontextmanager
async def unfinished_exchange(served: Served) -> AsyncIterator[asyncssh.SSHClientChannel[bytes]]:
    """A channel whose client has begun an exchange of keys, and goes on without ending it."""
    async with served.connection() as connection:
        chan, _ = await connection.create_session(
            asyncssh.SSHClientSession, subsystem="sftp", encoding=None, window=WINDOW
        )
        chan.write(INIT + opening(b"/big"))
        assert connection._transport is not None
        connection._transport.pause_reading()
        connection._send_kexinit()
        connection._kex_complete = True
        own = served.own
        while own._conn._kex_complete:
            await asyncio.sleep(0.01)
        yield chan
        connection.abort()


@serving()
async def test_requests_of_ssh_during_an_exchange_of_keys_are_counted(served: Served) -> None:
    (served.files / "big").touch()
    async with unfinished_exchange(served) as chan:
        for _ in range(1100):
            fields = String(b"x"), Boolean(value=True)
            chan.get_connection().send_packet(MSG_GLOBAL_REQUEST, *fields)
        await served.emptied()


@serving()
async def test_a_client_that_takes_almost_nothing_in_a_packet_is_cut_off(
    served: Served,
) -> None:
    async with served.connection() as connection:
        with suppress(asyncssh.Error, OSError):
            await connection.create_process(subsystem="sftp", encoding=None, max_pktsize=255)
        with suppress(OSError):
            await connection.wait_closed()
    await served.emptied()
    await served.serves()


@pytest.mark.promise("sftp-memory-is-bounded")
@serving()
async def test_many_small_requests_wait_as_little_as_a_few_large_ones(served: Served) -> None:
    async with served.connection() as connection:
        chan, _ = await connection.create_session(
            asyncssh.SSHClientSession, subsystem="sftp", encoding=None, window=1 << 10
        )
        chan.pause_reading()
        asking = packet(packets.REALPATH, string(b"/"))
        chan.write(INIT)
        chan.write(asking * 500_000)
        own = served.own
        (channel,) = own._channels
        while channel._window >= len(asking):
            await asyncio.sleep(0.01)
        assert getsizeof(channel._frames._buffer) < 2 * FIRST_WINDOW
        assert len(channel._unsent) < 10_000
        chan.abort()
    await served.serves()


@serving()
async def test_the_variables_that_a_client_sends_are_not_kept(served: Served) -> None:
    async with served.connection() as connection:
        chan, _ = await connection.create_session(
            asyncssh.SSHClientSession, subsystem="sftp", encoding=None
        )
        for number in range(100):
            fields = String(b"env"), Boolean(value=False), String(b"%d" % number), String(b"x")
            chan.send_packet(MSG_CHANNEL_REQUEST, *fields)
        own = served.own
        chan.write(INIT)
        async with connection.start_sftp_client() as sftp:
            assert await sftp.realpath(".") == "/"
        for each in own._channels:
            assert not each._chan.get_environment()
