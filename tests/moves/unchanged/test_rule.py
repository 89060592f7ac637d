"""The rule of unchanged files, by a clock and stat results that the test sets."""

from __future__ import annotations

import errno
import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from attrs import evolve

from tests.moves.moving import Source
from tests.moves.unchanged.fake_kernel import (
    DEVICE,
    ROOT,
    SECOND,
    FakeFileSystems,
    FakeKernel,
    node_of,
)
from tests.support.attributes import reading
from wingsd.moves.digests import block_digest
from wingsd.moves.nodes import FileNode
from wingsd.moves.scan import Scan, first_difference
from wingsd.moves.seen_directories import SeenDirectories
from wingsd.moves.tree import MoveTree
from wingsd.moves.unchanged import (
    BLOCKS,
    CLOCK_STEP,
    KERNEL,
    MARGIN,
    PROBE_NAME,
    MeasuredFileSystems,
    SavedSettledFiles,
    SettledFiles,
    SpotCheck,
    UnchangedFiles,
    file_system_type,
    measure,
)

pytestmark = pytest.mark.promise("unread-files-are-unchanged")

FILE = 10


class Move:
    """A move with one file, whose rounds the test takes."""

    def __init__(self) -> None:
        self.kernel = FakeKernel()
        self.file_systems = FakeFileSystems()
        self.lines: list[str] = []
        self.rule = self.new_rule()
        self.node = self.written()

    def new_rule(self) -> UnchangedFiles:
        return UnchangedFiles(ROOT, self.file_systems, self.lines.append, self.kernel.interface)

    def written(self, **fields: int) -> FileNode:
        """Change the file now; return what a scan sees."""
        return node_of(self.kernel.put(FILE, **fields))

    def wait(self, nanoseconds: int) -> None:
        self.kernel.now += nanoseconds

    def read(self, while_reading: Callable[[], object] = lambda: None) -> bool:
        """Scan and read the file; return whether it is settled."""
        self.node = node_of(self.kernel.stat(FILE))
        first = self.rule.before_reading(FILE)
        while_reading()
        return self.rule.after_reading(FILE, self.node, first)

    def round(self) -> bool:
        self.rule.begin()
        settled = self.read()
        self.rule.end()
        return settled

    def is_carried(self, *, is_final: bool = True) -> bool:
        """Begin a round, scan, and return whether the file is carried over unread."""
        self.rule.begin(is_final=is_final)
        return self.rule.unchanged(self.node.seen_as, node_of(self.kernel.stat(FILE)))


@pytest.fixture
def move() -> Move:
    """A file that was changed just so long ago that it settles."""
    move = Move()
    move.wait(MARGIN + 1)
    return move


def test_a_settled_file_is_carried_over_in_each_later_round(move: Move) -> None:
    assert move.round()
    for _ in range(3):
        move.wait(SECOND)
        assert move.is_carried(is_final=False)
        move.rule.end()
    assert move.is_carried()


def test_the_flush_comes_after_the_time_and_before_the_reading(move: Move) -> None:
    def flush() -> None:
        move.wait(60 * SECOND)
        move.written()

    # a file that is changed during the flush is too young, whatever the flush takes
    move.kernel.flush = flush
    assert not move.round()
    assert move.kernel.calls == ["flush", "finish writes"]


def test_rounds_that_share_a_flush_settle_only_what_is_older_than_that(move: Move) -> None:
    """A file that was changed after it may be changed again without another ctime."""
    other = move.new_rule()
    other.begin(shares=True)
    move.written()
    move.wait(MARGIN + 1)
    move.rule.begin(shares=True)
    assert not move.read()
    assert move.kernel.calls.count("flush") == 1
    move.rule.begin()
    assert move.read()
    assert move.kernel.calls.count("flush") == 2


def test_no_flush_is_shared_from_before_the_clock_was_set_back(move: Move) -> None:
    """By its time all that is written after it would be old."""
    move.new_rule().begin(shares=True)
    move.kernel.ahead -= 3600 * SECOND
    move.written()
    move.rule.begin(shares=True)
    assert not move.read()
    assert move.kernel.calls.count("flush") == 2


