"""Files beside a server, read from any position."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from wingsd.errors import StorageError
from wingsd.transfers.outgoing.source import AttachedFile, AttachmentReader

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


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    reader = AttachmentReader(AttachedFile("a", str(tmp_path / "gone"), 5))
    with pytest.raises(StorageError, match="gone"):
        reader.piece(0, 10)


def test_a_fifo_in_its_place_is_refused_with_the_reason(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = AttachmentReader(AttachedFile("a", str(tmp_path / "fifo"), 5))
    with pytest.raises(StorageError, match=r"(?i)seek"):
        reader.piece(0, 10)
