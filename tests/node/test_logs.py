"""The last lines of the daemon's log."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wingsd.errors import BadRequest, LogFileNotFound, StorageError
from wingsd.node.logs import LogUnavailable, file_log, journal_log, read_log, stored_logs, tail


def test_a_file_ends_with_its_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "wingsd.log"
    path.write_text("".join(f"line {number}\n" for number in range(1000)))
    assert file_log(str(path), 3) == ["line 997", "line 998", "line 999"]
    assert tail(str(path), 0) == []


def test_a_huge_file_is_read_from_near_its_end(tmp_path: Path) -> None:
    path = tmp_path / "wingsd.log"
    path.write_text("x" * 5000 + "\nlast\n")
    assert tail(str(path), 10, limit=100) == ["last"]


def test_a_file_just_rotated_is_continued_by_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "wingsd.log").write_text("three\n")
    (tmp_path / "wingsd.log.1").write_text("one\ntwo\n")
    assert file_log(str(tmp_path / "wingsd.log"), 2) == ["two", "three"]


def test_a_missing_file_and_a_pipe_are_no_log(tmp_path: Path) -> None:
    with pytest.raises(LogUnavailable, match="No such file"):
        file_log(str(tmp_path / "wingsd.log"), 3)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LogUnavailable):
        file_log(str(tmp_path / "pipe"), 3)


@pytest.fixture
def journalctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name, first in the PATH, which the test writes."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path / "journalctl"


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("cgroup", "selection"),
    [
        ("0::/system.slice/wingsd.service\n", "--unit=wingsd.service"),
        ("0::/system.slice/wingsd@a.service/child\n", "--unit=wingsd@a.service"),
        ("0::/user.slice/session-1.scope\n", "--identifier=wingsd"),
    ],
)
def test_the_journal_is_asked_for_this_service(
    journalctl: Path, cgroup: str, selection: str
) -> None:
    script(journalctl, 'for each in "$@"; do echo "$each"; done')
    asked = journal_log(20, lambda: cgroup)
    assert asked[-1] == selection
    assert "--lines=20" in asked


def test_a_journal_that_cannot_be_read_is_said_so(
    journalctl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(journalctl, "echo no permission >&2; exit 1")
    with pytest.raises(LogUnavailable, match="no permission"):
        journal_log(20)

    def late(*_: Any, **__: Any) -> None:
        raise subprocess.TimeoutExpired("journalctl", 3)

    monkeypatch.setattr(subprocess, "run", late)
    with pytest.raises(LogUnavailable, match="took more than"):
        journal_log(20)


# The files of the log directory: only its own regular files are shown


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    made = tmp_path / "logs"
    made.mkdir()
    (tmp_path / "secret").write_text("a secret\n")
    return made


def test_files_are_listed_the_oldest_first(logs: Path) -> None:
    for seconds, name in ((20, "b.log.gz"), (10, "a.log")):
        (logs / name).write_bytes(b"12345")
        os.utime(logs / name, (seconds, seconds))
    (logs / "install").mkdir()
    (logs / "link").symlink_to("../secret")
    os.mkfifo(logs / "pipe")
    first, second = stored_logs(str(logs))
    assert (first.name, first.compression_type, first.size) == ("a.log", "none", 5)
    assert first.last_modified == "1970-01-01T00:00:10+00:00"
    assert (second.name, second.compression_type) == ("b.log.gz", "gz")


def test_a_missing_directory_has_no_files_and_another_is_an_error(logs: Path) -> None:
    assert stored_logs(f"{logs}/none") == []
    (logs / "file").touch()
    with pytest.raises(StorageError):
        stored_logs(f"{logs}/file")


@pytest.mark.promise("only-log-files-are-shown")
@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "..",
        ".",
        "",
        "/etc/passwd",
        "link",
        "pipe",
        "install",
        "a\0b",
        "none",
        "x" * 300,
    ],
)
def test_nothing_but_a_file_of_the_directory_is_shown(logs: Path, name: str) -> None:
    (logs / "install").mkdir()
    (logs / "link").symlink_to("../secret")
    os.mkfifo(logs / "pipe")
    with pytest.raises(LogFileNotFound):
        read_log(str(logs), name, 10)


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        ("", bytes),
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".xz", lzma.compress),
    ],
)
def test_the_last_lines_are_shown(logs: Path, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    (logs / f"a.log{suffix}").write_bytes(pack(b"one\ntwo\nthree"))
    assert read_log(str(logs), f"a.log{suffix}", 2) == ["two", "three"]


def test_what_unpacks_to_much_is_read_within_bounds(
    logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wingsd.node.logs.MAX_UNPACKED", 1000)
    monkeypatch.setattr("wingsd.node.logs.MAX_BYTES", 100)
    (logs / "a.gz").write_bytes(gzip.compress(b"x" * 1_000_000))
    assert sum(map(len, read_log(str(logs), "a.gz", 10_000))) <= 100


def test_a_damaged_file_and_an_unknown_compression_are_400(logs: Path) -> None:
    (logs / "a.gz").write_bytes(gzip.compress(b"one\n")[:-6])
    (logs / "a.xz").write_bytes(b"nothing of the kind")
    (logs / "a.zst").write_bytes(b"")
    for name in ("a.gz", "a.xz", "a.zst"):
        with pytest.raises(BadRequest):
            read_log(str(logs), name, 10)