def test_a_flush_is_shared_for_some_seconds_and_not_after_a_failure(move: Move) -> None:
    def fails() -> None:
        raise OSError(errno.EIO, "")

    move.kernel.flush = fails
    move.rule.begin(shares=True)
    assert "cannot be flushed" in move.lines[-1]
    move.kernel.flush = lambda: None
    for seconds in (0, 10, 11, 20):
        move.wait(seconds * SECOND)
        move.rule.begin(shares=True)
    assert move.kernel.calls.count("flush") == 4


def test_a_file_that_is_as_young_as_the_margin_does_not_settle() -> None:
    move = Move()
    move.wait(MARGIN)
    assert not move.round()
    assert not move.is_carried()


def test_a_slow_flush_makes_the_margin_longer(move: Move) -> None:
    move.kernel.flush = lambda: move.wait(1)
    assert not move.round()
    assert move.round()


@pytest.mark.parametrize("ctime", [-1, 1 << 62])
def test_a_ctime_before_1970_or_in_the_future_does_not_settle(move: Move, ctime: int) -> None:
    move.written(st_ctime_ns=ctime)
    assert not move.round()


@pytest.mark.parametrize("when", ["after the scan", "while it is read", "after it was read"])
def test_a_changed_file_is_read_again(move: Move, when: str) -> None:
    move.rule.begin()
    node = node_of(move.kernel.stat(FILE))
    if when == "after the scan":
        move.written()
    first = move.rule.before_reading(FILE)
    if when == "while it is read":
        move.written()
    settled = move.rule.after_reading(FILE, node, first)
    move.rule.end()
    assert settled == (when == "after it was read")
    move.wait(1)
    move.written()
    move.node = node
    assert not move.is_carried()


@pytest.mark.parametrize(
    "field",
    ["st_size", "st_mtime_ns", "st_ctime_ns", "st_mode", "st_uid", "st_gid", "st_nlink", "st_ino"],
)
def test_each_part_of_the_identity_counts(move: Move, field: str) -> None:
    assert move.round()
    found = move.kernel.stat(FILE)
    kept = {"st_ctime_ns": found.st_ctime_ns}
    move.written(**(kept | {field: getattr(found, field) + 1}))
    assert not move.is_carried()


def test_a_file_of_another_file_system_is_always_read(move: Move) -> None:
    ctime = move.kernel.stat(FILE).st_ctime_ns
    move.written(st_dev=DEVICE + 1, st_ctime_ns=ctime)
    assert not move.round()
    assert not move.is_carried()


@pytest.mark.parametrize("step", [CLOCK_STEP + 1, -CLOCK_STEP - 1])
def test_a_clock_that_was_set_unsettles_all(move: Move, step: int) -> None:
    assert move.round()
    move.kernel.ahead += step
    assert not move.is_carried()
    assert move.lines == ["all files are read: the clock was set"]
    move.wait(2 * CLOCK_STEP)
    assert move.round()
    assert move.is_carried()


def test_a_clock_that_is_set_by_small_steps_unsettles_all(move: Move) -> None:
    assert move.round()
    move.kernel.ahead += CLOCK_STEP
    assert move.is_carried(is_final=False)
    move.rule.end()
    move.kernel.ahead += 1
    assert not move.is_carried()


def test_a_failed_flush_unsettles_all_and_settles_nothing(move: Move) -> None:
    assert move.round()

    def fail() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    move.kernel.flush = fail
    assert not move.round()
    move.kernel.flush = lambda: None
    assert not move.is_carried()
    assert move.lines == [
        "all files are read: their file system cannot be flushed: [Errno 5] Input/output error"
    ]


def test_on_a_file_system_without_trust_nothing_settles_and_a_line_says_so_once(
    move: Move,
) -> None:
    assert move.round()
    move.file_systems.reason = "it is odd"
    assert not move.is_carried()
    assert not move.round()
    assert not move.is_carried()
    assert move.lines == ["all files are read: it is odd"]


