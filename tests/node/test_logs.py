"""The last lines of the daemon's log."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from wingsd.node.logs import LogUnavailable, file_log, journal_log, tail


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
