from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import evolve

from wingsd.moves.unchanged import (
    KERNEL,
    PROBE_NAME,
    MeasuredFileSystems,
    file_system_type,
    measure,
)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def of_type(name: str) -> MeasuredFileSystems:
    return MeasuredFileSystems(type_of=lambda fd: name)


def test_the_type_of_proc_is_known() -> None:
    fd = os.open("/proc", os.O_RDONLY)
    try:
        assert file_system_type(fd) == "proc"
    finally:
        os.close(fd)


@pytest.mark.promise("unread-files-are-unchanged")
@pytest.mark.parametrize("name", ["nfs4", "cifs", "fuse", "fuse.sshfs", "ceph", "overlay", ""])
def test_types_are_excluded_without_being_measured(directory: int, name: str) -> None:
    file_systems = of_type(name)
    reason = file_systems.objection(directory)
    assert reason
    assert file_systems.measure(directory) == reason == file_systems.objection(directory)


def test_what_was_not_measured_is_not_trusted(directory: int) -> None:
    assert "not been measured" in of_type("ext4").objection(directory)


def test_with_trust_never_nothing_is_measured_and_nothing_trusted(
    directory: int, tmp_path: Path
) -> None:
    never = MeasuredFileSystems(is_allowed=False, type_of=lambda fd: "ext4")
    assert "live.trust is never" in never.measure(directory)
    assert "live.trust is never" in never.objection(directory)


def test_what_was_distrusted_stays_so(directory: int) -> None:
    file_systems = of_type("ext4")
    file_systems.distrust(directory, "it lied")
    assert file_systems.objection(directory) == "it lied"
    assert file_systems.measure(directory) == "it lied"


def test_a_directory_that_cannot_be_written_to_is_not_trusted(tmp_path: Path) -> None:
    fd = os.open("/proc", os.O_RDONLY)
    try:
        assert "could not be measured" in measure(fd, KERNEL)
    finally:
        os.close(fd)


def test_a_clock_that_the_file_system_does_not_have_is_an_objection(directory: int) -> None:
    other = evolve(
        KERNEL, wall_time=lambda: KERNEL.wall_time() + 10**10, pause=lambda seconds: None
    )
    assert measure(directory, other)


def test_a_file_left_by_a_killed_daemon_does_no_harm(directory: int, tmp_path: Path) -> None:
    left = tmp_path / os.fsdecode(PROBE_NAME)
    left.write_bytes(b"left")
    first = measure(directory, KERNEL)
    assert first == measure(directory, KERNEL)
    assert not left.exists()
