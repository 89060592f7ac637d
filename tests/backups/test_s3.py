"""Archives on their way to a store of S3, which is really there, and misbehaves."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
import trustme
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.support.reactor import reactor, until
from tests.support.s3_store import NO_UPLOAD, Cut, Endless, S3Store, Say, Stall, StoreAs
from tests.support.workers import HeldWorkers
from wingsd.backups import s3 as uploading
from wingsd.backups.s3 import (
    ASK_PANEL_FOR,
    MARGIN,
    FileRange,
    GrowingArchive,
    MultipartUpload,
    PartNotSent,
    PartStore,
    PartUrls,
    Range,
    SignedParts,
    part_url,
)
from wingsd.errors import (
    BackupSettled,
    BackupUploadFailed,
    InvalidData,
    PanelRefused,
    PanelUnreachable,
    StorageError,
    WingsdError,
)
from wingsd.threadio import Workers
from wingsd.util.retry import Backoff

PART = 300_000
#: Four parts, the last of them shorter.
SIZE = 3 * PART + 1000


class Site:
    """A store, an archive of `SIZE` bytes, and a Panel that signs its parts."""

    def __init__(self, directory: Path, store: S3Store, disk: Workers) -> None:
        self.store = store
        self.disk = disk
        self.data = os.urandom(SIZE)
        path = directory / "backup.tar.gz"
        path.write_bytes(self.data)
        self.file = path.open("rb")
        self.uploads = 0

    async def all_parts(self, _: int) -> SignedParts:
        """Sign all parts of a new upload, as Pterodactyl's Panel."""
        self.uploads += 1
        return self.sign(1, 4)

    async def two_parts(self, first: int) -> SignedParts:
        """Sign two parts of the same upload, as Calagopus' Panel does with fifty."""
        self.uploads = 1
        return self.sign(first, 2, renewable=True)

    def sign(self, first: int, count: int, *, renewable: bool = False) -> SignedParts:
        urls = self.store.sign(f"up{self.uploads}", range(first, first + count))
        parts = tuple(part_url(url, reactor.seconds()) for url in urls)
        return SignedParts(first, parts, PART, at_once=2, renewable=renewable)

    def upload(
        self,
        ask: Callable[[int], Awaitable[SignedParts]] | None = None,
        archive: GrowingArchive | None = None,
        **limits: float,
    ) -> MultipartUpload:
        unused: Any = None
        urls: Any = PartUrls(unused, reactor, "b")
        urls.ask = ask or self.all_parts
        store = PartStore(reactor, self.disk, self.file.fileno(), "application/x-gzip", **limits)
        if archive is None:
            archive = GrowingArchive()
            archive.complete(SIZE)
        return MultipartUpload(reactor, urls, archive, store, "b", 3)


@pytest_twisted.async_yield_fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(uploading, "BACKOFF", Backoff(0.01, 0.1))
    disk = Workers(reactor, "disk", 2)
    disk.start()
    store = S3Store(reactor)
    store.listen()
    site = Site(tmp_path, store, disk)
    try:
        yield site
    finally:
        site.file.close()
        disk.stop()
        await store.close()


def puts(site: Site) -> list[int]:
    return sorted(put.number for put in site.store.puts)


async def test_all_parts_are_stored_and_reported_with_their_etags(site: Site) -> None:
    parts = await site.upload().run()
    assert site.store.object("up1") == site.data
    assert [part.part_number for part in parts] == [1, 2, 3, 4]
    assert all(part.etag.startswith('"') and len(part.etag) == 34 for part in parts)
    assert {put.content_type for put in site.store.puts} == {"application/x-gzip"}
    assert sorted(put.length for put in site.store.puts) == [1000, PART, PART, PART]
    assert site.store.at_once <= 2


@pytest.mark.promise("s3-part-is-sent-again")
@pytest.mark.parametrize(
    "fault",
    [
        Say(500, b"<Error><Code>InternalError</Code></Error>"),
        Say(503, early=True),
        Say(429, headers=(("Retry-After", "0"),)),
        Say(408),
        Say(400, b"<Error><Code>RequestTimeout</Code></Error>"),
        Say(200, b"<html>Welcome to the hotel</html>"),
        Say(200, b"", (("ETag", "x" * 2000),)),
        StoreAs(()),
        Cut(100_000),
        Cut(),
    ],
    ids=[
        *("500", "503 early", "429", "408", "RequestTimeout", "error page", "long ETag"),
        *("no ETag", "cut", "cut at once"),
    ],
)
async def test_a_part_is_sent_again_from_its_own_beginning(site: Site, fault: Any) -> None:
    site.store.behave(fault, part=2)
    parts = await site.upload().run()
    assert len(parts) == 4
    assert site.store.object("up1") == site.data
    assert puts(site) == [1, 2, 2, 3, 4]


