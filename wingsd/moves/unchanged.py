"""Files of a running server that need not be read again: docs/protocol.md has the rule.

`UnchangedFiles` decides which files are carried over unread from round to round, and keeps them
in `SettledFiles`. A round: `begin`, then a scan and a plan with `unchanged`, then for each file of
the plan `before_reading`, the reading, `after_reading`; then `end`. The final pass, after the
server has ended, is the same with `is_final`, and `spot_check` before its end, which reads some
blocks of files that were not read. One object is for one move; only `after_reading` may be called
in several threads.

`MeasuredFileSystems` knows where the rule holds, which needs that each change of a file changes
its ctime: file systems that were measured, and are not of an excluded kind. On ext4, XFS and btrfs
the first store into a clean page of a shared mapping changes ctime, further ones do not until the
page is written back, and syncfs(2) makes them do so again. On tmpfs it does not. No process can
set ctime there. It is for all threads: each method does one thing with a dict.

Blocking, without a reactor.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
import time
import uuid
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from itertools import groupby, pairwise
from math import log, log1p
from pathlib import Path
from random import Random
from struct import Struct
from threading import Lock

from attrs import define, field, frozen

from wingsd.errors import StorageError
from wingsd.filesystem.open_directories import OpenDirectories, closing_descriptor
from wingsd.filesystem.syscalls import syncfs
from wingsd.filesystem.walk import gone, opened, unreadable
from wingsd.moves.digests import block_digest
from wingsd.moves.nodes import FileNode, Identity
from wingsd.moves.scan import seen_as, stamp_ctime
from wingsd.moves.tree import MoveTree
from wingsd.util.text import display, escaped

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

PROBE_NAME = b".wingsd-ctime"
"""The file that is made in the directory and removed again."""

_PAGE = mmap.PAGESIZE
#: Seconds between changes. Before Linux 6.13 ctime moves in steps of 1 to 10 ms.
_PAUSE = 0.03
#: Nanoseconds by which ctime may differ from the clock of this node.
_CLOCK = 1_000_000_000
#: For how long a flush is shared by the rounds of seeds (ns).
_SHARED_FOR = 10_000_000_000
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
#: On these others than this kernel change files, or a file is one of another file system.
_EXCLUDED = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "ceph", "fuse", "fuseblk", "virtiofs", "overlay"),
        *("9p", "afs", "coda", "gfs2", "gpfs", "lustre", "ocfs2", "orangefs", "vboxsf"),
        *("aufs", "ecryptfs", "hostfs"),
    )
)


def _boot_id() -> bytes:
    return uuid.UUID(_BOOT_ID.read_text(encoding="ascii").strip()).bytes


def _finish_writes(fd: int) -> None:
    """Wait for the lock of the file's inode, which write(2) holds from its ctime to its last byte.

    ext4 and btrfs lock it to look for a hole, but not to read; XFS locks it to read.
    """
    with suppress(OSError):  # the file is empty, or the file system has no such call
        os.lseek(fd, 0, os.SEEK_HOLE)
    os.lseek(fd, 0, os.SEEK_SET)


@frozen(eq=False, repr=False)
class KernelCalls:
    """Clocks in nanoseconds, and others. All but `boot_id` and `pause` take a descriptor.

    `boot_id` returns 16 bytes that are others after each boot. `finish_writes` waits for a
    write(2) of which a file has only a part yet.
    """

    wall_time: Callable[[], int] = time.time_ns
    monotonic: Callable[[], int] = time.monotonic_ns
    boot_id: Callable[[], bytes] = _boot_id
    pause: Callable[[float], None] = time.sleep
    sync: Callable[[int], None] = syncfs
    stat: Callable[[int], os.stat_result] = os.fstat
    finish_writes: Callable[[int], None] = _finish_writes


KERNEL = KernelCalls()
"""The kernel that runs."""


def measure(directory: int, kernel: KernelCalls) -> str:
    """Return why the rule does not hold on the file system of a directory, empty if it does.

    Takes a third of a second, and four times as long as a flush of the file system.
    """
    try:
        _remove(directory)
        try:
            with closing_descriptor(os.open(PROBE_NAME, _FLAGS, 0o600, dir_fd=directory)) as fd:
                os.write(fd, bytes(2 * _PAGE))
                with mmap.mmap(fd, 2 * _PAGE) as mapping:
                    return _measured(fd, mapping, kernel)
        finally:
            _remove(directory)
    except (OSError, ValueError) as error:
        return f"it could not be measured: {escaped(str(error))}"


def _remove(directory: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(PROBE_NAME, dir_fd=directory)


def _measured(fd: int, mapping: mmap.mmap, kernel: KernelCalls) -> str:
    def store(page: int, value: int) -> Callable[[], object]:
        return lambda: mapping.__setitem__(page * _PAGE, value)

    # With large folios the first store into one page may let stores into others pass as well: all
    # of them are dirty then, and a flush cleans all.
    changes: list[tuple[str, bool, Callable[[], object]]] = [
        (f"a store into a mapping after flush {flush}", True, store(flush % 2, flush))
        for flush in range(1, 5)
    ]
    changes += [
        ("a write", False, lambda: os.pwrite(fd, b"\0", 0)),
        ("a new size", False, lambda: os.ftruncate(fd, _PAGE + 1)),
        ("setting its times back", False, lambda: os.utime(fd, ns=(0, 0))),
    ]
    for what, after_flush, change in changes:
        if after_flush:
            kernel.sync(fd)
        before = os.fstat(fd).st_ctime_ns
        kernel.pause(_PAUSE)
        change()
        ctime = os.fstat(fd).st_ctime_ns
        if ctime <= before:
            return f"{what} does not change a file's ctime"
        if abs(kernel.wall_time() - ctime) > _CLOCK:
            return f"{what} sets a ctime that is not the time of this node's clock"
    return ""


def file_system_type(fd: int) -> str:
    """Return the name of the type of an open file's file system, empty if it is not known."""
    mount = ""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii").splitlines():
        if line.startswith("mnt_id:"):
            mount = line.split()[1]
    for row in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields, _, after = row.partition(b" - ")
        if fields.split(maxsplit=1)[0] == mount.encode():
            return os.fsdecode(after.split(maxsplit=1)[0])
    return ""