def test_the_next_daemon_goes_on_with_what_was_settled(move: Move) -> None:
    assert move.round()
    saved = move.rule.saved()
    move.rule = move.new_rule()
    assert not move.is_carried()
    move.rule.restore(saved)
    assert move.is_carried()
    assert move.lines == []


@pytest.mark.parametrize("what", ["boot", "device", "clock", "damage", "cut"])
def test_the_next_daemon_trusts_nothing_after(move: Move, what: str) -> None:
    assert move.round()
    saved = move.rule.saved()
    match what:
        case "boot":
            move.kernel.boot = b"second boot 0000"
        case "device":
            move.kernel.put(ROOT, st_dev=DEVICE + 1)
        case "clock":
            move.kernel.ahead += 2 * CLOCK_STEP
        case "damage":
            saved = saved[:60] + bytes([saved[60] ^ 1]) + saved[61:]
        case "cut":
            saved = saved[:20]
    move.rule = move.new_rule()
    move.rule.restore(saved)
    assert not move.is_carried()
    assert len(move.lines) == 1


COUNT = 20_000


def some(count: int = COUNT) -> tuple[SettledFiles, dict[int, int]]:
    chance = random.Random(1)
    known = {chance.randrange(1 << 64): chance.randrange(1 << 63) for _ in range(count)}
    files = SettledFiles()
    for inode, ctime in (*known.items(), *known.items()):
        files.add(inode, ctime)
    files.sort()
    return files, known


def test_exactly_what_was_added_is_found() -> None:
    files, known = some()
    assert len(files) == COUNT
    assert all(files.has(inode, ctime) for inode, ctime in known.items())
    assert not any(files.has(inode, ctime + 1) for inode, ctime in known.items())
    assert not any(files.has(inode ^ 1, ctime) for inode, ctime in known.items())
    assert not SettledFiles().has(0, 0)


def test_bytes_that_are_not_whole_are_nothing() -> None:
    saved = SavedSettledFiles(b"b" * 16, 9, 0, some(3)[0]).packed()
    for length in range(len(saved)):
        assert SavedSettledFiles.unpacked(saved[:length]) is None
    for at in range(len(saved)):
        damaged = saved[:at] + bytes([saved[at] ^ 1]) + saved[at + 1 :]
        assert SavedSettledFiles.unpacked(damaged) is None


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def scanned(path: Path) -> MoveTree:
    """Return the tree as it is sent, with digests."""
    source = Source(root=path)
    source.round()
    return source.sent


def paths(tree: MoveTree) -> list[bytes]:
    return [path for path, node in tree.walk() if isinstance(node, FileNode)]


def damage(tree: MoveTree, path: bytes, content: bytes = b"other") -> None:
    """Have a file of one block be another in the tree."""
    node = tree.find(path)
    assert isinstance(node, FileNode)
    node.blocks.set(0, block_digest(content))
    tree.changed(node)


def check(root: int, tree: MoveTree, seed: int = 1) -> bytes | None:
    sample = SpotCheck(Random(seed))
    for path in paths(tree):
        sample.offer(b"", [path])
    return sample.differing(root, tree, KERNEL.monotonic)


def test_a_block_that_is_not_as_sent_is_found(tmp_path: Path, root: int) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "file").write_bytes(b"file")
    tree = scanned(tmp_path)
    damage(tree, b"directory/file")
    assert check(root, tree) == b"directory/file"


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b"other"),
        lambda path: path.unlink(),
        lambda path: (path.unlink(), path.symlink_to("/etc/passwd")),
        lambda path: (path.unlink(), path.parent.rmdir(), path.parent.write_bytes(b"file")),
    ],
)
def test_what_was_changed_since_is_left_to_the_last_walk(
    tmp_path: Path, root: int, change: Callable[[Path], object]
) -> None:
    path = tmp_path / "directory" / "file"
    path.parent.mkdir()
    path.write_bytes(b"file")
    tree = scanned(tmp_path)
    change(path)
    assert check(root, tree) is None


