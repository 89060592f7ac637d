"""Files that moves carry over unread, against a process that changes a running server's files.

Rounds are taken as moves take them, by `MoveSource` and with a destination. Each trial ends with
the death of the writer, a final pass, and a comparison with the disk. Where the rule holds, no
decision may be wrong, and directories that are the same are not scanned again; where it does not,
every file must be read. Naive rules must each be caught.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any
from unittest import mock

import attrs

from tests.crash.disks import FILE_SYSTEMS, disk, missing
from tests.crash.engine import MEMORY, REPOSITORY, Broken, Campaign, place
from tests.crash.writer import LINKED, READY
from tests.moves.moving import Destination, LiveMove
from tests.support.archives import seen
from wingsd.filesystem.walk import opened
from wingsd.moves import seen_directories, source
from wingsd.moves.nodes import FileNode, Identity
from wingsd.moves.source import KnownTree, LiveSource, MoveSource
from wingsd.moves.unchanged import KERNEL, KernelCalls, MeasuredFileSystems, UnchangedFiles

#: On these the rule holds; on the others all is read.
TRUSTED = tuple(FILE_SYSTEMS)
KINDS = (*TRUSTED, "tmpfs", "overlay")
#: How often a round is planned in vain, breaks off, and leaves out what changes all the time.
_IN_VAIN, _BREAKS, _LEAVES = 0.2, 0.3, 0.3
#: How often a round that breaks off was read as a whole, and nothing of it has arrived.
_ARRIVES_NOT = 0.5
#: How often a final pass is followed by another one.
_AGAIN = 0.3
#: How often the clock is set before a round: by a second, and the next time back again.
_CLOCK_IS_SET = 0.03
#: How often there will be more directories than are remembered, after so many new ones.
_TOO_MANY, _MORE = 0.1, 20
#: How often a second process looks at directories in final passes.
_BESIDE = 0.5
_BATCH = 64 << 10
#: The most seconds between a flush and the scan: in a large directory they are more.
_SCANS_AFTER = 0.5
_HOUR = 3_600_000_000_000
#: Where size and time end in a stamp; see `scan.stat_stamp`.
_SIZE_AND_TIME = 16
#: Files of one directory: how many there are of few files matters to what is not scanned again.
_EACH = (1, 1, 1, 2, 3, 5, 8, 20, 60)
#: How often a directory is in another one; in how many trials files get several names.
_NESTED, _LINKS = 0.4, 0.15
#: In how many trials a round breaks off, and the writer ends before anything is read again.
_BROKEN = 0.4
FILES = 1500
"""As many as one trial has. With some thousands, their dirty pages make btrfs short of space for
metadata, and it writes them back so soon that nearly every store changes ctime."""
_SAME_FILES = 20
"""Trials with the same files; their names become too many then."""
#: The most trials in which a naive rule has to be caught, which takes one of several, and in which
#: a directory is not scanned again: more than those with the same files, which may have more
#: directories than are remembered.
_MOST, _SKIPPED_IN = 30, _SAME_FILES + 5


class CountingRule(UnchangedFiles):
    """The rule; it counts what is not scanned again of a round, and is slow to begin one."""

    directories = files = 0
    chance = random.Random(0)

    def begin(self, *, is_final: bool = False, shares: bool = False) -> None:
        self.directories = self.files = 0
        super().begin(is_final=is_final, shares=shares)
        time.sleep(0 if is_final else self.chance.uniform(0, _SCANS_AFTER))

    def unchanged_directory(self, prefix: bytes, files: Sequence[bytes]) -> None:
        self.directories += 1
        self.files += len(files)
        super().unchanged_directory(prefix, files)


class SizeAndTime(CountingRule):
    """A naive rule, rsync's first look: the size and the modification time."""

    def unchanged(self, before: tuple[Identity | None, bytes], node: FileNode) -> bool:
        return before[1][:_SIZE_AND_TIME] == node.stamp[:_SIZE_AND_TIME]


