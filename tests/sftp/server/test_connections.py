"""Connections of SFTP: logins, channels, and what clients do not get."""

from __future__ import annotations

import asyncio

import asyncssh
import pytest

from tests.sftp.server.harness import NAME, Served, serving
from wingsd.config import SftpLimits
from wingsd.sftp.messages import Begun, ChangedSettings, Closed, Disconnect


def key_text(key: asyncssh.SSHKey) -> str:
    return key.export_public_key("openssh").decode().strip()


async def opens(connection: asyncssh.SSHClientConnection) -> bool:
    """Return whether another channel can be opened."""
    try:
        async with connection.start_sftp_client() as sftp:
            return await sftp.listdir("/") == []
    except asyncssh.ChannelOpenError:
        return False


@serving()
async def test_a_key_is_asked_for_once_though_a_client_shows_it_twice(served: Served) -> None:
    wrong, right = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    served.daemon.keys.add(key_text(right))
    async with served.connection(client_keys=[wrong, right], password=""):
        asked = [login.secret for login in served.daemon.logins]
        assert asked == [key_text(wrong), key_text(right)]
    while not served.daemon.begun:
        await asyncio.sleep(0.01)
    assert served.daemon.begun[0].request == served.daemon.logins[1].request


@pytest.mark.promise("sftp-logins-are-limited")
@serving()
async def test_a_key_without_its_private_half_does_not_log_in(served: Served) -> None:
    """The Panel knows the key, but the signature is another one's."""

    class Pretender(asyncssh.SSHKeyPair):
        def __init__(self, shown: asyncssh.SSHKey, own: asyncssh.SSHKey) -> None:
            blob = shown.public_data
            super().__init__(b"ssh-ed25519", b"ssh-ed25519", (b"ssh-ed25519",), (), blob, b"")
            self._own = own

        def sign(self, data: bytes) -> bytes:
            return self._own.sign(data, b"ssh-ed25519")

    shown, own = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    served.daemon.keys.add(key_text(shown))
    with pytest.raises(asyncssh.PermissionDenied):
        async with served.connection(client_keys=[Pretender(shown, own)], password=""):
            pass
    assert served.daemon.begun == []


async def guess(served: Served, passwords: int, keys: int) -> None:
    """Try wrong passwords and keys until the connection is closed; it is after so many."""

    class Guessing(asyncssh.SSHClient):
        guesses = 0

        def password_auth_requested(self) -> str:
            Guessing.guesses += 1
            return f"guess {Guessing.guesses}"

    with pytest.raises(asyncssh.DisconnectError):
        async with served.connection(client_factory=Guessing, password=None):
            pass
    assert [login.kind for login in served.daemon.logins] == ["password"] * passwords
    served.daemon.logins.clear()
    pairs = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(keys + 2)]
    with pytest.raises(asyncssh.DisconnectError):
        async with served.connection(client_keys=pairs, password=None):
            pass
    assert len(served.daemon.logins) == keys
    assert served.daemon.begun == []


@serving(limits=SftpLimits(authentication_password_attempts=2, authentication_pubkey_attempts=3))
async def test_after_too_many_wrong_passwords_or_keys_the_connection_is_closed(
    served: Served,
) -> None:
    await guess(served, 2, 3)


@serving()
async def test_where_only_keys_are_accepted_no_password_is_asked_for(served: Served) -> None:
    async with served.connection():
        pass
    served.daemon.received(ChangedSettings(read_only=False, passwords=False))
    served.daemon.logins.clear()
    with pytest.raises(asyncssh.PermissionDenied):
        async with served.connection():
            pass
    assert served.daemon.logins == []


@pytest.mark.parametrize("command", [None, "ls", "scp -t /"])
@serving()
async def test_a_shell_and_commands_are_refused_with_a_sentence(
    served: Served, command: str | None
) -> None:
    async with served.connection() as connection:
        process = await connection.create_process(command, encoding=None)
        found = await process.wait()
        assert b"use an SFTP client" in found.stderr  # type: ignore[operator]
        assert (found.exit_status, bool(found.stdout)) == (1, command == "scp -t /")


@pytest.mark.promise("sftp-has-no-shell")
@serving()
async def test_nothing_is_forwarded(served: Served) -> None:
    async with served.connection() as connection:
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.open_connection("127.0.0.1", served.port)
        with pytest.raises(asyncssh.ChannelListenError):
            await connection.forward_remote_port("", 0, "127.0.0.1", 1)