@frozen(eq=False, repr=False)
class Flush:
    """A flush of a file system: when it began, by both clocks, and how long it took (ns)."""

    wall_time: int
    began: int
    took: int

    @classmethod
    def of(cls, directory: int, kernel: KernelCalls) -> Flush:
        """Flush the file system of a directory. Raises OSError."""
        wall_time, began = kernel.wall_time(), kernel.monotonic()
        kernel.sync(directory)
        return cls(wall_time, began, kernel.monotonic() - began)

    def may_be_shared(self, kernel: KernelCalls) -> bool:
        """Return whether it is recent, and the clock was not set since it began."""
        since = kernel.monotonic() - self.began
        step = kernel.wall_time() - self.wall_time - since
        return since <= _SHARED_FOR and abs(step) <= CLOCK_STEP


@define(eq=False, repr=False, slots=False)
class MeasuredFileSystems:
    """File systems, by device number, and why the rule does not hold there.

    Without `is_allowed` (`system.transfers.live.trust`) nothing is measured and nothing trusted.
    `on_distrust` is called from the thread that finds that the rule does not hold.
    """

    _is_allowed: bool = field(default=True, kw_only=True)
    _kernel: KernelCalls = field(default=KERNEL, kw_only=True)
    _type_of: Callable[[int], str] = field(default=file_system_type, kw_only=True)
    _on_distrust: Callable[[], object] = field(default=lambda: None, kw_only=True)
    _objections: dict[int, str] = field(init=False, factory=dict)
    #: The last flush of each, and held during one that others may share.
    _flushes: dict[int, Flush] = field(init=False, factory=dict)
    _flushing: Lock = field(init=False, factory=Lock)
    _measuring: Lock = field(init=False, factory=Lock)

    def flush(self, directory: int, kernel: KernelCalls, *, shares: bool) -> Flush:
        """Flush the file system of a directory; one that `shares` uses the last flush for a while.

        Blocking. Raises OSError.
        """
        if not shares:
            return Flush.of(directory, kernel)
        device = kernel.stat(directory).st_dev
        with self._flushing:
            last = self._flushes.get(device)
            if last is None or not last.may_be_shared(kernel):
                last = self._flushes[device] = Flush.of(directory, kernel)
            return last

    def measure(self, directory: int) -> str:
        """Measure the file system of a directory, in it; return the objection. Blocking.

        What was distrusted stays so.
        """
        device = os.fstat(directory).st_dev
        # One at a time: its file has always the same name.
        with self._measuring:
            if self._is_allowed and not self._objections.get(device):
                found = self._excluded(directory) or measure(directory, self._kernel)
                self._objections[device] = found
        return self.objection(directory)

    def measure_in(self, path: str) -> str:
        """Measure the file system of a directory by its path; without it, nothing is trusted."""
        try:
            with opened(path) as directory:
                return self.measure(directory)
        except StorageError as error:
            return str(error)

    def objection(self, root: int) -> str:
        """Return why nothing is trusted in the directory `root`, empty if the rule holds."""
        if not self._is_allowed:
            return "system.transfers.live.trust is never"
        found = self._objections.get(os.fstat(root).st_dev)
        if found is None:
            return self._excluded(root) or "its file system has not been measured"
        return found or self._excluded(root)

    def distrust(self, root: int, reason: str) -> None:
        """Trust nothing on the file system of `root` from now on."""
        self._objections[os.fstat(root).st_dev] = reason
        self._on_distrust()

    def _excluded(self, fd: int) -> str:
        try:
            name = self._type_of(fd)
        except OSError as error:
            return f"the type of its file system cannot be read: {error}"
        if not name:
            return "the type of its file system is not known"
        if name in _EXCLUDED or name.startswith("fuse."):
            return f"its file system is of the type {name}"
        return ""