class ForgetfulTree(KnownTree):
    """A naive tree, which does not know which files are not settled."""

    def not_settled(self, path: bytes) -> None:
        pass


class HastySource(MoveSource):
    """A naive source, which settles what it has read of a part that broke off."""

    def _end_round(self) -> None:
        if self._is_begun and not self.can_go_on and self._part is not None:
            self._known.end_round(is_final=not self._is_running)
        super()._end_round()


RARE = "a part that broke off"
"""The naive rule that is caught by one of several trials only."""
NAIVE: MappingProxyType[str, dict[str, Any]] = MappingProxyType(
    {
        "size and time": {"rule": SizeAndTime},
        "ctime without syncfs": {"kernel": attrs.evolve(KERNEL, sync=lambda fd: None)},
        "syncfs without margin": {
            "kernel": attrs.evolve(KERNEL, wall_time=lambda: KERNEL.wall_time() + _HOUR)
        },
        "directories without settled files": {"tree": ForgetfulTree},
        RARE: {"source": HastySource},
    }
)
"""The options of `Rounds` with a part of the rule of wingsd left out, by names for reports."""


class Calm(random.Random):
    """No chance: what happens now and then does not happen."""

    def random(self) -> float:
        return 1.0


@attrs.frozen
class Round:
    """A round: its number of files, and how many of them were carried over unread.

    `passed` is whether the checks of a final one have found nothing. `directories` were not
    scanned again, with the files that are in them.
    """

    files: int
    carried: int
    passed: bool
    directories: int
    in_directories: int