@serving(limits=SftpLimits(max_channels_per_connection=1))
async def test_a_connection_has_no_more_channels_than_it_may(served: Served) -> None:
    async with served.connection() as connection:
        first = await connection.start_sftp_client()
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.start_sftp_client()
        first.exit()
        await first.wait_closed()
        while not await opens(connection):
            await asyncio.sleep(0.01)


@pytest.mark.promise("sftp-connection-limits-wait")
@serving()
async def test_a_channel_opens_when_the_daemon_has_begun_the_session(served: Served) -> None:
    served.daemon.has_places = False
    async with served.connection() as connection, served.connection() as other:
        opening = asyncio.ensure_future(connection.start_sftp_client())
        refused = asyncio.ensure_future(other.start_sftp_client())
        channels = served.server._connections
        while not all(each._channels for each in channels.values()):
            await asyncio.sleep(0.01)
        assert not opening.done()
        served.daemon.received(Begun(1))
        assert await (await opening).listdir("/") == []
        served.daemon.received(Disconnect(2, "the user has 1 connections already"))
        with pytest.raises(asyncssh.ChannelOpenError):
            await refused
        await other.wait_closed()
    while len(served.daemon.of(Closed)) < 2 or served.server._connections:
        await asyncio.sleep(0.01)


@pytest.mark.promise("sftp-memory-is-bounded")
@serving()
async def test_the_channels_of_a_connection_share_what_may_wait(served: Served) -> None:
    async with served.connection() as connection:
        for _ in range(10):
            await connection.start_sftp_client()
        own = served.own
        windows = [each._chan.get_recv_window() for each in own._channels]
        assert max(windows) <= 2 << 20
        assert sum(windows) < 6 << 20


@serving()
async def test_a_connection_that_is_cut_while_a_channel_opens_is_over(served: Served) -> None:
    for _ in range(5):
        async with served.connection() as connection:
            opening = asyncio.ensure_future(connection.start_sftp_client())
            await asyncio.sleep(0)
            connection.abort()
            with pytest.raises((asyncssh.Error, asyncio.CancelledError, OSError)):
                await opening
    while len(served.daemon.of(Closed)) < 5 or served.server._connections:
        await asyncio.sleep(0.01)
    assert len(served.daemon.of(Closed)) == 5


@pytest.mark.promise("sftp-logins-are-limited")
@serving(limits=SftpLimits(max_half_open=4))
async def test_half_open_connections_make_place_and_do_not_keep_others_out(served: Served) -> None:
    idle = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(12)]
    async with served.client() as sftp:
        assert await sftp.listdir("/") == []
        # All but the newest of this address were closed.
        ended = [asyncio.wait_for(reader.read(), 20) for reader, _ in idle[:8]]
        for each in await asyncio.gather(*ended, return_exceptions=True):
            assert isinstance(each, bytes | ConnectionError)
    for _, writer in idle:
        writer.close()


@pytest.mark.promise("sftp-idle-clients-stay")
@serving()
async def test_a_client_that_answers_no_probe_is_cut_off_and_an_idle_one_is_not(
    served: Served,
) -> None:
    async with served.connection() as idle, served.connection() as silent:
        answering, gone = (each._conn for each in served.server._connections.values())
        probed: list[int] = []

        def probe() -> None:
            answering._probe()
            answering._probe()
            probed.append(1)

        for number in range(1, 11):
            answering.owner.call(probe)
            while len(probed) < number or answering.unanswered:
                await asyncio.sleep(0.01)
        assert silent._transport is not None
        silent._transport.pause_reading()
        while len(served.server._connections) > 1:
            gone.owner.call(gone._probe)
            await asyncio.sleep(0.01)
        assert await opens(idle)


@pytest.mark.parametrize(
    "cipher",
    ["aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes128-ctr", "aes256-ctr"],
)
@serving()
async def test_clients_of_wings_find_their_ciphers(served: Served, cipher: str) -> None:
    async with served.connection(
        encryption_algs=[cipher], mac_algs=["hmac-sha2-256"]
    ) as connection:
        assert connection.get_extra_info("server_version") == "SSH-2.0-Go"
        assert connection.get_extra_info("recv_cipher") == cipher
        assert connection.get_extra_info("username") == NAME
