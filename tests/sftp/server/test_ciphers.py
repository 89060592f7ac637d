"""Ciphers, and exchanges of new keys in a connection."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from asyncssh import encryption
from asyncssh.encryption import ChachaEncryption, GCMEncryption

from tests.sftp.server.harness import Served, serve
from wingsd.sftp.server.ciphers import ChaCha, Gcm


@pytest.mark.parametrize("name", ["aes128-gcm", "aes256-gcm", "chacha20-poly1305"])
def test_packets_of_the_ciphers_are_read_and_changed_ones_are_not(name: str) -> None:
    algorithm = f"{name}@openssh.com".encode()
    own = encryption.get_encryption_params(algorithm)
    # asyncssh's own, before another is registered in its place
    theirs = ChachaEncryption if name.startswith("chacha") else GCMEncryption
    mine = ChaCha if name.startswith("chacha") else Gcm
    key, nonce = os.urandom(own[0]), b"\xff" * 12  # the counter overflows to 0
    ways = [(mine, theirs), (theirs, mine), (mine, mine)]
    for sender, receiver in [[each.new(name, key, nonce) for each in way] for way in ways]:
        for seq, text in ((7, b"first" * 3), (8, b"other" * 3), (1 << 31, os.urandom(40_000))):
            header = len(text).to_bytes(4, "big")
            packet, tag = sender.encrypt_packet(seq, header, text)
            whole = bytes(packet) + bytes(tag)
            first, rest, tag = whole[:16], whole[16:-16], whole[-16:]
            assert receiver.decrypt_header(seq, first, 4) == (first, header)
            assert receiver.decrypt_packet(seq, first, rest, 4, tag) == text
        packet, tag = sender.encrypt_packet(9, bytes(4), b"last" * 3)
        whole = bytes(packet) + bytes(tag)
        assert receiver.decrypt_header(9, whole[:16], 4)[1] == bytes(4)
        assert receiver.decrypt_packet(9, whole[:16], whole[16:-16], 4, bytes(16)) is None


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