class Rounds:
    """Rounds of one move from a directory, with its destination. `close` has to be called.

    Some rounds are planned and not sent, and some break off, so that the destination is asked what
    it has; sometimes the clock is set. Without a `seed` all rounds are plain ones.
    """

    def __init__(
        self,
        directory: Path,
        file_systems: MeasuredFileSystems,
        log: Callable[[str], None],
        seed: int | None,
        **naive: Any,
    ) -> None:
        self._directory = directory
        self._chance = Calm() if seed is None else random.Random(seed)
        self._is_stopped = False
        self._kernel: KernelCalls = naive.get("kernel", KERNEL)
        #: Nanoseconds that the clock is slow.
        self._slow = 0
        make_rule: type[CountingRule] = naive.get("rule", CountingRule)

        def rule(*args: Any) -> CountingRule:
            self._rule = made = make_rule(*args)
            made.chance = self._chance
            return made

        with ExitStack() as stack:
            tree = naive.get("tree", KnownTree)
            with mock.patch.multiple("wingsd.moves.source", UnchangedFiles=rule, KnownTree=tree):
                kernel = attrs.evolve(self._kernel, wall_time=self._time)
                make_source: type[MoveSource] = naive.get("source", MoveSource)
                live = LiveSource(file_systems, log, kernel)
                self._source = make_source(str(directory), log, live)
            stack.callback(self._source.close)
            self._source.size = _BATCH
            memory = MEMORY if os.access(MEMORY, os.W_OK) else None
            there = stack.enter_context(TemporaryDirectory(dir=memory, prefix="wingsd-there-"))
            self._there = Destination(Path(there))
            self._to = stack.enter_context(self._there.open())
            self._move = LiveMove(self._source, self._to)
            if self._chance.random() < _TOO_MANY:
                count = sum(1 for _ in os.walk(directory)) + _MORE
                stack.enter_context(mock.patch.object(seen_directories, "MOST", count))
            if seed is not None and random.Random(f"beside {seed}").random() < _BESIDE:
                stack.enter_context(mock.patch.object(source, "LEAST_NAMES", 0))
            self._stack = stack.pop_all()

    def _time(self) -> int:
        return self._kernel.wall_time() - self._slow

    def close(self) -> None:
        """Close files and remove the copy."""
        self._stack.close()

    def round(self, *, is_final: bool = False) -> Round:
        """Take a round; the final one, of one or two passes, when nothing writes any more."""
        if self._chance.random() < _CLOCK_IS_SET:
            self._slow = 0 if self._slow else 10**9
        if self._is_stopped:
            self._source.was_started()
        resumes = self._is_stopped or not self._source.can_go_on
        self._is_stopped = is_final
        if self._chance.random() < _IN_VAIN:
            self._plan(is_final, resumes)
        read = 0
        if self._chance.random() < _BREAKS:
            self._plan(is_final, resumes)
            self._break()
            read, resumes = self._source.files, True
        self._plan(is_final, resumes)
        done = self._sent(is_final, read)
        if is_final and self._chance.random() < _AGAIN:
            self._plan(is_final, resume=False)
            again = self._sent(is_final)  # where the checks may find a naive rule only now
            done = attrs.evolve(done, passed=done.passed and again.passed)
        if is_final:
            self._to.finish()
        return done

    def break_off(self) -> None:
        """Begin a round, of which some is read and some arrives."""
        self._plan(is_final=False, resume=not self._source.can_go_on)
        self._break()

    def _plan(self, is_final: bool, resume: bool) -> None:
        leaves = not is_final and self._chance.random() < _LEAVES
        self._move.plan(running=not is_final, resume=resume, leave_hot=leaves)

    def _sent(self, is_final: bool, read: int = 0) -> Round:
        """Send what was planned; `read` files were read in a pass that broke off."""
        source = self._source
        # whether only what was changed was scanned
        is_part = source._part is not None
        is_same = is_final and source.walk_again()
        self._move.send()
        changed = source.unproven(is_same=is_same) if is_final else ""
        source.closed()
        count = self._files() if is_final else 0
        return Round(
            count,
            max(count - source.files - read, 0),
            not changed,
            self._rule.directories if is_part else 0,
            self._rule.files if is_part else 0,
        )

    def _break(self) -> None:
        """Read some batches, or all of them, of which the first arrive, or none."""
        arrive, read = sorted(self._chance.choice((*range(40), 1000)) for _ in range(2))
        if self._chance.random() < _ARRIVES_NOT:
            arrive, read = 0, 1000
        for number, batch in enumerate(self._move.batches()):
            if number < arrive:
                self._move.feed(batch)
            if number == read:
                break

    def _files(self) -> int:
        """Return how many files there are that are not empty: others need not be read."""
        found = set()
        for path in self._directory.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.stat().st_size:
                found.add(path.stat().st_ino)
        return len(found)

    def differing(self) -> list[Path]:
        """Return what the destination does not have as it is on the disk."""
        here, there = (seen(each, owner=False) for each in (self._directory, self._there.tree))
        names = {name for name in {*here, *there} if here.get(name) != there.get(name)}
        return [self._directory / os.fsdecode(name[1:]) for name in sorted(names)]


@attrs.frozen
class Pace:
    """Seconds, from and to: before each further round of a trial, and then before the kill.

    Files have an `age` before the first round, by default one by which they settle in it.
    """

    pauses: tuple[tuple[float, float], ...] = ((1.8, 2.8), (1.8, 2.8))
    last: tuple[float, float] = (0.1, 0.6)
    age: float = 2.1


QUICK = Pace(pauses=((2.3, 2.4),), last=(0.5, 0.6))
"""Files settle in the second round, and are changed until the kill."""

HASTY = Pace(pauses=(), last=(0.1, 0.2), age=0)
"""For where nothing settles."""


