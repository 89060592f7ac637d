"""A sample of `make unchanged`: what is carried over unread, on file systems of every kind."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs
import pytest

from tests.support.virtual_machine import missing_programs
from tests.unchanged.disks import DISKS, TRUSTED, disk, missing
from tests.unchanged.naive import NAIVE, RARE, WithoutWaiting
from tests.unchanged.product import ProductSource
from tests.unchanged.source import Rounds, Source
from tests.unchanged.stalled_write import StalledWrite
from tests.unchanged.trials import HASTY, QUICK, Counted, Pace, run_trials
from tests.unchanged.vm import IMAGES, run_trials_in_machine
from wingsd.filesystem.walk import opened, walk
from wingsd.moves.unchanged import KERNEL, MeasuredFileSystems, UnchangedFiles

SOON = Pace(pauses=((0.3, 0.4),), last=(0.5, 0.6), age=0)
FILES = 1000
SIZE = 64 << 12
Mounted = Callable[[str], Path]


@pytest.fixture
def mounted() -> Iterator[Mounted]:
    """Return what mounts a disk in memory."""
    with ExitStack() as stack:
        memory = TemporaryDirectory(dir="/dev/shm", prefix="wingsd-unchanged-")
        place = stack.enter_context(memory)

        def mount(name: str) -> Path:
            reason = missing(name)
            if reason:
                pytest.skip(f"{name}: {reason}")
            return stack.enter_context(disk(name, Path(place))).directory

        yield mount


@pytest.mark.parametrize("name", TRUSTED)
def test_a_root_that_stays_open_is_listed_as_it_is(mounted: Mounted, name: str) -> None:
    directory = mounted(name)
    with opened(str(directory)) as root:
        assert found_in(root) == []
        (directory / "new").touch()
        assert found_in(root) == [b"new"]


def found_in(root: int) -> list[bytes]:
    with closing(walk(root, lambda path, why: None)) as listings:
        return [name for listing in listings for name in listing.files]


def measured(directory: Path) -> MeasuredFileSystems:
    file_systems = MeasuredFileSystems()
    fd = os.open(directory, os.O_RDONLY)
    try:
        objection = file_systems.measure(fd)
        assert objection == file_systems.objection(fd)
    finally:
        os.close(fd)
    return file_systems


def moved(file_systems: MeasuredFileSystems, lines: list[str]) -> Callable[[Path], Rounds]:
    return lambda directory: ProductSource(directory, file_systems, lines.append, 2)


def trial(directory: Path, make: Callable[[Path], Rounds], pace: Pace, most: int = 1) -> Counted:
    """Run trials until a decision is wrong, at most so many."""

    def is_enough(counted: Counted) -> bool:
        return bool(counted.wrong) or counted.trials == most

    return run_trials(directory, make, 1, files=FILES, pace=pace, is_enough=is_enough)


@pytest.mark.promise("unread-files-are-unchanged")
@pytest.mark.parametrize("name", TRUSTED)
def test_files_carried_over_unread_are_as_they_were_read(mounted: Mounted, name: str) -> None:
    directory = mounted(name)
    file_systems, lines = measured(directory), list[str]()
    found = trial(directory, moved(file_systems, lines), QUICK)
    assert (found.wrong, found.found, found.examples, lines) == (0, 0, [], [])
    assert found.carried > FILES // 2
    assert found.directories
    assert found.in_directories


@pytest.mark.promise("unread-files-are-unchanged")
@pytest.mark.parametrize("name", sorted(set(DISKS) - set(TRUSTED)))
def test_where_the_rule_does_not_hold_all_is_read(mounted: Mounted, name: str) -> None:
    directory = mounted(name)
    file_systems, lines = measured(directory), list[str]()
    found = trial(directory, moved(file_systems, lines), HASTY, 2)
    assert (found.wrong, found.carried, found.in_directories) == (0, 0, 0)
    assert found.decisions > FILES
    assert len(lines) == 1


@pytest.mark.promise("unread-files-are-unchanged")
@pytest.mark.parametrize("rule", sorted({*NAIVE} - {RARE}))
def test_a_naive_rule_is_caught(mounted: Mounted, rule: str) -> None:
    # only one of them has a margin
    pace = QUICK if rule == "ctime without syncfs" else SOON
    directory = mounted("ext4")
    file_systems = measured(directory)
    # some are caught by one trial of several: with 5 of them it was chance whether they are
    found = trial(directory, NAIVE[rule](file_systems), pace, 20)
    assert found.wrong


@pytest.mark.parametrize("name", ["ext4", "btrfs"])
def test_a_write_that_takes_longer_than_the_margin_is_missed_without_waiting(
    mounted: Mounted, name: str
) -> None:
    with Stalled(mounted(name), WithoutWaiting) as stalled:
        stalled.source.round()
        stalled.write.release()
        done = stalled.source.round(is_final=True)
        assert (done.carried, len(stalled.source.differing(done))) == (1, 1)


@pytest.mark.promise("unread-files-are-unchanged")
@pytest.mark.parametrize("name", TRUSTED)
def test_a_write_that_is_under_way_is_waited_for(mounted: Mounted, name: str) -> None:
    with Stalled(mounted(name), UnchangedFiles) as stalled:
        reader = threading.Thread(target=stalled.source.round)
        reader.start()
        stat = Path(f"/proc/self/task/{reader.native_id}/stat")
        while stat.read_text().rpartition(")")[2].split()[0] != "D":
            pass
        stalled.write.release()
        reader.join()
        done = stalled.source.round(is_final=True)
        assert (done.carried, stalled.source.differing(done)) == (1, [])


class Stalled:
    """A server of one file, which is being written. For the rule that was begun long ago."""

    def __init__(self, directory: Path, make: type[UnchangedFiles]) -> None:
        file_systems = measured(directory)
        place = directory / "server"
        place.mkdir()
        path = place / "file"
        path.write_bytes(b"a" * SIZE)
        self._file = os.open(path, os.O_RDWR)
        later = attrs.evolve(KERNEL, wall_time=lambda: KERNEL.wall_time() + 10_000_000_000)
        self.source = Source(place, lambda root: make(root, file_systems, print, later))
        before = os.fstat(self._file).st_ctime_ns
        try:
            self.write = StalledWrite(self._file, SIZE)
        except OSError as error:
            self._close()
            pytest.skip(f"no write can be stalled here: {error}")
        while os.fstat(self._file).st_ctime_ns == before:
            pass

    def __enter__(self) -> Stalled:
        return self

    def __exit__(self, *args: object) -> None:
        self.write.release()
        self._close()

    def _close(self) -> None:
        os.close(self._file)
        self.source.close()


@pytest.mark.promise("unread-files-are-unchanged")
def test_it_holds_under_debians_kernel(tmp_path: Path) -> None:
    reason = missing_programs(IMAGES)
    if reason:
        pytest.skip(f"the virtual machine needs {reason}")
    ran = run_trials_in_machine(
        tmp_path, "ext4", 400, 1, "--files", "400", "--no-naive", "--quick"
    )
    assert ran.status == 0, ran.output
