"""Each branch of the rule, by a clock and stat results that the test sets."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from tests.moves.unchanged.fake_kernel import (
    DEVICE,
    ROOT,
    SECOND,
    FakeFileSystems,
    FakeKernel,
    node_of,
)
from wingsd.moves.nodes import FileNode
from wingsd.moves.unchanged import CLOCK_STEP, MARGIN, UnchangedFiles

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
        return self.rule.unchanged(self.node, node_of(self.kernel.stat(FILE)))


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


def test_another_file_with_the_content_of_a_settled_one_is_read(move: Move) -> None:
    assert move.round()
    other = node_of(move.kernel.put(11, st_ctime_ns=move.kernel.stat(FILE).st_ctime_ns))
    move.rule.begin(is_final=True)
    assert not move.rule.unchanged(move.node, other)
    assert not move.rule.unchanged(other, other)
    assert not move.rule.unchanged(FileNode(0, 0, 0), FileNode(0, 0, 0))


def test_nothing_settles_in_a_final_pass(move: Move) -> None:
    move.rule.begin(is_final=True)
    assert not move.read()
    assert "flush" not in move.kernel.calls


def test_a_round_that_is_begun_again_keeps_what_was_settled_before(move: Move) -> None:
    assert move.round()
    move.rule.begin()
    move.rule.begin()
    assert move.is_carried()


def test_a_file_that_is_not_met_in_a_round_is_not_settled_any_more(move: Move) -> None:
    assert move.round()
    move.rule.begin()
    move.rule.end()
    assert not move.is_carried()


@pytest.mark.promise("unread-files-are-unchanged")
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


@pytest.mark.promise("unread-files-are-unchanged")
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


@pytest.mark.promise("unread-files-are-unchanged")
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