def fill(directory: Path, count: int, seed: int) -> None:
    """Make files of up to three pages, and one in fifty of 80 KiB; some have two names."""
    chance = random.Random(seed)
    places = [directory]
    left = 0
    for index in range(count):
        if not left:
            left = chance.choice(_EACH)
            parent = chance.choice(places) if chance.random() < _NESTED else directory
            places.append(parent / f"d{index}")
            places[-1].mkdir()
        left -= 1
        size = 80 << 10 if index % 50 == 0 else chance.randrange(12 << 10)
        (places[-1] / f"f{index}").write_bytes(chance.randbytes(size))
    one, other = (directory / f"{LINKED}{number}" for number in range(2))
    one.mkdir()
    other.mkdir()
    for index in range(3):
        (one / f"f{index}").write_bytes(chance.randbytes(5_000))
        (other / f"f{index}").hardlink_to(one / f"f{index}")


def remove_links(directory: Path) -> None:
    """Leave one name to what earlier trials have given several."""
    paths = [path for path in directory.rglob("*") if path.is_symlink() or not path.is_dir()]
    inodes = set()
    for path in sorted(paths, key=lambda path: not path.parent.name.startswith(LINKED)):
        found = path.lstat().st_ino
        if found in inodes and not path.parent.name.startswith(LINKED):
            path.unlink()
        inodes.add(found)


@contextmanager
def writing(directory: Path, seed: int, *words: str) -> Iterator[None]:
    """Let a server change its files within the `with` statement, and kill it at the end."""
    command = [sys.executable, "-m", "tests.crash.writer", str(directory), str(seed), *words]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == READY
        try:
            yield
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL, "the writer ended by itself"


class Trials(Campaign):
    """Trials of the rule, or of a `naive` one, in one directory; every so often with new files.

    `done` counts decisions in final passes: whether a file is read. The rule keeps what is settled
    from one trial to the next with the same files.
    """

    def __init__(
        self,
        directory: Path,
        naive: dict[str, Any] | None = None,
        *,
        pace: Pace = Pace(),
        files: int = FILES,
        most: int = 0,
    ) -> None:
        self._directory = directory / "server"
        self._naive = naive
        self._files = files
        self._most = most
        self.objection = self._measure()
        self._pace = HASTY if self.objection else pace
        self._rounds: Rounds | None = None
        #: Trials, how many of them were with the present files, and moves so far.
        self.trials = self._with_files = self._moves = 0
        #: Of the decisions, files that were not read, and the wrong ones; and the number of final
        #: passes whose checks have found a wrong one.
        self.carried = self.found = 0
        self.wrong: list[str] = []
        #: Directories, and files in them, that were not scanned again in rounds of any kind.
        self.directories = self.in_directories = 0
        #: The lines that the rule has logged.
        self.lines: list[str] = []

    @property
    def is_over(self) -> bool:
        """True if enough was decided; a naive rule needs one wrong decision."""
        if self._most:
            return bool(self.wrong) or self.trials >= self._most
        # in a few trials chance may have all directories be scanned
        is_met = self.objection or self.in_directories or self.trials >= _SKIPPED_IN
        return super().is_over and bool(is_met)

    def _measure(self) -> str:
        """Measure the file system; return why the rule does not hold there."""
        self._file_systems = MeasuredFileSystems()
        with opened(str(self._directory.parent)) as fd:
            objection = self._file_systems.measure(fd)
        assert objection == self._objection()
        return objection

    def _objection(self) -> str:
        with opened(str(self._directory.parent)) as fd:
            return self._file_systems.objection(fd)

    async def trial(self, number: int) -> str:
        if self._rounds is None or self._with_files == _SAME_FILES:
            self._renew()
        assert self._rounds is not None
        self._with_files += 1
        rounds, pace, chance = self._rounds, self._pace, self.rng
        seed = chance.randrange(1 << 32)
        words = ["links"] if chance.random() < _LINKS else []
        if not words:
            remove_links(self._directory)
        with writing(self._directory, seed, *words):
            self._round()
            for pause in pace.pauses:
                time.sleep(chance.uniform(*pause))
                self._round()
            is_broken = pace.pauses and chance.random() < _BROKEN
            time.sleep(chance.uniform(*(pace.pauses[-1] if is_broken else pace.last)))
            if is_broken:
                rounds.break_off()
        done = self._round(is_final=True)
        self.trials += 1
        self.done += done.files
        self.carried += done.carried
        self.found += not done.passed
        for path in rounds.differing():
            found = os.lstat(path) if os.path.lexists(path) else "does not exist"
            self.wrong.append(f"trial {self.trials}: {path} {found}")
        is_distrusted = self._objection() != self.objection
        if self._naive is None and (self.wrong or self.found or is_distrusted):
            raise Broken("a decision was wrong")
        if is_distrusted:  # of a naive rule: with trust again, it may be wrong the next time
            self._measure()
            self._with_files = _SAME_FILES
        return self.summary()

    def _round(self, *, is_final: bool = False) -> Round:
        assert self._rounds is not None
        done = self._rounds.round(is_final=is_final)
        self.directories += done.directories
        self.in_directories += done.in_directories
        return done

    def _renew(self) -> None:
        """Begin again with new files."""
        self._end_rounds()
        self._directory.mkdir()
        fill(self._directory, self._files, self.rng.randrange(1 << 32))
        time.sleep(self._pace.age)
        options = self._naive or {}
        log, seed = self.lines.append, self.seed + self._moves
        self._rounds = Rounds(self._directory, self._file_systems, log, seed, **options)
        self._with_files = 0
        self._moves += 1

    def _end_rounds(self) -> None:
        if self._rounds is not None:
            self._rounds.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    async def close(self) -> None:
        self._end_rounds()

    def check_all(self) -> None:
        """Check that a naive rule was caught, and that the rule carries files over where it holds.

        Raises `Broken`.
        """
        met = (self.carried, self.directories, self.in_directories)
        if self._naive is not None and not self.wrong:
            raise Broken("the naive rule was not caught")
        if self._naive is None and not (not any(met) if self.objection else all(met)):
            raise Broken(f"files are not carried over as they should be: {self.objection}")

    def evidence(self) -> list[str]:
        return [*(f"WRONG: {each}" for each in self.wrong[:10]), *self.lines]

    def summary(self) -> str:
        return (
            f"{self.objection or 'the rule holds'}: {self.trials} trials, {self.done} decisions, "
            f"{self.carried} files carried over unread, {len(self.wrong)} wrong, "
            f"{self.found} checks failed; {self.directories} times a directory was not scanned "
            f"again, with {self.in_directories} files"
        )


