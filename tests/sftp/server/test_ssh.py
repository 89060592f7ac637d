"""What the connections do differently from those of asyncssh."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from asyncssh.encryption import get_encryption
from asyncssh.encryption import get_encryption_params as params

from tests.sftp.server.harness import Served, serve
from wingsd.sftp.server.ssh import Gcm, use_fast_ciphers


@pytest.mark.parametrize("name", ["aes128-gcm", "aes256-gcm"])
def test_packets_of_the_ciphers_are_read_and_changed_ones_are_not(name: str) -> None:
    use_fast_ciphers()
    algorithm = f"{name}@openssh.com".encode()
    key, nonce = os.urandom(params(algorithm)[0]), b"\xff" * 12  # the number begins anew
    mine, other = (get_encryption(algorithm, key, nonce) for _ in range(2))
    for text in (b"first" * 3, b"other" * 3):
        header = len(text).to_bytes(4, "big")
        whole, mac = mine.encrypt_packet(0, header, text)
        packet, tag = whole[:-16], whole[-16:]
        assert not mac
        assert bytes(packet[:4]) == bytes(header)
        assert other.decrypt_packet(0, packet[:16], packet[16:], 4, tag) == text
    whole, _ = mine.encrypt_packet(0, bytes(4), b"seen" * 3)
    assert isinstance(other, Gcm)
    assert other.open(memoryview(whole)) == b"seen" * 3
    assert other.decrypt_packet(0, b"", b"", 4, b"") == b"seen" * 3
    whole, _ = mine.encrypt_packet(0, bytes(4), b"last" * 3)
    assert other.decrypt_packet(0, whole[:16], whole[16:-16], 4, bytes(16)) is None


@pytest.mark.parametrize("other", ["aes256-gcm@openssh.com", "aes128-ctr"])
@pytest.mark.parametrize("first", ["aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com"])
def test_new_keys_can_be_of_another_cipher(tmp_path: Path, first: str, other: str) -> None:
    data = os.urandom(1_000_000)

    async def test(served: Served) -> None:
        async with (
            served.connection(encryption_algs=[first]) as connection,
            connection.start_sftp_client() as sftp,
        ):
            connection._enc_algs = [other.encode()]
            connection._send_kexinit()
            connection._kexinit_sent = True
            while connection.get_extra_info("send_cipher") != other:
                await asyncio.sleep(0.01)
            async with sftp.open("/a", "wb") as file:
                await file.write(data)
            async with sftp.open("/a", "rb") as file:
                found: object = await file.read()
                assert found == data

    serve(tmp_path, test)


@pytest.mark.parametrize("cipher", ["aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com"])
def test_each_cipher_serves_across_an_exchange_of_new_keys(tmp_path: Path, cipher: str) -> None:
    data = os.urandom(3_000_000)

    async def test(served: Served) -> None:
        async with served.client(encryption_algs=[cipher], rekey_bytes=1 << 20) as sftp:
            async with sftp.open("/a", "wb") as file:
                await file.write(data)
            async with sftp.open("/a", "rb") as file:
                found: object = await file.read()
                assert found == data

    serve(tmp_path, test)
