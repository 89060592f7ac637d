"""The ledger of a destination, and trees that are known from it."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from unittest import mock
from zlib import crc32

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.moves.changing import Changes, change
from tests.moves.moving import BOOT, LIMITS, MOVE, Destination, Source, differing, feed
from tests.moves.test_live_source import Move
from tests.moves.unchanged.fake_kernel import FakeFileSystems
from tests.support.archives import in_blocks, seen
from tests.support.attributes import reading
from wingsd.errors import BatchConflict, LedgerDamaged, LedgerVersionUnknown, StorageError
from wingsd.filesystem.walk import Listing, opened
from wingsd.moves import scan, seen_directories, source
from wingsd.moves.ledger import (
    HEADER,
    MARK_AT,
    LedgerFile,
    LedgerReader,
    LedgerWriter,
    RecordType,
    recover,
)
from wingsd.moves.seen_directories import StatResults, WalkFrame, frames_in, stat_results
from wingsd.moves.source import KnownTree
from wingsd.moves.unchanged import KERNEL, UnchangedFiles
from wingsd.moves.walk_process import look as look_at


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


# Rounds that scan only what was changed since the last one: whatever was, all of it arrives


PATHS = (b"a", b"a/b", b"a/b/c", b"a/b/d", b"a!", b"a!/b", b"e", b"e/f", b"g")


class LookedAtFirst:
    """What another process finds that has looked at everything when the walk begins."""

    def __init__(self, root: int, paths: Sequence[bytes]) -> None:
        found = BytesIO()
        look_at(root, paths, found)
        frames = frames_in(bytearray(found.getvalue()))
        self._frames = {frame.path: frame for frame, _ in frames}
        self.take: Callable[[bytes], WalkFrame | None] = self._frames.get

    def close(self) -> None:
        pass


@pytest.mark.root
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(change, max_size=8), min_size=1, max_size=5),
    st.lists(change, max_size=8),
    st.sampled_from((10, 0)),
    st.booleans(),
)
def test_any_changes_between_rounds_arrive(
    tmp_path_factory: pytest.TempPathFactory,
    rounds: list[list[tuple[str, int, int, bytes]]],
    at_the_stop: list[tuple[str, int, int, bytes]],
    older: int,
    is_beside: bool,
) -> None:
    place = tmp_path_factory.mktemp("move")
    tree = place / "source"
    for path in PATHS:
        (tree / os.fsdecode(path)).mkdir(parents=True)
        (tree / os.fsdecode(path) / "file").write_bytes(path)
    changes = Changes(tree)
    least = 0 if is_beside else source.LEAST_NAMES
    with (
        mock.patch.multiple(source, LEAST_NAMES=least, WalkProcess=LookedAtFirst),
        Destination(place / "destination").open() as to,
    ):
        move = Move(tree, to, older)
        with closing(move.source):
            for steps in rounds:
                move.round()
                for step in steps:
                    changes.run(step)
            move.plan(running=True)  # before it is stopped
            for step in at_the_stop:
                changes.run(step)
            move.round(running=False)
            assert move.source.walk_again()
            assert not move.source.unproven()
            move.to.finish()
        there = place / "destination" / "tree"
        assert seen(there, owner=False) == seen(tree, owner=False)
        vars(move).clear()


def test_only_what_was_changed_is_scanned_again(tmp_path: Path) -> None:
    for name in ("one", "two/below", "three"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_bytes(b"file")
    lines: list[str] = []
    with opened(str(tmp_path)) as root:
        rule = UnchangedFiles(root, FakeFileSystems(), lines.append)
        known = KnownTree(rule, reading(root), None)
        assert known.rescan(root, lines.append) is None
        tree = known.scan(root, lines.append)
        known.not_settled(b"three/file")
        known.read_all()
        (tmp_path / "two/below/file").write_bytes(b"other")
        os.mkfifo(tmp_path / "one/pipe")
        (tmp_path / "one/file").unlink()
        part = known.rescan(root, lines.append)
        assert part is not None
        assert part.directories == [b"one", b"three", b"two/below"]
        assert part.tree.find(b"two/below/file") is not None
        assert part.tree.find(b"one/file") is None
        known.read_all()
        # people are told of the pipe in each round
        part = known.rescan(root, lines.append)
        assert part is not None
        assert part.directories == [b"one"]
        assert len(lines) == 2
        (tmp_path / "one/pipe").unlink()
        (tmp_path / "one/link").hardlink_to(tmp_path / "two/below/file")
        assert known.rescan(root, lines.append) is None
        known.forget()
        assert known.rescan(root, lines.append) is None
        tree.store.close()


def test_all_is_scanned_where_there_are_too_many_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seen_directories, "MOST", 3)
    for name in ("a", "c"):
        (tmp_path / name).mkdir()
    lines: list[str] = []
    with opened(str(tmp_path)) as root:
        rule = UnchangedFiles(root, FakeFileSystems(), lines.append)
        known = KnownTree(rule, reading(root), None)
        known.scan(root, lines.append).store.close()
        known.read_all()
        assert known.is_all_of(root)
        (tmp_path / "b").mkdir()
        assert known.rescan(root, lines.append) is None
        known.scan(root, lines.append).store.close()
        known.read_all()
        assert not known.is_all_of(root)
        assert known.rescan(root, lines.append) is None


@pytest.mark.promise("unread-files-are-unchanged")
def test_a_symlink_that_was_made_just_now_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "old").symlink_to("target")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "new").symlink_to("target")
    later = 10 * 10**9  # ns
    kernel = attrs.evolve(KERNEL, wall_time=lambda: time.time_ns() + later)
    lines: list[str] = []
    with opened(str(tmp_path)) as root:
        rule = UnchangedFiles(root, FakeFileSystems(), lines.append, kernel)
        known = KnownTree(rule, reading(root), None)
        found = []
        rule.begin(is_final=True)  # nothing settles
        known.scan(root, lines.append).store.close()
        known.read_all()
        for _ in range(2):
            rule.begin()
            part = known.rescan(root, lines.append)
            assert part is not None
            found.append(part.directories)
            part.tree.store.close()
            known.read_all()
    assert found == [[b"", b"below"], []]


@pytest.mark.promise("unread-files-are-unchanged")
def test_all_is_scanned_when_a_name_of_several_goes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "file").write_bytes(b"file")
    (tmp_path / "b" / "file").hardlink_to(tmp_path / "a" / "file")
    lines: list[str] = []

    def look(listing: Listing, skipped: Callable[[bytes, str], object]) -> StatResults:
        found = stat_results(listing, skipped)
        if listing.path == (b"a",):
            (tmp_path / "a" / "file").unlink()
        return found

    with opened(str(tmp_path)) as root:
        rule = UnchangedFiles(root, FakeFileSystems(), lines.append)
        known = KnownTree(rule, reading(root), None)
        rule.begin()
        known.scan(root, lines.append).store.close()
        known.read_all()
        monkeypatch.setattr(scan, "stat_results", look)
        assert known.rescan(root, lines.append) is None
