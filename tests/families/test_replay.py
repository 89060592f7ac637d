"""Each family's upload, cut wherever it can be: what comes of it is always the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from functools import partial

import pytest
import pytest_twisted

from tests.families.endpoint import Endpoint, chunks_of
from tests.families.receptions import Parts, Receptions, read
from tests.families.recordings import BACKUPS, FAMILIES, LOG, RECORDINGS, Recording
from tests.support.sample_server import sha256
from wingsd.backups.attachments import InstallLog
from wingsd.config import CALAGOPUS
from wingsd.transfers.upload_form import Checksums

recordings = pytest.mark.parametrize("recording", RECORDINGS.values(), ids=RECORDINGS)


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
        along.insert(0 if recording.family == CALAGOPUS else len(along), (InstallLog(), [LOG]))
    assert recording.checksum is not None
    backups = {backup.uuid: sha256(data) for backup, data in recording.backups.items()}
    return [(None, [recording.archive]), *along], Checksums(recording.checksum, backups)


@recordings
def test_it_is_read_alike_at_every_chunk_boundary(recording: Recording) -> None:
    # Block for block: behind this nothing is left that could tell one cut from another.
    whole = expected(recording)
    for at in range(len(recording.body) + 1):
        assert read(recording, in_two(recording.body, at)) == whole, at
    assert read(recording, byte_by_byte(recording.body)) == whole
    assert read(recording, recording.writes) == whole


def around(edges: Iterable[int], last: int) -> list[int]:
    """Return the places at, and next to, each edge."""
    near = {edge + by for edge in edges for by in (-1, 0, 1)}
    return sorted(place for place in near if 0 <= place <= last)


@recordings
def test_it_comes_to_the_disk_alike(recording: Recording, receptions: Receptions) -> None:
    whole = receptions.receive(recording, [recording.body])
    assert whole.files == recording.files
    assert sorted(whole.backups.values()) == sorted(recording.backups.values())
    assert whole.log == (LOG if recording.parts else None)
    assert whole.checksums.archive == whole.sha256
    assert whole.checksums.backups == whole.backup_sha256
    for at in around(recording.edges, len(recording.body)):
        assert receptions.receive(recording, in_two(recording.body, at)) == whole, at
    assert receptions.receive(recording, byte_by_byte(recording.body)) == whole


@pytest.mark.parametrize("family", FAMILIES)
@pytest_twisted.ensureDeferred
async def test_it_comes_through_the_endpoint_alike(
    family: str, endpoint_of: Callable[[str], Endpoint]
) -> None:
    endpoint, recording = endpoint_of(family), RECORDINGS[family]
    whole = await endpoint.upload(recording)
    assert (whole.status, whole.files, whole.state) == (200, recording.files, "completed")
    assert len(whole.kept) == (len(BACKUPS) + 1 if recording.parts else 0)
    # Counted from the end, since the head has another token each time.
    edges = [*itertools.accumulate(map(len, reversed([*chunks_of(recording.writes)])), initial=0)]
    for rest in edges:
        assert await endpoint.upload(recording, partial(in_two_before, rest)) == whole, rest
    assert await endpoint.upload(recording, byte_by_byte) == whole
