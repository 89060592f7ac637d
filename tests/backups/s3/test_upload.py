"""Archives on their way to a store that is really there, and that misbehaves."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import CancelledError, Deferred

from tests.support.s3_store import (
    NO_UPLOAD,
    Cut,
    Endless,
    S3Store,
    Say,
    Stall,
    StoreAs,
)
from wingsd.backups import s3 as uploading
from wingsd.backups.s3 import (
    GrowingArchive,
    MultipartUpload,
    PartStore,
    PartUrls,
    SignedParts,
    part_url,
)
from wingsd.errors import BackupUploadFailed
from wingsd.threadio import Workers
from wingsd.util.retry import Backoff

reactor: Any = installed_reactor
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


async def test_before_urls_expire_all_parts_that_are_left_are_begun(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "BEGIN_ALL_BEFORE", 3600)
    site.store.behave(Stall(), times=4)  # Else one may have ended before another begins.
    running = Deferred.fromCoroutine(site.upload().run())
    while len(site.store.puts) < 4:
        await turn()
    running.cancel()
    with pytest.raises(CancelledError):
        await running
    await no_connections(site)


async def test_parts_are_sent_while_the_archive_is_made(site: Site) -> None:
    archive = GrowingArchive()
    running = Deferred.fromCoroutine(site.upload(site.two_parts, archive).run())
    archive.grew(PART + 5)
    await stored(site, 1)
    assert puts(site) == [1]
    archive.grew(2 * PART)
    await stored(site, 2)
    archive.complete(SIZE)
    assert len(await running) == 4
    assert site.store.object("up1") == site.data


async def test_an_archive_that_ends_with_a_part_has_no_empty_one(site: Site) -> None:
    archive = GrowingArchive()
    archive.complete(2 * PART)
    parts = await site.upload(site.two_parts, archive).run()
    assert [part.part_number for part in parts] == [1, 2]


async def test_a_cancelled_upload_leaves_no_connection(site: Site) -> None:
    site.store.behave(Stall(), times=2)
    running = Deferred.fromCoroutine(site.upload().run())
    while len(site.store.puts) < 2:
        await turn()
    assert site.store.at_once == 2
    running.cancel()
    with pytest.raises(CancelledError):
        await running
    await no_connections(site)


async def stored(site: Site, count: int) -> None:
    while len(site.store.parts) < count:
        await turn()


async def no_connections(site: Site) -> None:
    site.store.resume()
    while site.store.connections:
        await turn()


def turn() -> Deferred[None]:
    """Return at the reactor's next turn."""
    later: Deferred[None] = Deferred()
    reactor.callLater(0.005, later.callback, None)
    return later