def parts(kinds: Sequence[str], options: Namespace) -> list[int]:
    """Return the counts of processes that run at once on disks of their own, if there are any."""
    if options.at_once == 1:
        return []
    if options.directory:
        raise SystemExit("--at-once needs disks of its own: leave out --directory")
    return [-(-options.count // options.at_once)] * options.at_once


def campaigns(kinds: Sequence[str], options: Namespace) -> Iterator[tuple[str, Campaign]]:
    """Yield the trials on these file systems, and of the naive rules where the rule holds."""
    pace, files = QUICK if options.quick else Pace(), options.files or FILES
    rules: list[tuple[str, dict[str, Any] | None]] = [("", None)]
    if options.naive:
        rules += [(f": naive: {name}", naive) for name, naive in NAIVE.items()]
    for kind in kinds:
        if reason := "" if options.directory else missing(kind):
            print(f"{kind}: left out: {reason}", flush=True)
            continue
        for name, naive in rules if kind in TRUSTED else rules[:1]:
            with ExitStack() as stack:
                directory = options.directory
                if directory is None:
                    directory = stack.enter_context(
                        disk(kind, stack.enter_context(place("unchanged")))
                    )
                most = _MOST if naive is not None else 0
                used = pace if naive is None else Pace()
                yield (
                    f"{kind}{name}",
                    Trials(directory, naive, pace=used, files=files, most=most),
                )
