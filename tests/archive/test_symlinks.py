"""Where a symlink leads, as far as it stays inside the tree."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from wingsd.archive.pack import SymlinkResolver, UnresolvableSymlink


@pytest.fixture
def root(tmp_path: Path) -> Path:
    top = tmp_path / "t"
    (top / "a/b").mkdir(parents=True)
    (top / "f").write_bytes(b"content of f")
    (top / "a/b/g").write_bytes(b"content of g")
    (top / "to-a").symlink_to("a")
    (top / "a/to-root").symlink_to("..")
    (top / "chain").symlink_to("to-a/b/../b/g")
    (top / "home").symlink_to("/home/container/a")
    (top / "round").symlink_to("about")
    (top / "about").symlink_to("round")
    os.mkfifo(top / "fifo")
    with closing(socket.socket(socket.AF_UNIX)) as sock:
        sock.bind(str(top / "sock"))
    (tmp_path / "secret").write_bytes(b"secret")
    return top


@pytest.fixture
def follower(root: Path) -> Iterator[SymlinkResolver]:
    fd = os.open(root, os.O_RDONLY)
    with closing(SymlinkResolver(fd)) as made:
        yield made
    os.close(fd)


def content(follower: SymlinkResolver, text: bytes, link: tuple[bytes, ...] = (b"x",)) -> bytes:
    fd = follower.open(link, text)
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"f", b"content of f"),
        (b"./a/../f", b"content of f"),
        (b"a//b/./g", b"content of g"),
        (b"to-a/b/g", b"content of g"),
        (b"to-a/to-root/to-a/to-root/f", b"content of f"),
        (b"chain", b"content of g"),
        (b"home/b/g", b"content of g"),
        (b"/home/container/f", b"content of f"),
        (b"/home/container//a/b/../../chain", b"content of g"),
    ],
)
def test_file_symlinks_are_read(follower: SymlinkResolver, text: bytes, expected: bytes) -> None:
    assert content(follower, text) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"a", "a symlink to a directory"),
        (b".", "a symlink to a directory"),
        (b"/home/container", "a symlink to a directory"),
        (b"/home/container/", "a symlink to a directory"),
        (b"home", "a symlink to a directory"),
        (b"nothing", 'a symlink to "nothing", which does not exist'),
        (b"a/nothing/f", "does not exist"),
        (b"n" * 256, "does not exist"),
        (b"f/", "does not exist"),
        (b"f/../f", "does not exist"),
        (b"../secret", "outside the server's directory"),
        (b"a/../../secret", "outside the server's directory"),
        (b"to-a/../../secret", "outside the server's directory"),
        (b"/home/container/../secret", "outside the server's directory"),
        (b"/home/containers/f", "outside the server's directory"),
        (b"/etc/passwd", '"/etc/passwd", outside the server\'s directory'),
        (b"/", "outside the server's directory"),
        (b"round", "in a loop"),
        (b"fifo", "a symlink to a FIFO"),
        (b"sock", "a symlink to a socket"),
    ],
)
def test_a_broken_symlink_is_refused(follower: SymlinkResolver, text: bytes, why: str) -> None:
    with pytest.raises(UnresolvableSymlink, match=re.escape(why)):
        content(follower, text)


@pytest.mark.parametrize(
    ("looked_at", "text"),
    [(b"a", b"a/secret"), (b"b", b"a/b/secret"), (b"f", b"f")],
    ids=["a directory", "a directory below", "the file itself"],
)
def test_what_is_swapped_on_the_way_leads_nowhere(
    root: Path,
    follower: SymlinkResolver,
    monkeypatch: pytest.MonkeyPatch,
    looked_at: bytes,
    text: bytes,
) -> None:
    real = os.stat

    def swapping(path: bytes, *, dir_fd: int, follow_symlinks: bool) -> os.stat_result:
        found = real(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
        if path == looked_at:
            os.rename(path, b"was-" + path, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
            os.symlink(root.parent, path, dir_fd=dir_fd)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", swapping)
        with pytest.raises(UnresolvableSymlink, match="replaced by something else"):
            content(follower, text)
