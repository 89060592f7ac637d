"""Cancels, and the files beside a server."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults

from wingsd.errors import StorageError, TransferCancelled
from wingsd.transfers.cancellation import CancelScope, SharedSlots, slots_held
from wingsd.transfers.outgoing.attached import AttachedFile, AttachmentReader


async def test_a_cancel_ends_a_wait_with_its_reason() -> None:
    scope, cancelled = CancelScope(), []  # type: CancelScope, list[object]
    waiting: Deferred[None] = Deferred.fromCoroutine(scope.wait(Deferred(cancelled.append)))
    scope.cancel(TransferCancelled())
    with pytest.raises(TransferCancelled):
        await waiting
    assert len(cancelled) == 1


async def test_no_wait_begins_after_a_cancel() -> None:
    scope, cancelled = CancelScope(), []  # type: CancelScope, list[object]
    scope.cancel(TransferCancelled())
    with pytest.raises(TransferCancelled):
        await scope.wait(Deferred(cancelled.append))
    assert len(cancelled) == 1
    with pytest.raises(TransferCancelled):
        scope.check()


@pytest.mark.promise("shown-figures-are-true")
async def test_who_waits_for_a_slot_has_a_place_in_the_queue() -> None:
    scopes = [CancelScope() for _ in range(4)]
    ends: list[Deferred[None]] = [Deferred() for _ in scopes]
    sent, received = DeferredSemaphore(1), SharedSlots(1)

    async def hold(number: int, slots: DeferredSemaphore | SharedSlots) -> None:
        scope = scopes[number]
        held = (
            slots.held(f"{number}", 1, scope)
            if isinstance(slots, SharedSlots)
            else slots_held(slots, 1, scope)
        )
        async with held:
            await ends[number]

    for slots in (sent, received):
        jobs = [Deferred.fromCoroutine(hold(number, slots)) for number in range(4)]
        assert [scope.place for scope in scopes] == [0, 1, 2, 3]
        scopes[1].cancel(TransferCancelled())
        with pytest.raises(TransferCancelled):
            await jobs.pop(1)
        ends[0].callback(None)
        assert [scope.place for scope in scopes] == [0, 0, 0, 1]
        for number in (2, 3):
            ends[number].callback(None)
        await gatherResults(jobs)
        scopes[:] = [CancelScope() for _ in range(4)]
        ends[:] = [Deferred() for _ in scopes]


# Files beside a server, read from any position


DATA = bytes(range(256)) * 40


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "backup.tar.gz"
    path.write_bytes(DATA)
    return path


@pytest.mark.parametrize("begin", [0, 100, 5_000, len(DATA)])
def test_the_last_piece_has_the_digest_of_the_whole(path: Path, begin: int) -> None:
    reader = AttachmentReader(AttachedFile("a", str(path), len(DATA)))
    offset, sha256, found = begin, "", b""
    while not sha256:
        piece, sha256 = reader.piece(offset, 3_000)
        found, offset = found + piece, offset + len(piece)
    assert (found, sha256) == (DATA[begin:], hashlib.sha256(DATA).hexdigest())


def test_a_piece_may_be_read_again(path: Path) -> None:
    reader = AttachmentReader(AttachedFile("a", str(path), len(DATA)))
    reader.piece(0, 6_000)
    assert reader.piece(1_000, 2_000) == (DATA[1_000:3_000], "")
    assert reader.piece(3_000, 20_000)[1] == hashlib.sha256(DATA).hexdigest()


@pytest.mark.parametrize("size", [0, 500, 20_000])
def test_a_file_that_was_changed_is_not_sent(path: Path, size: int) -> None:
    reader = AttachmentReader(AttachedFile("a", str(path), len(DATA)))
    path.write_bytes(bytes(size))
    with pytest.raises(StorageError, match="changed while it was sent"):
        list(iter(lambda: reader.piece(reader.position, 3_000)[1] or None, "the end"))


def test_of_a_file_that_grows_only_the_beginning_is_sent(path: Path) -> None:
    reader = AttachmentReader(AttachedFile("log", str(path), 1_000, may_grow=True))
    assert reader.piece(0, 3_000) == (DATA[:1_000], hashlib.sha256(DATA[:1_000]).hexdigest())


def test_a_fifo_in_its_place_is_refused_with_the_reason(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = AttachmentReader(AttachedFile("a", str(tmp_path / "fifo"), 5))
    with pytest.raises(StorageError, match=r"(?i)seek"):
        reader.piece(0, 10)