@pytest.mark.promise("s3-part-is-sent-again")
@pytest.mark.parametrize(
    ("say", "words"),
    [
        (Say(404, NO_UPLOAD, early=True), "NoSuchUpload: It does not exist."),
        (Say(403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>"), "SignatureDoesNotMatch"),
        (Say(307, b"", (("Location", "http://10.0.0.1/x?secret"),)), "redirects to 10.0.0.1,"),
        (Say(307, b"", (("Location", "http://[::1?secret"),)), "redirects to an invalid URL,"),
    ],
)
async def test_a_refusal_ends_the_upload_with_the_stores_reason(
    site: Site, say: Say, words: str
) -> None:
    site.store.behave(say, part=2)
    with pytest.raises(BackupUploadFailed) as caught:
        await site.upload().run()
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)
    assert puts(site).count(2) == 1
    await no_connections(site)


@pytest.mark.promise("s3-part-is-sent-again")
async def test_faults_without_end_end_the_upload(site: Site) -> None:
    site.store.behave(Say(500, b"busy"), times=10, part=1)
    with pytest.raises(BackupUploadFailed, match="answered 500: busy"):
        await site.upload().run()
    assert puts(site).count(1) == 3


@pytest.mark.promise("s3-part-is-sent-again")
async def test_a_store_that_takes_nothing_is_given_up(site: Site) -> None:
    site.store.behave(Stall(), times=3, part=1)
    with pytest.raises(BackupUploadFailed, match="nothing moved on"):
        await site.upload(stall_limit=0.2).run()


async def test_a_part_may_not_take_longer_than_configured(site: Site) -> None:
    site.store.behave(Stall(), times=3, part=1)
    with pytest.raises(BackupUploadFailed, match="took more than"):
        await site.upload(part_limit=0.05, stall_limit=0.3).run()


@pytest.mark.promise("s3-part-is-sent-again")
async def test_an_endless_answer_is_cut_off(site: Site) -> None:
    site.store.behave(Endless(), part=4)
    assert len(await site.upload().run()) == 4
    await no_connections(site)


@pytest.mark.promise("s3-part-is-sent-again")
async def test_expired_urls_of_a_new_upload_let_all_parts_be_sent_again(site: Site) -> None:
    async def ask(first: int) -> SignedParts:
        signed = await site.all_parts(first)
        if site.uploads == 1:
            site.store.expire()
        return signed

    await site.upload(ask).run()
    assert site.store.object("up2") == site.data
    assert site.store.object("up1") == b""


@pytest.mark.promise("s3-part-is-sent-again")
async def test_expired_urls_of_the_same_upload_are_asked_anew_for_what_is_left(
    site: Site,
) -> None:
    site.store.behave(Say(403, b"<Code>ExpiredRequest</Code>", early=True), part=3)
    parts = await site.upload(site.two_parts).run()
    assert len(parts) == 4
    assert site.store.object("up1") == site.data
    assert puts(site) == [1, 2, 3, 3, 4]


async def test_urls_that_are_always_expired_end_the_upload(site: Site) -> None:
    async def ask(first: int) -> SignedParts:
        signed = await site.all_parts(first)
        site.store.expire()
        return signed

    with pytest.raises(BackupUploadFailed, match="expire before all parts are sent"):
        await site.upload(ask).run()
    assert site.uploads == 4


async def test_parts_are_sent_while_the_archive_is_made(site: Site) -> None:
    archive = GrowingArchive()
    running = Deferred.fromCoroutine(site.upload(site.two_parts, archive).run())
    archive.grew(PART + 5)
    await until(lambda: len(site.store.parts) == 1)
    assert puts(site) == [1]
    archive.grew(2 * PART)
    await until(lambda: len(site.store.parts) == 2)
    archive.complete(SIZE)
    assert len(await running) == 4
    assert site.store.object("up1") == site.data


async def test_an_archive_that_ends_with_a_part_has_no_empty_one(site: Site) -> None:
    archive = GrowingArchive()
    archive.complete(2 * PART)
    parts = await site.upload(site.two_parts, archive).run()
    assert [part.part_number for part in parts] == [1, 2]


@pytest.mark.parametrize(("begin_all_before", "begun"), [(90, 2), (3600, 4)])
async def test_a_cancelled_upload_leaves_no_connection(
    site: Site, monkeypatch: pytest.MonkeyPatch, begin_all_before: int, begun: int
) -> None:
    """Before their URLs expire, all parts that are left are begun."""
    monkeypatch.setattr(uploading, "BEGIN_ALL_BEFORE", begin_all_before)
    site.store.behave(Stall(), times=begun)  # Else one may have ended before another begins.
    running = Deferred.fromCoroutine(site.upload().run())
    await until(lambda: len(site.store.puts) == begun)
    assert site.store.at_once == begun
    running.cancel()
    with pytest.raises(CancelledError):
        await running
    await no_connections(site)


async def no_connections(site: Site) -> None:
    site.store.resume()
    await until(lambda: not site.store.connections)


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


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """An authority that the system trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return authority


@pytest_twisted.async_yield_fixture
async def other() -> AsyncIterator[S3Store]:
    """A store without TLS."""
    other = S3Store(reactor)
    other.listen()
    yield other
    await other.close()


async def test_a_store_is_trusted_by_the_systems_authorities(
    store: PartStore, authority: trustme.CA
) -> None:
    stored = await put_by_tls(store, Certificate(authority, "127.0.0.1"))
    assert stored.object("up") == DATA


async def test_a_store_of_an_unknown_authority_gets_nothing(store: PartStore) -> None:
    with pytest.raises(BackupUploadFailed, match="certificate verify failed"):
        await put_by_tls(store, Certificate(trustme.CA(), "127.0.0.1"))


async def test_a_store_with_the_certificate_of_another_name_gets_nothing(
    store: PartStore, authority: trustme.CA
) -> None:
    with pytest.raises(BackupUploadFailed, match="is for another name"):
        await put_by_tls(store, Certificate(authority, "store.example"))


@pytest.mark.promise("tls-is-modern")
async def test_a_store_with_cbc_suites_alone_gets_nothing(
    store: PartStore, authority: trustme.CA
) -> None:
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


async def test_what_does_not_speak_http_is_no_store(store: PartStore, other: S3Store) -> None:
    with pytest.raises(PartNotSent, match="no TLS"):
        await store.put(other.sign("up", [1])[0].replace("http:", "https:"), WHOLE)


async def test_an_archive_that_has_become_shorter_is_not_sent(
    store: PartStore, other: S3Store
) -> None:
    with pytest.raises(StorageError, match="shorter"):
        await store.put(other.sign("up", [1])[0], Range(1, 0, 2 * len(DATA)))
    assert other.parts == {}


async def test_of_a_part_that_is_not_taken_little_is_read(
    store: PartStore, other: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, read = 256 << 20, []

    def counting(descriptor: int, count: int, offset: int) -> bytes:
        read.append(offset + count)
        return pread(descriptor, count, offset)

    pread = os.pread
    monkeypatch.setattr(os, "pread", counting)
    other.behave(Stall())
    os.truncate(tmp_path / "backup", size)
    store = attrs.evolve(store, stall_limit=1)
    with pytest.raises(PartNotSent, match="nothing moved on"):
        await store.put(other.sign("up", [1])[0], Range(1, 0, size))
    # What the kernel keeps for both ends of the connection, and a piece.
    assert 0 < max(read) < 16 << 20


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize(
    ("read", "delivered"),
    [(DATA, bytes), (b"", StorageError), (Failure(OSError(5, "it failed")), StorageError)],
    ids=["all", "nothing", "a failure"],
)
def test_what_is_read_after_the_end_of_a_part_is_dropped(
    tmp_path: Path, read: Any, delivered: type[object], closed: bool
) -> None:
    disk, got = HeldWorkers(), list[object]()
    (tmp_path / "backup").write_bytes(DATA)
    with (tmp_path / "backup").open("rb") as file:
        part = FileRange(file.fileno(), 0, len(DATA), disk, got.append)  # type: ignore[arg-type]
    part.start(got.append, lambda: None)
    if closed:
        part.close()
    (reading,) = disk.held
    descriptor = reading.args[0]
    assert os.fstat(descriptor).st_size == len(DATA)
    reading.result.callback(read)
    assert [type(each) for each in got] == ([] if closed else [delivered])
    part.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


URL = "https://store/bucket/b.tar.gz?partNumber={}&uploadId=up&X-Amz-Expires=3600"


class FakePanel:
    """Answers by what was asked; an exception is raised."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.paths: list[str] = []

    async def get(self, _: str, path: str, read: Callable[[object], Any]) -> Any:
        self.paths.append(path)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return read(answer)


def answer(count: int, **fields: Any) -> dict[str, Any]:
    return {"parts": [URL.format(n + 1) for n in range(count)], "part_size": 100} | fields


def all_parts(panel: Any, clock: Clock) -> PartUrls:
    return PartUrls(panel, clock, "b", 250)


async def test_the_panel_is_asked_once_by_the_size_of_the_archive() -> None:
    panel, clock = FakePanel(answer(3, max_concurrent_uploads=10)), Clock()
    urls = all_parts(panel, clock)
    signed = await urls.signed(1)
    assert (signed.part_size, signed.at_once, signed.renewable) == (100, 10, False)
    assert (await urls.of(3)).url == URL.format(3)
    assert panel.paths == ["/backups/b?size=250"]


async def test_calagopus_is_asked_page_by_page() -> None:
    panel, clock = FakePanel(answer(2)), Clock()
    urls = PartUrls(panel, clock, "b")  # type: ignore[arg-type]
    assert (await urls.signed(1)).renewable
    await urls.of(2)
    await urls.of(3)
    assert panel.paths == [f"/backups/b/s3/parts?from_part={n}" for n in (1, 3)]


@pytest.mark.parametrize("why", ["they are about to expire", "they are forgotten"])
async def test_urls_are_asked_anew(why: str) -> None:
    panel, clock = FakePanel(answer(3)), Clock()
    urls = all_parts(panel, clock)
    url = await urls.of(1)
    if why == "they are about to expire":
        clock.advance(3600 - MARGIN)
    else:
        urls.forget(url)
        urls.forget(url)
    await urls.of(2)
    assert len(panel.paths) == 2


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [(PanelUnreachable("down", ""), 1), (PanelRefused("no", "", 429, 60.0), 60)],
)
async def test_a_panel_that_does_not_answer_now_is_asked_again(
    fault: WingsdError, seconds: int
) -> None:
    panel, clock = FakePanel(fault, answer(3)), Clock()
    waiting = Deferred.fromCoroutine(all_parts(panel, clock).of(1))
    clock.advance(seconds - 1)
    assert not waiting.called
    clock.advance(1)
    assert (await waiting).upload == "up"


