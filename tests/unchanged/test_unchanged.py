"""A sample of `make unchanged`: what is carried over unread, on file systems of every kind."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import platform
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import attrs
import pytest

from tests.crash.disks import disk, missing
from tests.crash.engine import place
from tests.crash.machine import UNCHANGED, run_trials
from tests.crash.unchanged import (
    KINDS,
    NAIVE,
    QUICK,
    RARE,
    TRUSTED,
    CountingRule,
    Pace,
    Rounds,
    Trials,
)
from tests.support.virtual_machine import missing_programs
from wingsd.filesystem.walk import opened, walk
from wingsd.moves.unchanged import KERNEL, MeasuredFileSystems

SOON = Pace(pauses=((0.3, 0.4),), last=(0.5, 0.6), age=0)
FILES = 1000
SIZE = 64 << 12
Mounted = Callable[[str], Path]


@pytest.fixture
def mounted() -> Iterator[Mounted]:
    """Return what mounts a disk in memory."""
    with ExitStack() as stack:

        def mount(name: str) -> Path:
            if reason := missing(name):
                pytest.skip(f"{name}: {reason}")
            return stack.enter_context(disk(name, stack.enter_context(place("unchanged"))))

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


@pytest.mark.promise("unread-files-are-unchanged")
@pytest.mark.parametrize("name", TRUSTED)
async def test_files_carried_over_unread_are_as_they_were_read(
    mounted: Mounted, name: str
) -> None:
    found = Trials(mounted(name), pace=QUICK, files=FILES, most=1)
    await found.run(1, seed=2)
    assert (found.wrong, found.found, found.lines) == ([], 0, [])
    assert found.carried > FILES // 2
    assert found.directories
    assert found.in_directories


@pytest.mark.promise("unread-files-are-unchanged")
@pytest.mark.parametrize("name", sorted(set(KINDS) - set(TRUSTED)))
async def test_where_the_rule_does_not_hold_all_is_read(mounted: Mounted, name: str) -> None:
    found = Trials(mounted(name), files=FILES, most=2)
    await found.run(1, seed=2)
    assert (found.wrong, found.carried, found.in_directories) == ([], 0, 0)
    assert found.done > FILES
    assert len(found.lines) == 1


@pytest.mark.promise("unread-files-are-unchanged")
@pytest.mark.parametrize("rule", sorted({*NAIVE} - {RARE}))
async def test_a_naive_rule_is_caught(mounted: Mounted, rule: str) -> None:
    # only one of them has a margin
    pace = QUICK if rule == "ctime without syncfs" else SOON
    # some are caught by one trial of several: with 5 of them it was chance whether they are
    found = Trials(mounted("ext4"), NAIVE[rule], pace=pace, files=FILES, most=20)
    await found.run(1, seed=1)
    assert found.wrong


class WithoutWaiting(CountingRule):
    """The rule without waiting for a write(2) that is under way."""

    def before_reading(self, fd: int) -> os.stat_result:
        return os.fstat(fd)


@pytest.mark.parametrize("name", ["ext4", "btrfs"])
def test_a_write_that_takes_longer_than_the_margin_is_missed_without_waiting(
    mounted: Mounted, name: str
) -> None:
    with stalled(mounted(name), WithoutWaiting) as (rounds, write):
        rounds.round()
        write.release()
        done = rounds.round(is_final=True)
        assert (done.carried, len(rounds.differing())) == (1, 1)


@pytest.mark.promise("unread-files-are-unchanged")
@pytest.mark.parametrize("name", TRUSTED)
def test_a_write_that_is_under_way_is_waited_for(mounted: Mounted, name: str) -> None:
    with stalled(mounted(name), CountingRule) as (rounds, write):
        reader = threading.Thread(target=rounds.round)
        reader.start()
        stat = Path(f"/proc/self/task/{reader.native_id}/stat")
        while stat.read_text().rpartition(")")[2].split()[0] != "D":
            pass
        write.release()
        reader.join()
        done = rounds.round(is_final=True)
        assert (done.carried, rounds.differing()) == (1, [])


@contextmanager
def stalled(directory: Path, rule: type[CountingRule]) -> Iterator[tuple[Rounds, StalledWrite]]:
    """Yield rounds of a server of one file, which is being written; the rule began long ago."""
    server = directory / "server"
    server.mkdir()
    path = server / "file"
    path.write_bytes(b"a" * SIZE)
    later = attrs.evolve(KERNEL, wall_time=lambda: KERNEL.wall_time() + 10_000_000_000)
    file_systems = MeasuredFileSystems()
    with opened(str(directory)) as fd:
        file_systems.measure(fd)
    with ExitStack() as stack:
        rounds = Rounds(server, file_systems, print, None, rule=rule, kernel=later)
        stack.callback(rounds.close)
        fd = os.open(path, os.O_RDWR)
        stack.callback(os.close, fd)
        before = os.fstat(fd).st_ctime_ns
        try:
            write = StalledWrite(fd, SIZE)
        except OSError as error:
            pytest.skip(f"no write can be stalled here: {error}")
        stack.callback(write.release)
        while os.fstat(fd).st_ctime_ns == before:
            pass
        yield rounds, write


class StalledWrite:
    """A write(2) to the beginning of a file that waits for its second half, until `release`.

    Its second half is memory that userfaultfd(2) has not provided yet. Programs meet the same when
    the disk is slow, or their memory is. Raises OSError where userfaultfd(2) cannot be used.
    """

    _SYSTEM_CALL = 323  # of x86-64
    _API, _REGISTER, _COPY = 0xC018AA3F, 0xC020AA00, 0xC028AA03
    _VERSION, _MISSING = 0xAA, 1

    def __init__(self, fd: int, size: int) -> None:
        if platform.machine() != "x86_64":
            raise OSError("the number of userfaultfd(2) is known for x86-64 only")
        self._half = size // 2
        self._memory = mmap.mmap(-1, size)
        self._memory[: self._half] = b"b" * self._half
        libc = ctypes.CDLL(None, use_errno=True)
        self._fault_fd = libc.syscall(self._SYSTEM_CALL, os.O_CLOEXEC)
        if self._fault_fd < 0:
            raise OSError(ctypes.get_errno(), "userfaultfd")
        # the view must be gone before the memory is unmapped
        view = ctypes.c_char.from_buffer(self._memory)
        self._second = ctypes.addressof(view) + self._half
        del view
        fcntl.ioctl(self._fault_fd, self._API, bytearray(struct.pack("QQQ", self._VERSION, 0, 0)))
        register = struct.pack("QQQQ", self._second, self._half, self._MISSING, 0)
        fcntl.ioctl(self._fault_fd, self._REGISTER, bytearray(register))
        self._thread = threading.Thread(target=os.pwrite, args=(fd, self._memory, 0))
        self._thread.start()

    def release(self) -> None:
        """Provide the second half; return when all is written."""
        if self._fault_fd < 0:
            return
        data = ctypes.create_string_buffer(b"b" * self._half, self._half)
        copy = struct.pack("QQQQQ", self._second, ctypes.addressof(data), self._half, 0, 0)
        fcntl.ioctl(self._fault_fd, self._COPY, bytearray(copy))
        self._thread.join()
        os.close(self._fault_fd)
        self._fault_fd = -1
        self._memory.close()


@pytest.mark.promise("unread-files-are-unchanged")
def test_it_holds_under_debians_kernel(tmp_path: Path) -> None:
    if reason := missing_programs(UNCHANGED):
        pytest.skip(f"the virtual machine needs {reason}")
    options = ("--files", "400", "--no-naive", "--quick")
    ran = run_trials(tmp_path, "ext4", 400, 1, *options)
    assert ran.status == 0, ran.output
