"""Directories below a root: which symlinks are followed, in both ways."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from wingsd.errors import ConfigError
from wingsd.filesystem import openers as module
from wingsd.filesystem import syscalls
from wingsd.filesystem.openers import (
    DirectoryOpener,
    Openat2Opener,
    OpenatOpener,
    directory_opener,
)
from wingsd.filesystem.paths import ServerPath

pytestmark = pytest.mark.promise("files-stay-inside-the-server")

module_openat2 = "wingsd.filesystem.openers.openat2"


def opened(opener: DirectoryOpener, home: Path, path: str) -> Path:
    """Return where the descriptor of a path leads."""
    root = os.open(home, os.O_RDONLY)
    try:
        fd = opener.directory(root, ServerPath.parse(path))
        try:
            return Path(os.readlink(f"/proc/self/fd/{fd}"))
        finally:
            os.close(fd)
    finally:
        os.close(root)


def links(home: Path) -> None:
    (home / "a/b/c").mkdir(parents=True)
    (home / "file").touch()
    for name, text in {
        "inside": "a/b",
        "a/up": "../a/b/c/../..",
        "a/b/top": "../..",
        "chain": "inside/c",
        "dots": "././/a/./b//",
        "out": "..",
        "a/out": "../..",
        "absolute": str(home / "a"),
        "circle": "circle",
        "ping": "pong",
        "pong": "ping",
        "dangling": "missing",
        "to-file": "file",
        "magic": "/proc/self/cwd",
        "round": "../server/a",
    }.items():
        (home / name).symlink_to(text)


@pytest.mark.parametrize(
    ("path", "real"),
    [
        ("", ""),
        ("inside", "a/b"),
        ("chain", "a/b/c"),
        ("a/up/up/up/b", "a/b"),
        ("a/b/top/a/b", "a/b"),
        ("dots/c", "a/b/c"),
    ],
)
def test_symlinks_inside_are_followed(
    opener: DirectoryOpener, home: Path, path: str, real: str
) -> None:
    links(home)
    assert opened(opener, home, path) == home / real


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("out", errno.EXDEV),
        ("a/out", errno.EXDEV),
        ("absolute", errno.EXDEV),
        ("magic", errno.EXDEV),
        ("round", errno.EXDEV),
        ("circle", errno.ELOOP),
        ("dangling", errno.ENOENT),
        ("missing/a", errno.ENOENT),
        ("file", errno.ENOTDIR),
        ("to-file", errno.ENOTDIR),
    ],
)
def test_what_leads_out_or_nowhere_is_refused(
    opener: DirectoryOpener, home: Path, path: str, code: int
) -> None:
    links(home)
    with pytest.raises(OSError, match=r".") as caught:
        opened(opener, home, path)
    assert caught.value.errno == code


def test_forty_links_are_followed_and_no_more(opener: DirectoryOpener, home: Path) -> None:
    (home / "l0").mkdir()
    for number in range(1, 42):
        (home / f"l{number}").symlink_to(f"l{number - 1}")
    assert opened(opener, home, "l40") == home / "l0"
    with pytest.raises(OSError, match="Too many levels"):
        opened(opener, home, "l41")


def test_a_link_that_goes_up_and_down_for_ever_ends(home: Path) -> None:
    (home / "/".join(["d"] * 300)).mkdir(parents=True)
    for number in range(8):
        text = "d/" * 300 + "../" * 300 + f"l{number + 1}"
        (home / f"l{number}").symlink_to(text)
    (home / "l8").mkdir()
    with pytest.raises(OSError, match="Too many levels"):
        opened(OpenatOpener(), home, "l0")


def test_a_directory_that_is_moved_away_leads_nowhere_else(
    home: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `..` in a link's text means the directory passed before, and not where it is by now."""
    (home / "a/b").mkdir(parents=True)
    (home / "link").symlink_to("a/b/../..")
    reading = os.open

    def moving(path: bytes | Path, flags: int, *, dir_fd: int | None = None) -> int:
        fd = reading(path, flags, dir_fd=dir_fd)
        if path == b"b":
            (home / "a").rename(outside / "a")
        return fd

    monkeypatch.setattr(os, "open", moving)
    with pytest.raises(FileNotFoundError):
        opened(OpenatOpener(), home, "link")


def test_a_path_that_keeps_moving_is_opened_by_its_components(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    links(home)
    tries = []

    def busy(*arguments: object) -> int:
        tries.append(arguments)
        raise BlockingIOError(errno.EAGAIN, "busy")

    monkeypatch.setattr(module_openat2, busy)
    assert opened(Openat2Opener(), home, "a/up/b") == home / "a/b"
    assert len(tries) == module.TRIES


def test_a_subdirectory_is_neither_a_link_nor_a_mount_point(
    opener: DirectoryOpener, home: Path
) -> None:
    links(home)
    root = os.open(home, os.O_RDONLY)
    try:
        os.close(opener.subdirectory(root, b"a"))
        for name in (b"inside", b"out", b"file"):
            with pytest.raises(OSError, match=r".") as caught:
                opener.subdirectory(root, name)
            assert caught.value.errno in (errno.ENOTDIR, errno.ELOOP)
    finally:
        os.close(root)
    top = os.open("/", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="cross-device"):
            opener.subdirectory(top, b"proc")
    finally:
        os.close(top)


def failing(code: int) -> Callable[..., int]:
    def call(*arguments: object) -> int:
        raise OSError(code, os.strerror(code))

    return call


@pytest.mark.promise("files-stay-inside-the-server")
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM])
def test_without_openat2_each_component_is_opened(
    monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    assert isinstance(directory_opener("auto"), Openat2Opener)
    assert isinstance(directory_opener("openat2"), Openat2Opener)
    assert isinstance(directory_opener("openat"), OpenatOpener)
    monkeypatch.setattr(module_openat2, failing(code))
    assert isinstance(directory_opener("auto"), OpenatOpener)
    with pytest.raises(ConfigError, match=r"system\.openat_mode"):
        directory_opener("openat2")


def test_the_number_of_openat2_is_the_same_on_most_architectures() -> None:
    assert {syscalls.openat2_number(each) for each in ("x86_64", "aarch64", "riscv64")} == {437}
    assert syscalls.openat2_number("mips64") == 5437