async def test_a_panel_that_is_away_for_hours_is_given_up() -> None:
    panel, clock = FakePanel(PanelUnreachable("down", "")), Clock()
    waiting = Deferred.fromCoroutine(all_parts(panel, clock).of(1))
    clock.pump([300.0] * int(ASK_PANEL_FOR / 300 + 1))
    with pytest.raises(BackupUploadFailed, match="no URLs for 6 h"):
        await waiting


@pytest.mark.parametrize(
    ("status", "error"),
    [(409, BackupSettled), (400, BackupUploadFailed), (417, BackupUploadFailed)],
)
async def test_a_panel_that_refuses_is_not_asked_again(
    status: int, error: type[Exception]
) -> None:
    panel = FakePanel(PanelRefused("no", "it is not of S3", status))
    with pytest.raises(error, match="not of S3"):
        await all_parts(panel, Clock()).of(1)
    assert len(panel.paths) == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"part_size": 0}, "part_size"),
        ({"part_size": "5"}, "part_size"),
        ({"parts": []}, "parts"),
        ({"parts": [URL.format(1)]}, "signed 1 parts"),
        ({"parts": None}, "parts"),
    ],
)
async def test_an_answer_that_fits_no_archive_is_refused(
    fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidData, match=words):
        await all_parts(FakePanel(answer(3, **fields)), Clock()).of(1)


