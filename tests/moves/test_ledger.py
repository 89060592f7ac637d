"""Ledgers: a cut leaves what was before it, other faults are found, newer ones left alone."""

from __future__ import annotations

import os
import random
from itertools import pairwise
from pathlib import Path
from zlib import crc32

import pytest

from tests.moves.moving import BOOT, LIMITS, MOVE, Destination, Source, differing, feed
from tests.support.archives import in_blocks
from wingsd.errors import BatchConflict, LedgerDamaged, LedgerVersionUnknown, StorageError
from wingsd.moves.ledger import (
    HEADER,
    MARK_AT,
    LedgerFile,
    LedgerReader,
    LedgerWriter,
    RecordType,
    recover,
)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the ledger of a move of two rounds, the second one open."""
    root = tmp_path_factory.mktemp("source")
    (root / "d").mkdir()
    (root / "d/file").write_bytes(b"x" * 20_000)
    os.link(root / "d/file", root / "hard")
    (root / "small").write_bytes(b"small")
    (root / "link").symlink_to("small")
    source = Source(root=root)
    destination = Destination(tmp_path_factory.mktemp("destination"))
    with destination.open() as to:
        for batch in source.round():
            feed(to, batch.pieces())
        to.close_round(1, source.filler.number, source.sent.root())
        (root / "small").rename(root / "d/small")
        for batch in source.round():
            feed(to, batch.pieces())
    return (destination.place / "ledger").read_bytes()


def records(data: bytes) -> list[tuple[RecordType, bytes, int]]:
    return [
        (each.type, each.payload, each.end) for each in LedgerReader(in_blocks(data, 7)).records()
    ]


def marked(data: bytes, flushed: int) -> bytes:
    """Return a ledger of which so much had been flushed."""
    return data[:MARK_AT] + LedgerWriter.mark(flushed) + data[HEADER.size :]


def test_a_ledger_that_is_cut_anywhere_says_what_was_before(ledger: bytes) -> None:
    whole = records(ledger)
    assert {kind for kind, _, _ in whole} >= {RecordType.BATCH, RecordType.CHECK, RecordType.ROUND}
    for end in range(len(ledger)):
        cut = marked(ledger, 0)[:end]
        assert records(cut) == [each for each in whole if each[2] <= end]
        recover(LedgerReader([cut]), LIMITS)


def test_a_crash_may_leave_anything_of_what_was_not_flushed(ledger: bytes) -> None:
    whole = records(ledger)
    assert records(bytes(len(ledger))) == []
    random_ = random.Random(1)
    for number, (_, _, flushed) in enumerate(whole[:-1]):
        data = bytearray(marked(ledger, flushed))
        assert records(bytes(data)) == whole
        start = random_.randrange(flushed, len(data))
        end = random_.randrange(start, len(data) + 50)
        data[start:end] = bytes(end - start)
        assert records(bytes(data))[: number + 1] == whole[: number + 1]
        with pytest.raises(LedgerDamaged, match="shorter than it was"):
            records(marked(ledger, flushed)[: flushed - 1])


def test_a_ledger_tells_how_much_of_it_was_flushed(tmp_path: Path) -> None:
    ledger, _ = LedgerFile.open(str(tmp_path / "ledger"), MOVE, BOOT, LIMITS)
    for _ in range(2):
        before = ledger.size
        ledger.append_numbers(RecordType.CHECK)
        ledger.append_round(1, bytes(32))
        reader = LedgerReader([(tmp_path / "ledger").read_bytes()])
        reader.header()
        assert reader.flushed == before
    ledger.close()


def test_zeros_that_were_written_ahead_are_no_records(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    ledger, _ = LedgerFile.open(str(path), MOVE, BOOT, LIMITS)
    ledger.append_numbers(RecordType.CHECK)
    killed = path.read_bytes()
    assert not any(killed[ledger.size :])
    assert len(killed) > ledger.size + 4096
    assert [kind for kind, _, _ in records(killed)] == [RecordType.OPENED, RecordType.CHECK]
    size = ledger.size
    ledger.close()
    assert path.stat().st_size == size
    path.write_bytes(killed)
    ledger, _ = LedgerFile.open(str(path), MOVE, BOOT, LIMITS)
    ledger.append_round(1, bytes(32))
    kinds = [kind for kind, _, _ in records(path.read_bytes())]
    assert kinds == [RecordType.OPENED, RecordType.CHECK, RecordType.OPENED, RecordType.ROUND]
    ledger.close()


def test_a_changed_byte_is_found_anywhere(ledger: bytes) -> None:
    random_ = random.Random(1)
    ledger = marked(ledger, len(ledger))
    for at in range(len(ledger)):
        changed = bytearray(ledger)
        changed[at] ^= random_.randrange(1, 256)
        with pytest.raises((LedgerDamaged, LedgerVersionUnknown)):
            records(bytes(changed))


def test_a_record_cannot_be_dropped_or_repeated(ledger: bytes) -> None:
    ends = [HEADER.size, *(end for _, _, end in records(ledger))]
    ledger = marked(ledger, len(ledger))
    for start, end in pairwise(ends[:-1]):
        with pytest.raises(LedgerDamaged):
            records(ledger[:start] + ledger[end:])
        with pytest.raises(LedgerDamaged):
            records(ledger[:end] + ledger[start:])


def test_a_ledger_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    writer = LedgerWriter()
    newer = bytearray(writer.header(MOVE) + writer.record(RecordType.OPENED, BOOT))
    newer[8] = 3
    end = MARK_AT - 4
    newer[end:MARK_AT] = crc32(newer[:end]).to_bytes(4, "little")
    path.write_bytes(newer)
    with pytest.raises(LedgerVersionUnknown, match="it has version 3"):
        LedgerFile.open(str(path), MOVE, BOOT, LIMITS)
    assert path.read_bytes() == newer


def test_a_damaged_ledger_is_left_alone(tmp_path: Path, ledger: bytes) -> None:
    path = tmp_path / "ledger"
    damaged = ledger[:200] + bytes([ledger[200] ^ 1]) + ledger[201:]
    path.write_bytes(damaged)
    with pytest.raises(LedgerDamaged):
        LedgerFile.open(str(path), MOVE, BOOT, LIMITS)
    assert path.read_bytes() == damaged


def test_the_ledger_of_another_move_is_refused(tmp_path: Path, ledger: bytes) -> None:
    path = tmp_path / "ledger"
    path.write_bytes(ledger)
    with pytest.raises(LedgerDamaged, match="of another move"):
        LedgerFile.open(str(path), b"n" * 16, BOOT, LIMITS)


@pytest.mark.parametrize(
    "story",
    [
        [(RecordType.DONE, bytes(8))],
        [(RecordType.DONE, b"short")],
        [(RecordType.LOST, bytes(8))],
        [(RecordType.CHECK, bytes(8))],
        [(RecordType.CHECK, b"odd")],
        [(RecordType.ROUND, bytes(36))],
        [(RecordType.ROUND, b"short")],
        [(RecordType.BATCH, b"nonsense")],
        [(RecordType.PART, b"")],
        [(RecordType.END, b"")],
        [(RecordType.STATE, b"short")],
        [(RecordType.STATE, bytes(56))],
        [(RecordType.STATE, bytes(56)), (RecordType.DONE, bytes(8))],
        [(RecordType.STATE, bytes(56)), (RecordType.PART, b"nonsense")],
    ],
    ids=lambda story: " ".join(kind.name for kind, _ in story),
)
def test_records_that_make_no_sense_are_refused(story: list[tuple[RecordType, bytes]]) -> None:
    writer = LedgerWriter()
    data = writer.header(MOVE) + b"".join(writer.record(*record) for record in story)
    with pytest.raises(LedgerDamaged):
        recover(LedgerReader([data]), LIMITS)


def test_after_a_failed_write_nothing_more_is_appended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = Destination(tmp_path)

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    ledger, _ = LedgerFile.open(str(tmp_path / "ledger"), MOVE, BOOT, LIMITS)
    size = ledger.size
    ledger.close()
    fd = os.open(tmp_path / "ledger", os.O_RDWR)
    broken = LedgerFile(str(tmp_path / "ledger"), fd)
    monkeypatch.setattr(broken, "_write", full)
    with pytest.raises(StorageError, match="the disk is full"):
        broken.append(RecordType.DONE, bytes(8))
    with pytest.raises(StorageError, match="must be resumed"):
        broken.append(RecordType.DONE, bytes(8))
    broken.close()
    assert os.path.getsize(tmp_path / "ledger") == size
    with destination.open() as to:
        assert to.received.upto == 0


def test_a_ledger_is_small_and_is_written_anew_between_rounds(tmp_path: Path) -> None:
    root = tmp_path / "source"
    root.mkdir()
    data = random.Random(1).randbytes(1 << 20)
    with (root / "world").open("wb") as file:
        for _ in range(16):
            file.write(data)
    for n in range(100):
        (root / f"chunk-{n:04}").write_bytes(data[n : n + 500])
    source = Source(4 << 20, root)
    destination = Destination(tmp_path / "destination")
    with destination.open() as to:
        sizes = []
        for in_round in (1, 2, 3):
            for batch in source.round():
                feed(to, batch.pieces())
            if in_round == 1:
                with pytest.raises(BatchConflict):
                    to.compact()
            to.close_round(in_round, source.filler.number, source.sent.root())
            sizes.append(to.ledger.size)
            with (root / "world").open("r+b") as file:
                file.write(b"%d" % in_round * 200_000)
        # 16 bytes for each of 4,096 blocks, and of each small file its name and 34 bytes
        assert sizes[0] < 16.6 * 4096 + 100 * (10 + 36) + 2000
        assert sizes[2] - sizes[1] < 49 * 16.6 + 1000
        to.compact()
        assert to.ledger.size < sizes[0]
        root_before = to.tree.root()
    with destination.open() as to:
        assert to.tree.root() == root_before == source.sent.root()
        # the answer may have been lost
        to.close_round(3, source.filler.number, root_before)
        assert to.received.round == 4
        for batch in source.round():
            feed(to, batch.pieces())
        to.close_round(4, source.filler.number, source.sent.root())
        assert differing(to, destination.tree) == []
