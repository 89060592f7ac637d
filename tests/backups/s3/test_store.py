"""A part that is sent to stores that cannot be reached, or that are not to be trusted."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from OpenSSL import SSL
from twisted.internet import reactor as installed_reactor
from twisted.internet.interfaces import IOpenSSLContextFactory
from zope.interface import implementer

from tests.support.s3_store import S3Store, Stall
from wingsd.backups.s3 import PartNotSent, PartStore, Range
from wingsd.errors import BackupUploadFailed, StorageError
from wingsd.threadio import Workers

reactor: Any = installed_reactor
DATA = b"archive" * 1000
WHOLE = Range(1, 0, len(DATA))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PartStore]:
    disk = Workers(reactor, "disk", 1)
    disk.start()
    path = tmp_path / "backup"
    path.write_bytes(DATA)
    with path.open("rb") as file:
        yield PartStore(reactor, disk, file.fileno(), "application/gzip")
    disk.stop()


@implementer(IOpenSSLContextFactory)
class Certificate:
    """A context factory with a certificate for one name."""

    def __init__(self, authority: trustme.CA, name: str) -> None:
        self._context = SSL.Context(SSL.TLS_SERVER_METHOD)
        authority.issue_cert(name).configure_cert(self._context)

    def getContext(self) -> SSL.Context:
        return self._context


async def put_by_tls(store: PartStore, tls: Certificate) -> S3Store:
    other = S3Store(reactor)
    other.listen(tls)
    try:
        await store.put(other.sign("up", [1])[0], WHOLE)
    finally:
        await other.close()
    return other


async def test_a_store_is_trusted_by_the_systems_authorities(
    store: PartStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    other = await put_by_tls(store, Certificate(authority, "127.0.0.1"))
    assert other.object("up") == DATA


async def test_a_store_of_an_unknown_authority_gets_nothing(store: PartStore) -> None:
    with pytest.raises(BackupUploadFailed, match="certificate verify failed"):
        await put_by_tls(store, Certificate(trustme.CA(), "127.0.0.1"))


async def test_a_store_with_the_certificate_of_another_name_gets_nothing(
    store: PartStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with pytest.raises(BackupUploadFailed, match="is for another name"):
        await put_by_tls(store, Certificate(authority, "store.example"))


@pytest.mark.promise("tls-is-modern")
async def test_a_store_with_cbc_suites_alone_gets_nothing(
    store: PartStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    certificate = Certificate(authority, "127.0.0.1")
    certificate.getContext().set_options(SSL.OP_NO_TLSv1_3)
    certificate.getContext().set_cipher_list(b"ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES128-SHA")
    with pytest.raises(PartNotSent, match="no TLS"):
        await put_by_tls(store, certificate)


async def test_a_store_that_does_not_listen_may_listen_later(store: PartStore) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(PartNotSent, match="refused"):
        await store.put(f"http://127.0.0.1:{port}/?uploadId=up", WHOLE)


async def test_what_does_not_speak_http_is_no_store(store: PartStore) -> None:
    other = S3Store(reactor)
    other.listen()
    try:
        with pytest.raises(PartNotSent, match="no TLS"):
            await store.put(other.sign("up", [1])[0].replace("http:", "https:"), WHOLE)
    finally:
        await other.close()


async def test_an_archive_that_has_become_shorter_is_not_sent(store: PartStore) -> None:
    other = S3Store(reactor)
    other.listen()
    try:
        with pytest.raises(StorageError, match="shorter"):
            await store.put(other.sign("up", [1])[0], Range(1, 0, 2 * len(DATA)))
        assert other.parts == {}
    finally:
        await other.close()


async def test_of_a_part_that_is_not_taken_little_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, read = 256 << 20, []

    def counting(descriptor: int, count: int, offset: int) -> bytes:
        read.append(offset + count)
        return pread(descriptor, count, offset)

    pread = os.pread
    monkeypatch.setattr(os, "pread", counting)
    disk = Workers(reactor, "disk", 1)
    disk.start()
    other = S3Store(reactor)
    other.listen()
    other.behave(Stall())
    try:
        with (tmp_path / "backup").open("wb+") as file:
            file.truncate(size)
            store = PartStore(reactor, disk, file.fileno(), "application/gzip", stall_limit=1)
            with pytest.raises(PartNotSent, match="nothing moved on"):
                await store.put(other.sign("up", [1])[0], Range(1, 0, size))
    finally:
        await other.close()
        disk.stop()
    # What the kernel keeps for both ends of the connection, and a piece.
    assert 0 < max(read) < 16 << 20
