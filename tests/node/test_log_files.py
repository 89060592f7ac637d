"""The files of the log directory: only its own regular files are shown."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from wingsd.errors import BadRequest, LogFileNotFound, StorageError
from wingsd.node.logs import read_log, stored_logs


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
