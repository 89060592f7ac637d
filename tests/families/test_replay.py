"""Each family's upload, cut wherever it can be: what comes of it is always the same."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest

from tests.families.endpoint import Endpoint, chunks_of
from tests.families.recordings import BACKUPS, LOG, RECORDINGS, Recording
from tests.support.sample_server import sha256
from tests.threadio.reactor import ManualReactor
from wingsd.api.transfers import UploadStream
from wingsd.backups.store import AttachedLog
from wingsd.config import CALAGOPUS
from wingsd.transfers.incoming.uploads import FormFeed
from wingsd.transfers.upload_form import Checksums, UploadForm

pytestmark = pytest.mark.promise("corrupt-upload-fails")

#: What each part is, and its blocks; the archive is None.
Parts = list[tuple[object, list[bytes]]]


class FakeRequest:
    """The headers of an upload; pausing its sender has no effect."""

    def __init__(self, content_type: str) -> None:
        self._headers = {"Content-Type": content_type}

    def header(self, name: str) -> str:
        return self._headers.get(name, "")

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass

    def proceed(self) -> None:
        pass


def ended_upload(recording: Recording, pieces: Iterable[bytes]) -> UploadStream:
    """Return an upload that has ended, and of which nothing is read yet."""
    request: Any = FakeRequest(recording.content_type)
    upload = UploadStream(request)
    for piece in pieces:
        upload.data(piece)
    upload.end()
    return upload


def read(recording: Recording, pieces: Iterable[bytes]) -> tuple[Parts, Checksums]:
    """Return each part of an upload's body as the thread gets it, and the checksums."""
    upload = ended_upload(recording, pieces)
    feed = FormFeed(UploadForm(recording.content_type), ManualReactor())
    upload.deliver(feed)
    parts: Parts = [(None, [*feed.blocks()])]
    while (label := feed.next_part()) is not None:
        parts.append((label, [*feed.blocks()]))
    checksums: Any = feed.checksums.result
    return parts, checksums


def in_two(whole: bytes, at: int) -> list[bytes]:
    return [whole[:at], whole[at:]]


def in_two_before(rest: int, whole: bytes) -> list[bytes]:
    return in_two(whole, len(whole) - rest)


def byte_by_byte(whole: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in whole]


def expected(recording: Recording) -> tuple[Parts, Checksums]:
    """Return what the thread gets of a recording, block for block."""
    along: Parts = [(backup, [data] if data else []) for backup, data in recording.backups.items()]
    if recording.parts:
        # Calagopus' nodes send it first.
        along.insert(0 if recording.family == CALAGOPUS else len(along), (AttachedLog(), [LOG]))
    assert recording.checksum is not None
    backups = {backup.uuid: sha256(data) for backup, data in recording.backups.items()}
    return [(None, [recording.archive]), *along], Checksums(recording.checksum, backups)


def test_the_form_is_read_the_same_wherever_it_is_cut(family: str) -> None:
    recording = RECORDINGS[family]
    # Block for block: behind this nothing is left that could tell one cut from another.
    whole = expected(recording)
    for at in range(len(recording.body) + 1):
        assert read(recording, in_two(recording.body, at)) == whole, at
    assert read(recording, byte_by_byte(recording.body)) == whole
    assert read(recording, recording.writes) == whole


async def test_the_result_is_the_same_wherever_it_is_cut(family: str, endpoint: Endpoint) -> None:
    recording = RECORDINGS[family]
    whole = await endpoint.upload(recording)
    assert (whole.status, whole.files, whole.state) == (200, recording.files, "completed")
    assert len(whole.kept) == (len(BACKUPS) + 1 if recording.parts else 0)
    # Counted from the end, since the head has another token each time.
    edges = [*itertools.accumulate(map(len, reversed([*chunks_of(recording.writes)])), initial=0)]
    for rest in edges:
        assert await endpoint.upload(recording, partial(in_two_before, rest)) == whole, rest
    assert await endpoint.upload(recording, byte_by_byte) == whole