#: Magic, version, boot, device, wall time less monotonic time, count.
_HEAD = Struct("<8sI16sQqQ")
_MAGIC = b"WMVSETTL"
_VERSION = 1
_CRC = Struct("<I")
_INODE_BITS = _CTIME_BITS = 64
#: How many files are sorted at a time, about: each takes 50 bytes then. And one of how many is
#: looked at to choose them.
_SLICE, _SAMPLED = 1 << 16, 64


class SettledFiles:
    """Inode numbers and ctimes (ns since 1970, not negative) of settled files: 16 bytes a file.

    A settled file is known by both: if it is changed, its ctime is another, so that an entry that
    is out of date matches no file. Everything else of a file's identity is in the tree.

    `add` collects; `sort` has to be called before `has` finds what was added.
    """

    def __init__(self, inodes: Iterable[int] = (), ctimes: Iterable[int] = ()) -> None:
        self._inodes = array("Q", inodes)
        self._ctimes = array("Q", ctimes)
        #: Where the next file is if inode numbers were given in the order of the walk.
        self._likely = 0

    def __len__(self) -> int:
        return len(self._inodes)

    def add(self, inode: int, ctime: int) -> None:
        """Add a file; twice is the same as once."""
        self._inodes.append(inode)
        self._ctimes.append(ctime)

    def take(self, others: SettledFiles) -> None:
        """Add the files of others; both are sorted, and so is this one after it.

        Of a file that is in both only the later ctime is known.
        """
        count = len(self)
        for inode, ctime in zip(others._inodes, others._ctimes, strict=True):
            at = bisect_left(self._inodes, inode, hi=count)
            if at < count and self._inodes[at] == inode:
                self._ctimes[at] = max(self._ctimes[at], ctime)
            else:
                self.add(inode, ctime)
        if len(self) > count:
            self.sort()

    def sort(self) -> None:
        """Make what was added known to `has`."""
        inodes, ctimes = self._inodes, self._ctimes
        self._inodes, self._ctimes = array("Q"), array("Q")
        # inode numbers that divide the others into parts of about `_SLICE`
        bounds = sorted(inodes[::_SAMPLED])[_SLICE // _SAMPLED :: _SLICE // _SAMPLED]
        mask = (1 << _CTIME_BITS) - 1
        for low, high in pairwise((0, *bounds, 1 << _INODE_BITS)):
            pairs = zip(inodes, ctimes, strict=True)
            # one number for each file: tuples would take three times the memory
            merged = (
                inode << _CTIME_BITS | ctime for inode, ctime in pairs if low <= inode < high
            )
            for inode, each in groupby(sorted(merged), key=lambda both: both >> _CTIME_BITS):
                *_, last = each
                self.add(inode, last & mask)

    def has(self, inode: int, ctime: int) -> bool:
        """Return whether the file was settled with this ctime."""
        at = self._likely
        if at >= len(self._inodes) or self._inodes[at] != inode:
            at = bisect_left(self._inodes, inode)
        self._likely = at + 1
        return at < len(self._inodes) and self._inodes[at] == inode and self._ctimes[at] == ctime

    def numbers(self) -> array[int]:
        """Return all inode numbers, and then all ctimes."""
        return self._inodes + self._ctimes


@frozen(eq=False, repr=False)
class SavedSettledFiles:
    """Settled files with what they hold for: one boot, device and clock. As bytes for a file."""

    boot: bytes
    device: int
    offset: int
    files: SettledFiles

    def packed(self) -> bytes:
        """Return the bytes."""
        head = _HEAD.pack(_MAGIC, _VERSION, self.boot, self.device, self.offset, len(self.files))
        data = head + _little_endian(self.files.numbers()).tobytes()
        return data + _CRC.pack(zlib.crc32(data))

    @classmethod
    def unpacked(cls, data: bytes) -> SavedSettledFiles | None:
        """Return what the bytes say, None for bytes that are not whole or of another version."""
        body = data[: -_CRC.size]
        if len(body) < _HEAD.size or data[-_CRC.size :] != _CRC.pack(zlib.crc32(body)):
            return None
        magic, version, boot, device, offset, count = _HEAD.unpack_from(body)
        if (magic, version) != (_MAGIC, _VERSION) or len(body) != _HEAD.size + count * 16:
            return None
        numbers = _little_endian(array("Q", body[_HEAD.size :]))
        return cls(boot, device, offset, SettledFiles(numbers[:count], numbers[count:]))


def _little_endian(numbers: array[int]) -> array[int]:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


BLOCKS = 64
"""The most blocks that are read."""

_NANOSECONDS = 1_000_000_000

MARGIN = 2_000_000_000
"""Nanoseconds by which a settled file's ctime is older than the round in which it was read: for
coarse clocks, direct I/O that is under way, and page faults that wait for the disk."""

STEADY = 100_000_000
"""Nanoseconds by which a steady file's ctime is older than the flush, for coarse clocks."""

CLOCK_STEP = 500_000_000
"""Nanoseconds by which the wall clock may move against the monotonic one."""

_NOTHING_SETTLES = -1


class SpotCheck:
    """A random choice of files, each equally likely, and of one block of each."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._chosen: list[bytes] = []
        #: How many files are passed over before the next one that is chosen.
        self._passed = 0
        self._weight = 1.0

    def offer(self, prefix: bytes, names: Sequence[bytes]) -> None:
        """Add files that are carried over: all of a directory together."""
        at = self._passed
        while at < len(names):
            if len(self._chosen) < BLOCKS:
                self._chosen.append(prefix + names[at])
            else:
                self._chosen[self._random.randrange(BLOCKS)] = prefix + names[at]
            at += 1 + self._skipped()
        self._passed = at - len(names)

    def _skipped(self) -> int:
        """Return how many are passed over, so that each is as likely: reservoir sampling.

        Algorithm L of Kim-Hung Li, 1994.
        """
        if len(self._chosen) < BLOCKS:
            return 0
        self._weight *= (1 - self._random.random()) ** (1 / BLOCKS)
        return int(log(1 - self._random.random()) / log1p(-self._weight))

    def differing(self, root: int, tree: MoveTree, monotonic: Callable[[], int]) -> bytes | None:
        """Return the path of a file of which a block is not as in the tree, None without one.

        Ends after a second. Files that were changed since they were offered are passed over: the
        last walk finds them. Raises StorageError for one that cannot be read.
        """
        end = monotonic() + _NANOSECONDS
        self._random.shuffle(self._chosen)
        with closing(OpenDirectories(root, lambda path: None)) as directories:
            for path in self._chosen:
                if monotonic() >= end:
                    break
                node = tree.find(path)
                if isinstance(node, FileNode) and not self._is_as_sent(directories, path, node):
                    return path
        return None

    def _is_as_sent(self, directories: OpenDirectories, path: bytes, node: FileNode) -> bool:
        if not node.size or not node.blocks.count:
            return True
        index = self._random.randrange(node.blocks.count)
        length = node.length(index, 1)
        try:
            with closing_descriptor(directories.open_file(path)) as fd:
                data = os.pread(fd, length, index * node.block_size)
                found = os.fstat(fd)
        except OSError as error:
            if gone(error) or error.errno in (errno.ENOTDIR, errno.ELOOP):
                return True
            unreadable(path, error)
        if seen_as(found) != node.seen_as:
            return True
        return block_digest(data) == node.blocks.get(index, 1)


@define(eq=False, repr=False, slots=False)
class UnchangedFiles:
    """The rule for the files of one server, below the descriptor `root`.

    `root` stays open for the whole move: a failure to write is reported once for each descriptor.
    `log` gets a line for each reason why files are read that need not be.
    """

    _root: int
    _file_systems: MeasuredFileSystems
    log: Callable[[str], None]
    _kernel: KernelCalls = KERNEL
    #: Seeded by the kernel.
    _random: Random = field(factory=Random)

    def __attrs_post_init__(self) -> None:
        self._device = self._kernel.stat(self._root).st_dev
        #: How often nothing was settled any more, whatever was before.
        self.forgotten = 0
        #: Settled in rounds that have ended, and in this one: those carried over, and new ones.
        self._settled = SettledFiles()
        self._next = SettledFiles()
        #: A file that is read now settles if its ctime is less (ns).
        self._limit = _NOTHING_SETTLES
        #: A file that is read now and not changed meanwhile is steady if its ctime is less (ns).
        self._steady = 0
        #: Wall time less monotonic time since files are settled.
        self._offset: int | None = None
        self._sample: SpotCheck | None = None
        self._logged = ""
        self._lock = Lock()

    def begin(self, *, is_final: bool = False, shares: bool = False) -> None:
        """Begin a round, or the final pass, in which no file settles. Flushes the file system.

        One that `shares` a flush of some seconds before settles only what was not changed since.
        A failure to write may then be reported to the other's descriptor: to be followed by a
        round that does not.
        """
        self._next = SettledFiles()
        self._limit = _NOTHING_SETTLES
        self._steady = self._kernel.wall_time() - STEADY
        self._sample = SpotCheck(self._random) if is_final else None
        self._look_at_the_clock()
        objection = self._file_systems.objection(self._root)
        if objection:
            self._forget(f"all files are read: {objection}")
        elif not is_final:
            self._flush(shares=shares)

    def unchanged(self, before: tuple[Identity | None, bytes], node: FileNode) -> bool:
        """Return whether a file is carried over unread, for `plan`; it was seen as `before`."""
        identity = node.identity
        if before != node.seen_as:
            return False
        if identity is None or identity[0] != self._device:
            return False
        inode, ctime = identity[1], stamp_ctime(node.stamp)
        if not self._settled.has(inode, ctime):
            return False
        self._next.add(inode, ctime)
        if self._sample is not None:
            self._sample.offer(b"", node.names[:1])
        return True

    def unchanged_directory(self, prefix: bytes, files: Sequence[bytes]) -> None:
        """Note that a directory is as it was in the last round, and all its files are settled."""
        if self._sample is not None:
            self._sample.offer(prefix, files)

    def settles(self, found: os.stat_result) -> bool:
        """Return whether what is read now has this stat result no more when it is changed."""
        return found.st_dev == self._device and 0 <= found.st_ctime_ns < self._limit

    def before_reading(self, fd: int) -> os.stat_result:
        """Return the stat result of a file that is to be read, for `after_reading`.

        Waits for a write(2) that is under way: ctime was set at its beginning, maybe long ago.
        """
        self._kernel.finish_writes(fd)
        return self._kernel.stat(fd)

    def after_reading(self, fd: int, node: FileNode, first: os.stat_result) -> bool:
        """Note that a file was read as the node says; return whether it is settled."""
        seen = node.seen_as
        if seen != seen_as(first) or seen != seen_as(self._kernel.stat(fd)):
            return False
        if not self.settles(first):
            return False
        with self._lock:
            self._next.add(first.st_ino, first.st_ctime_ns)
        return True

    def is_steady(self, fd: int, first: os.stat_result) -> bool:
        """Return whether a file was not changed since `before_reading`, settled or not.

        A file that was changed just before the flush is steady, but not settled. Where the rule
        does not hold, what is stored into a mapping meanwhile is not noticed.
        """
        if seen_as(first) != seen_as(self._kernel.stat(fd)):
            return False
        # a change now would set another ctime than one in the future, which an old clock has set
        future = self._kernel.wall_time() + _NANOSECONDS
        return not self._steady <= first.st_ctime_ns <= future

    def spot_check(self, tree: MoveTree) -> bool:
        """Read some of what the final pass has carried over; return whether it is as in its tree.

        If not, nothing is trusted any more, here and on the whole file system: the final pass has
        to be begun again. Raises StorageError for what cannot be read.
        """
        if self._sample is None:
            return True
        path = self._sample.differing(self._root, tree, self._kernel.monotonic)
        if path is None:
            return True
        reason = f"{display(path)} was changed there without a change of its ctime"
        self._file_systems.distrust(self._root, reason)
        self._forget(
            f"all files are read: {reason}. This must not happen: set system.transfers.live.trust "
            "to never, and report it with the versions of the kernel and of wingsd"
        )
        return False

    def end(self, *, keeps: bool = False) -> None:
        """End a round: from now on the files are settled that were carried over, and new ones.

        With `keeps` not all were asked for, and those stay so that were settled before. Without a
        call they do as well.
        """
        self._next.sort()
        if keeps:
            self._settled.take(self._next)
        else:
            self._settled = self._next
        self._next = SettledFiles()
        self._limit = _NOTHING_SETTLES

    def saved(self) -> bytes:
        """Return what is settled after the last round that has ended, for `restore`."""
        offset = self._clock_offset() if self._offset is None else self._offset
        boot = self._kernel.boot_id()
        return SavedSettledFiles(boot, self._device, offset, self._settled).packed()

    def restore(self, saved: bytes) -> None:
        """Go on with what another object has saved; nothing is settled after another boot."""
        found = SavedSettledFiles.unpacked(saved)
        if found is None:
            self._forget("all files are read: the record of settled files is damaged")
        elif found.boot != self._kernel.boot_id():
            # after a power loss a page may be newer on the disk than its file's ctime
            self._forget("all files are read: this machine was booted since")
        elif found.device != self._device:
            self._forget("all files are read: they are on another file system now")
        else:
            self._offset, self._settled = found.offset, found.files

    def _flush(self, *, shares: bool) -> None:
        try:
            flush = self._file_systems.flush(self._root, self._kernel, shares=shares)
        except OSError as error:
            # pages that could not be written may be dropped, and the files be as they were before
            self._forget(f"all files are read: their file system cannot be flushed: {error}")
            return
        # A disk that is slow to flush may be as slow to end what was begun before.
        start = flush.wall_time - flush.took
        self._limit, self._steady = start - MARGIN, start - STEADY

    def _look_at_the_clock(self) -> None:
        offset = self._clock_offset()
        if self._offset is not None and abs(offset - self._offset) > CLOCK_STEP:
            self._forget("all files are read: the clock was set")
            self._offset = None
        if self._offset is None:
            self._offset = offset

    def _clock_offset(self) -> int:
        return self._kernel.wall_time() - self._kernel.monotonic()

    def _forget(self, reason: str) -> None:
        if reason != self._logged:
            self.log(reason)
            self._logged = reason
        self.forgotten += 1
        self._settled = SettledFiles()
        self._next = SettledFiles()
        self._limit = _NOTHING_SETTLES