async def test_a_page_without_the_part_that_was_asked_for_ends_the_upload() -> None:
    clock = Clock()
    urls = all_parts(FakePanel(answer(3)), clock)
    with pytest.raises(BackupUploadFailed, match="no URL for part 4"):
        await urls.of(4)


async def test_more_parts_than_a_store_has_end_the_upload() -> None:
    with pytest.raises(BackupUploadFailed, match="make parts larger"):
        await all_parts(FakePanel(answer(3)), Clock()).of(10_001)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://store/x?secret",
        "https:///x?secret",
        "https://user:secret@store/x",
        "https://store:0/x?secret",
        "https://store:99999/x?secret",
        "https://[::1/x?secret",
        "https://störe/x?secret",
        "https://store/x?secret\r\nX: y",
        "https://store/" + "x" * 9000 + "secret",
        "",
    ],
)
def test_a_url_that_cannot_be_asked_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(InvalidData) as caught:
        part_url(url, 0.0)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "seconds"),
    [
        ("X-Amz-Expires=600", 600 - MARGIN),
        ("X-Amz-Expires=10", 9),
        ("X-Amz-Expires=soon", 3600 - MARGIN),
        ("Expires=2000", 1000 - MARGIN),
        ("", 3600 - MARGIN),
    ],
)
def test_the_lifetime_of_a_url_is_read_from_it(
    query: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 1000.0)
    assert part_url(f"http://10.0.0.2:9000/b?{query}", 5.0).good_until == 5.0 + seconds
