"""Trees that change while they are packed, disks that fail, and receivers that go away."""

from __future__ import annotations

import errno
import os
import random
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.archive.packing import Sent, packed, unpacked
from wingsd.archive.compress import Compression
from wingsd.archive.pack import pack
from wingsd.archive.policy import Kind
from wingsd.errors import StorageError

pytestmark = pytest.mark.promise("backup-of-changing-files-is-valid")

BIG = 2 << 20
RANDOM = random.Random("changes")


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """Return a tree whose first file is large enough for things to happen while it is read."""
    root = tmp_path / "t"
    (root / "zone/below").mkdir(parents=True)
    (root / "a-big").write_bytes(b"0123456789abcdef" * (BIG // 16))
    (root / "later").write_bytes(b"later")
    (root / "zone/below/f").write_bytes(b"f")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/later").write_bytes(b"secret")
    return root


@pytest.fixture(autouse=True)
def _nothing_stays(tmp_path: Path) -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    held = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    assert not [name for name in held if name.startswith(str(tmp_path))]
    assert set(threading.enumerate()) <= before


def packed_while(top: Path, change: Callable[[], None]) -> Sent:
    """Pack, make one change while the first file is being read, and unpack to `out`."""
    changes = iter([change])

    def meanwhile(total: int) -> None:
        if 0 < total < BIG and (do := next(changes, None)) is not None:
            do()

    sent = packed(top, meanwhile=meanwhile)
    assert next(changes, None) is None, "the change was not made"
    unpacked(sent, top.parent / "out")
    return sent


def test_a_file_that_shrinks_ends_in_zeros(top: Path, tmp_path: Path) -> None:
    cut = BIG - 300_007
    sent = packed_while(top, lambda: os.truncate(top / "a-big", cut))
    content = (tmp_path / "out/a-big").read_bytes()
    assert content == (top / "a-big").read_bytes() + bytes(300_007)
    assert (tmp_path / "out/zone/below/f").read_bytes() == b"f"
    assert sent.notes == [
        '"a-big" shrank while it was read; 300007 zeros replace its end',
    ]
    assert sent.packed.packed_bytes == sent.progress[-1] == BIG + 6


@pytest.mark.parametrize(
    ("mode", "written", "note"),
    [
        ("ab", b"more" * 100_000, f"grew while it was read; its first {BIG} bytes are sent"),
        ("r+b", b"new", "changed while it was read"),
    ],
    ids=["grows", "changes"],
)
def test_a_file_that_is_written_to_has_its_former_size(
    top: Path, tmp_path: Path, mode: str, written: bytes, note: str
) -> None:
    before = (top / "a-big").read_bytes()

    def write() -> None:
        with (top / "a-big").open(mode) as file:
            file.write(written)

    sent = packed_while(top, write)
    after = (tmp_path / "out/a-big").read_bytes()
    assert (len(after), after[3:]) == (BIG, before[3:])
    assert sent.notes == [f'"a-big" {note}']


@pytest.mark.parametrize("name", ["later", "zone", "zone/below"])
def test_what_vanishes_before_its_turn_is_left_out(top: Path, tmp_path: Path, name: str) -> None:
    def vanish() -> None:
        (top / name).rename(tmp_path / "moved")

    sent = packed_while(top, vanish)
    assert not (tmp_path / "out" / name).exists()
    # what is in a directory is listed when its turn comes
    expected = [] if "/" in name else [f'"{name}" is left out: it vanished meanwhile']
    assert sent.notes == expected
    assert sent.packed.counts[Kind.SKIPPED] == len(expected)


def to_symlink(path: Path) -> None:
    outside = path.parent.parent / "outside"
    path.symlink_to(outside / "later" if path.name == "later" else outside)


def to_socket(path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as sock:
        sock.bind(str(path))


@pytest.mark.parametrize("name", ["later", "zone"])
@pytest.mark.parametrize("become", [to_symlink, os.mkfifo, to_socket, Path.mkdir, Path.touch])
def test_what_becomes_something_else_is_neither_followed_nor_waited_for(
    top: Path, tmp_path: Path, name: str, become: Callable[[Path], None]
) -> None:
    def swap() -> None:
        (top / name).rename(tmp_path / "moved")
        become(top / name)

    sent = packed_while(top, swap)
    same = become is (Path.touch if name == "later" else Path.mkdir)
    assert (tmp_path / "out" / name).exists() == same
    note = f'"{name}" is left out: it was replaced by something else meanwhile'
    assert sent.notes == ([] if same else [note])
    assert b"secret" not in sent.archive


@pytest.mark.parametrize("links", [True, False])
def test_symlinks_that_vanish_or_change(top: Path, tmp_path: Path, links: bool) -> None:
    for name in ("s1", "s2"):
        (top / name).symlink_to("later")

    def change(total: int) -> None:
        if total and (top / "s1").is_symlink():
            (top / "s1").unlink()
            (top / "s2").unlink()
            (top / "s2").touch()
            shutil.rmtree(top / "zone")

    sent = packed(top, links=links, meanwhile=change)
    unpacked(sent, tmp_path / "out")
    assert sent.notes == [
        '"s1" is left out: it vanished meanwhile',
        '"s2" is left out: it was replaced by something else meanwhile',
        '"zone" is left out: it vanished meanwhile',
    ]


@pytest.mark.parametrize("compression", [Compression.NONE, Compression.BEST_SPEED])
@pytest.mark.parametrize(("threads", "after"), [(False, 0), (True, 3)])
def test_a_lost_receiver_ends_it(
    top: Path, compression: Compression, threads: bool, after: int
) -> None:
    (top / "random").write_bytes(RANDOM.randbytes(12 << 20))
    written: list[int] = []

    def write(block: bytes) -> None:
        if len(written) == after:
            raise ConnectionResetError("gone")
        written.append(len(block))

    with pytest.raises(ConnectionResetError, match="gone"):
        pack(
            str(top),
            write,
            links=True,
            compression=compression,
            warn=print,
            progress=lambda total, files: None,
            threads=threads,
        )
    assert len(written) == after


@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        ("pread", errno.EIO, '"a-big" could not be read: the disk failed; .*restore or delete'),
        ("open", errno.EACCES, '"later" could not be read: permission denied; .*may read'),
        ("open", errno.EMFILE, '"later" could not be read: too many open files'),
        ("readlink", errno.EIO, '"s" could not be read: the disk failed'),
        ("fstat", errno.EIO, '"." could not be read: the disk failed'),
    ],
)
def test_a_disk_that_fails_says_where_and_what_to_do(
    top: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    code: int,
    words: str,
) -> None:
    (top / "s").symlink_to("later")
    real = getattr(os, call)

    def failing(path: object, *args: object, **named: object) -> object:
        if call == "open" and path != b"later":
            return real(path, *args, **named)
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing)
        with pytest.raises(StorageError, match=words) as caught:
            packed(top, threads=True)
    assert caught.value.message == "the server's files could not be read"


def test_a_target_that_cannot_be_read_is_the_disks_failure_too(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (top / "s").symlink_to("zone/below/f")
    real = os.open

    def failing(path: str | bytes, flags: int, dir_fd: int | None = None) -> int:
        if path == b"f":
            raise PermissionError(errno.EACCES, "no")
        return real(path, flags, dir_fd=dir_fd)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", failing)
        with pytest.raises(StorageError, match='"s" could not be read: permission denied'):
            packed(top, links=False)