def test_each_file_is_as_likely_and_at_most_64_are_read(tmp_path: Path, root: int) -> None:
    for number in range(4 * BLOCKS):
        (tmp_path / f"{number}").write_bytes(b"%d" % number)
    tree = scanned(tmp_path)
    some = paths(tree)[:BLOCKS]
    for path in some:
        damage(tree, path)
    # a quarter of all files: none of 64 is among them in one case of 10^8
    assert check(root, tree) is not None
    for path in some:
        damage(tree, path, path)
    damage(tree, paths(tree)[-1])
    found = [check(root, tree, seed) for seed in range(100)]
    assert 10 < len([each for each in found if each is not None]) < 40


def test_a_difference_ends_the_trust_in_the_file_system(tmp_path: Path, root: int) -> None:
    (tmp_path / "file").write_bytes(b"file")
    file_systems, lines = FakeFileSystems(), list[str]()
    # all files are old enough
    kernel = evolve(KERNEL, wall_time=lambda: KERNEL.wall_time() + 3_600_000_000_000)
    rule = UnchangedFiles(root, file_systems, lines.append, kernel, Random(1))
    tree = scanned(tmp_path)
    node = tree.find(b"file")
    assert isinstance(node, FileNode)
    rule.begin()
    with (tmp_path / "file").open("rb") as file:
        assert rule.after_reading(file.fileno(), node, rule.before_reading(file.fileno()))
    rule.end()
    rule.begin(is_final=True)
    assert rule.unchanged(node.seen_as, node)
    damage(tree, b"file")
    assert not rule.spot_check(tree)
    assert "live.trust to never" in lines[0]
    assert file_systems.reason
    rule.begin(is_final=True)
    assert not rule.unchanged(node.seen_as, node)
    assert rule.spot_check(tree)


@pytest.fixture
def walked(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").write_bytes(b"file")
    (tmp_path / "a" / "file").chmod(0o4755)
    (tmp_path / "a" / "other").hardlink_to(tmp_path / "a" / "file")
    (tmp_path / "a" / "b" / "link").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket"))
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def seen(walked: int) -> MoveTree:
    return Scan(lambda line: None, reading(walked), None, SeenDirectories()).run(walked)


def keep_times(path: Path, change: Callable[[Path], object]) -> None:
    """Change something in a directory, whose times stay."""
    found = os.stat(path)
    change(path)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def other_link(directory: Path) -> None:
    (directory / "link").unlink()
    (directory / "link").symlink_to("else")


def no_link(directory: Path) -> None:
    (directory / "link").unlink()
    (directory / "link").mkdir()


def other_file(directory: Path) -> None:
    (directory / "other").unlink()
    (directory / "other").write_bytes(b"file")


def test_what_nobody_has_changed_is_the_same(walked: int) -> None:
    tree = seen(walked)
    assert first_difference(walked, tree, reading(walked)) is None
    assert first_difference(walked, tree, reading(walked)) is None


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda top: (top / "a/file").write_bytes(b"FILE"), b"a/file"),
        (lambda top: (top / "a/file").chmod(0o600), b"a/file"),
        (lambda top: os.utime(top / "a/file", ns=(1, 1)), b"a/file"),
        (lambda top: (top / "new").touch(), b""),
        (lambda top: (top / "a").chmod(0o700), b"a"),
        (lambda top: (top / "a/other").unlink(), b"a"),
        (lambda top: (top / "a/b").rename(top / "a/c"), b"a"),
        (lambda top: keep_times(top, lambda top: (top / "new").touch()), b"new"),
        (lambda top: keep_times(top, lambda top: (top / "new").mkdir()), b"new"),
        (lambda top: keep_times(top / "a/b", lambda b: (b / "link").unlink()), b""),
        (lambda top: keep_times(top / "a/b", other_link), b"a/b/link"),
        (lambda top: keep_times(top / "a/b", no_link), b"a/b/link"),
        # it has one name less
        (lambda top: keep_times(top / "a", other_file), b"a/file"),
    ],
)
def test_what_was_changed_is_named(
    walked: int, tmp_path: Path, change: Callable[[Path], object], path: bytes
) -> None:
    tree = seen(walked)
    change(tmp_path)
    assert first_difference(walked, tree, reading(walked)) == path


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
