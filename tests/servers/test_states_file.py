"""The states of servers on the disk, in the file that Wings keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

import pytest

from tests.servers.harness import OTHER, UUID, Outcome
from tests.support.logged_errors import Logged
from tests.support.workers import HeldWorkers, SynchronousWorkers
from wingsd.servers.running import StatesFile
from wingsd.threadio import Workers

pytestmark = pytest.mark.promise("takeover-keeps-servers-running")

P = ParamSpec("P")
T = TypeVar("T")


def opened(root: Path, disk: SynchronousWorkers | None = None) -> StatesFile:
    return StatesFile(str(root), cast(Workers, disk or SynchronousWorkers()))


def states(root: Path) -> dict[str, str]:
    read: dict[str, str] = json.loads((root / "states.json").read_text())
    return read


def test_states_are_read_as_wings_writes_them(tmp_path: Path) -> None:
    (tmp_path / "states.json").write_text(f'{{"{UUID}":"running","{OTHER}":"offline"}}')
    found = Outcome.of(opened(tmp_path).load()).value()
    assert found == {UUID: "running", OTHER: "offline"}


@pytest.mark.parametrize("content", [None, b"", b"\n"])
def test_a_file_that_is_missing_or_empty_has_no_states(
    tmp_path: Path, content: bytes | None, logged: Logged
) -> None:
    if content is not None:
        (tmp_path / "states.json").write_bytes(content)
    assert Outcome.of(opened(tmp_path).load()).value() == {}
    assert logged.lines == []


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"a": 1}', b"\xff\xfe", b"[" * 100_000, b"null"]
)
def test_a_damaged_file_has_no_states_and_is_named(
    tmp_path: Path, content: bytes, logged: Logged
) -> None:
    (tmp_path / "states.json").write_bytes(content)
    file = opened(tmp_path)
    assert Outcome.of(file.load()).value() == {}
    assert "states.json cannot be used" in logged.lines[0]
    file.record(UUID, "running")
    assert states(tmp_path) == {UUID: "running"}


def test_the_file_is_not_touched_as_long_as_it_is_right(tmp_path: Path) -> None:
    path = tmp_path / "states.json"
    path.write_text(f'{{ "{UUID}": "running" }}')
    before = path.stat()
    file = opened(tmp_path)
    Outcome.of(file.load()).value()
    file.record(UUID, "running")
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_change_keeps_the_other_states_and_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "states.json"
    path.write_text(f'{{"{OTHER}":"running"}}')
    path.chmod(0o600)
    file = opened(tmp_path)
    Outcome.of(file.load()).value()
    file.record(UUID, "starting")
    assert states(tmp_path) == {OTHER: "running", UUID: "starting"}
    assert path.stat().st_mode & 0o777 == 0o600
    file.record(OTHER, None)
    assert path.read_text() == f'{{"{UUID}":"starting"}}', "as Go writes it"
    assert [each.name for each in tmp_path.iterdir()] == ["states.json"]


def test_changes_during_a_write_are_written_together(tmp_path: Path) -> None:
    disk = HeldWorkers()
    file = opened(tmp_path, disk)
    for state in ("starting", "running", "stopping"):
        file.record(UUID, state)
    flushed = Outcome.of(file.flush())
    assert len(disk.held) == 1
    disk.held.pop().do()
    assert (states(tmp_path), flushed.over) == ({UUID: "starting"}, False)
    disk.held.pop().do()
    assert (states(tmp_path), flushed.over) == ({UUID: "stopping"}, True)


def test_a_failed_write_is_logged_and_made_up_for_by_the_next(
    tmp_path: Path, logged: Logged
) -> None:
    root = tmp_path / "root"
    file = opened(root)
    file.record(UUID, "running")
    assert "not recorded which servers run" in logged.lines[0]
    Outcome.of(file.flush()).value()
    root.mkdir()
    file.record(OTHER, "running")
    assert states(root) == {UUID: "running", OTHER: "running"}
