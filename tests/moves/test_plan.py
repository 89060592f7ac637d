"""Plans of rounds: renames and links are told, and only what differs is sent."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.moves.moving import Source
from wingsd.errors import SourceFileChanged, TreeTooLarge
from wingsd.moves.batch import (
    DataFrame,
    DirectoryFrame,
    FileFrame,
    Frame,
    GoneFrame,
    HardFrame,
    LinkFrame,
    PutFrame,
    TakeFrame,
    WholeFrame,
    ZeroFrame,
    frame_bytes,
)
from wingsd.moves.filling import Batch
from wingsd.moves.nodes import FileNode

DATA = random.Random(1).randbytes(200_000)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Return a source that has sent two large files and a small one."""
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(DATA + name.encode())
    (tmp_path / "d").mkdir()
    (tmp_path / "d/small").write_bytes(b"small")
    made = Source(1 << 20, tmp_path)
    made.round()
    return made


def frames(batches: Sequence[Batch]) -> list[Frame]:
    """Return the frames but for those of the top directory, whose time changes."""
    found = [frame for batch in batches for frame in batch.index.frames]
    return [f for f in found if not isinstance(f, DirectoryFrame) or f.path]


def sent(batches: Sequence[Batch]) -> int:
    return sum(frame_bytes(frame) for frame in frames(batches))


def test_a_tree_that_did_not_change_is_not_sent(source: Source) -> None:
    assert frames(source.round()) == []


def test_files_that_are_the_same_by_their_stat_results_are_not_read(source: Source) -> None:
    read: list[bytes] = []

    def unchanged(before: FileNode, node: FileNode) -> bool:
        same = before.stamp == node.stamp
        if not same:
            read.append(node.names[0])
        return same

    assert source.root is not None
    with (source.root / "a").open("r+b") as file:
        file.write(b"x")
    root = source.sent.root()
    batches = source.round(unchanged=unchanged)
    assert read == [b"a"]
    assert [type(frame) for frame in frames(batches)] == [FileFrame, DataFrame]
    assert sent(batches) == 4096
    assert source.sent.root() != root


def test_a_swap_sends_no_bytes(source: Source) -> None:
    assert source.root is not None
    (source.root / "a").rename(source.root / "c")
    (source.root / "b").rename(source.root / "a")
    (source.root / "c").rename(source.root / "b")
    removal, creation = source.round()
    assert removal.index.frames == (TakeFrame(b"b", 0), TakeFrame(b"a", 1))
    assert frames([creation]) == [PutFrame(b"a", 0), PutFrame(b"b", 1)]


def test_a_directory_that_is_renamed_moves_its_files(source: Source) -> None:
    assert source.root is not None
    (source.root / "d").rename(source.root / "e")
    found = frames(source.round())
    assert found[:2] == [TakeFrame(b"d/small", 0), GoneFrame(b"d")]
    assert [type(frame) for frame in found[2:]] == [DirectoryFrame, PutFrame]


def test_a_file_that_was_written_anew_and_renamed_over_sends_what_differs(source: Source) -> None:
    assert source.root is not None
    (source.root / "new").write_bytes(DATA[:100_000] + b"x" + DATA[100_001:] + b"a")
    (source.root / "new").rename(source.root / "a")
    batches = source.round()
    assert [type(frame) for frame in frames(batches)] == [FileFrame, DataFrame]
    assert sent(batches) == 4096


def test_a_file_that_becomes_a_directory_is_gone_first(source: Source) -> None:
    assert source.root is not None
    # while it is open no other file gets its inode
    with (source.root / "a").open():
        (source.root / "a").unlink()
        (source.root / "a").mkdir()
        (source.root / "a/in").write_bytes(b"in")
        removal, *others = source.round()
    assert removal.index.frames == (GoneFrame(b"a"),)
    assert [type(frame) for frame in frames(others)] == [DirectoryFrame, WholeFrame]


def test_names_of_a_hard_link_are_linked_again_without_bytes(source: Source) -> None:
    assert source.root is not None
    os.link(source.root / "a", source.root / "z")
    assert frames(source.round()) == [HardFrame(b"z", b"a")]
    (source.root / "a").unlink()
    os.link(source.root / "z", source.root / "d/a")
    gone, made = source.round()
    assert gone.index.frames == (GoneFrame(b"a"),)
    assert [f for f in frames([made]) if not isinstance(f, DirectoryFrame)] == [
        HardFrame(b"d/a", b"z")
    ]


def test_a_symlink_with_another_target_is_made_anew(source: Source) -> None:
    assert source.root is not None
    (source.root / "l").symlink_to("a")
    source.round()
    (source.root / "l").unlink()
    (source.root / "l").symlink_to("b")
    gone, made = source.round()
    assert gone.index.frames == (GoneFrame(b"l"),)
    assert [type(frame) for frame in frames([made])] == [LinkFrame]


def test_holes_are_sent_as_such(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.write(b"x" * 4096)
        file.truncate(10 << 20)
    batches = Source(1 << 20, tmp_path).round()
    assert sent(batches) == 4096
    zeros = sum(frame.count for frame in frames(batches) if isinstance(frame, ZeroFrame))
    assert zeros == (10 << 20) // 4096 - 1


def test_a_file_that_shrinks_and_grows_sends_what_became_unknown(source: Source) -> None:
    assert source.root is not None
    os.truncate(source.root / "a", 100_000)
    batches = source.round()
    assert sent(batches) == 100_000 % 4096
    os.truncate(source.root / "a", 110_000)
    # the block that was the last one, and zeros
    assert sent(source.round()) <= 2 * 4096


def test_no_batch_is_larger_than_its_limit(tmp_path: Path) -> None:
    for n in range(40):
        (tmp_path / f"f{n}").write_bytes(DATA[: n * 2000])
    (tmp_path / "big").write_bytes(DATA * 10)
    source = Source(256 << 10, tmp_path)
    batches = source.round()
    sizes = [sum(map(len, batch.pieces())) for batch in batches]
    assert max(sizes) <= 256 << 10
    assert sum(sizes) / len(sizes) > 128 << 10
    assert [batch.index.number for batch in batches] == list(range(1, len(batches) + 1))


def test_a_file_that_changes_between_the_walk_and_the_reading_is_named(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert source.root is not None
    path = source.root / "a"
    real = os.pread

    def growing(fd: int, length: int, at: int) -> bytes:
        with path.open("ab") as file:
            file.write(b"x")
        return real(fd, length, at)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", growing)
        with pytest.raises(SourceFileChanged, match='"a" was changed'):
            source.round()


def test_a_path_that_no_destination_would_take_is_told_by_the_source(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(257):
        deep /= "d"
    os.makedirs(deep)
    with pytest.raises(TreeTooLarge, match="nested too deeply"):
        Source(root=tmp_path).round()
