"""Rounds as moves take them: by `MoveSource`, and with a destination, whose files are compared.

Directories that are as they were in the last round are not scanned again; here they are counted.
Some rounds are planned and not sent, and some break off, so that the destination is asked what it
has; sometimes the clock is set. After the final pass the destination must have the same tree as
the disk.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import attrs

from tests.moves.moving import Destination, feed
from tests.support.archives import seen
from tests.unchanged.source import Round
from wingsd.filesystem.attributes import AttributeReader
from wingsd.moves import seen_directories, source
from wingsd.moves.filling import Batch, batch_body
from wingsd.moves.scan import ChangedPart
from wingsd.moves.source import KnownTree, LiveSource, MoveSource
from wingsd.moves.unchanged import KERNEL, MeasuredFileSystems, UnchangedFiles

__all__ = ["ForgetfulTree", "HastySource", "ProductSource"]

#: Where a destination is, if it can be: in memory.
_PLACE = Path("/dev/shm")
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
_SIZE = 64 << 10
#: The most seconds between a flush and the scan: in a large directory they are more.
_SCANS_AFTER = 0.5


class _CountingRule(UnchangedFiles):
    """The rule, which counts what is not scanned again of a round, and is slow to begin one."""

    directories = files = 0
    chance = random.Random(0)

    def begin(self, *, is_final: bool = False) -> None:
        self.directories = self.files = 0
        super().begin(is_final=is_final)
        time.sleep(0 if is_final else self.chance.uniform(0, _SCANS_AFTER))

    def unchanged_directory(self, prefix: bytes, files: Sequence[bytes]) -> None:
        self.directories += 1
        self.files += len(files)
        super().unchanged_directory(prefix, files)


class CountingTree(KnownTree):
    """What is known of the tree; `is_part` is whether only what was changed was scanned."""

    is_part = False

    def rescan(
        self, root: int, warn: Callable[[str], None], *, is_final: bool = False
    ) -> ChangedPart | None:
        part = super().rescan(root, warn, is_final=is_final)
        self.is_part = part is not None
        return part


class ForgetfulTree(CountingTree):
    """One that is wrong: it does not know which files are not settled."""

    def not_settled(self, path: bytes) -> None:
        pass


class HastySource(MoveSource):
    """One that is wrong: what it has read of a part that broke off is settled."""

    def _end_round(self) -> None:
        if self._is_begun and not self.can_go_on and self._part is not None:
            self._known.end_round(is_final=not self._is_running)
        super()._end_round()


class ProductSource:
    """Rounds of one move from a directory. `close` has to be called."""

    def __init__(
        self,
        directory: Path,
        file_systems: MeasuredFileSystems,
        log: Callable[[str], None],
        seed: int,
        make_tree: type[CountingTree] = CountingTree,
        make_source: type[MoveSource] = MoveSource,
    ) -> None:
        self._directory = directory
        self._chance = random.Random(seed)
        self._is_stopped = False
        #: Nanoseconds that the clock is slow.
        self._slow = 0
        self._rules: list[_CountingRule] = []
        self._trees: list[CountingTree] = []

        def rule(*args: object) -> _CountingRule:
            made = _CountingRule(*args)  # type: ignore[arg-type]
            made.chance = self._chance
            self._rules.append(made)
            return made

        def tree(
            of: UnchangedFiles | None, attributes: AttributeReader, scratch: str | None
        ) -> CountingTree:
            self._trees.append(make_tree(of, attributes, scratch))
            return self._trees[0]

        with ExitStack() as stack:
            with mock.patch.multiple("wingsd.moves.source", UnchangedFiles=rule, KnownTree=tree):
                live = LiveSource(file_systems, log, attrs.evolve(KERNEL, wall_time=self._time))
                self._source = make_source(str(directory), log, live)
            stack.callback(self._source.close)
            self._source.size = _SIZE
            memory = str(_PLACE) if os.access(_PLACE, os.W_OK) else None
            there = stack.enter_context(TemporaryDirectory(dir=memory, prefix="wingsd-there-"))
            self._there = Destination(Path(there))
            self._to = stack.enter_context(self._there.open())
            if self._chance.random() < _TOO_MANY:
                count = sum(1 for _ in os.walk(directory)) + _MORE
                stack.enter_context(mock.patch.object(seen_directories, "MOST", count))
            if random.Random(f"beside {seed}").random() < _BESIDE:
                stack.enter_context(mock.patch.object(source, "LEAST_NAMES", 0))
            self._stack = stack.pop_all()

    def _time(self) -> int:
        return KERNEL.wall_time() - self._slow

    def close(self) -> None:
        """Close files and remove the copy."""
        self._stack.close()

    def round(self, *, is_final: bool = False) -> Round:
        """Take a round; the final one when nothing writes any more, and all of its passes."""
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
            self._plan(is_final, resumes=False)
            assert self._sent(is_final).passed
        if is_final:
            self._to.finish()
        return done

    def break_off(self) -> None:
        """Begin a round, of which some is read and some arrives."""
        self._plan(is_final=False, resumes=not self._source.can_go_on)
        self._break()

    def _plan(self, is_final: bool, resumes: bool) -> None:
        source, to = self._source, self._to
        leaves = not is_final and self._chance.random() < _LEAVES
        source.scan(running=not is_final, goes_on=not resumes)
        if not resumes:
            source.plan(leave_hot=leaves)
            return
        told = to.rebase()
        for number in range(1, told.pages + 1):
            source.add_page(to.ledger.part(number))
        source.plan(told, leave_hot=leaves)

    def _sent(self, is_final: bool, read: int = 0) -> Round:
        """Send what was planned; `read` files were read in a pass that broke off."""
        source, to = self._source, self._to
        is_same = is_final and source.walk_again()
        for batch in self._batches():
            self._feed(batch)
        to.close_round(to.received.round, source.last, source.root())
        changed = source.unproven(is_same=is_same) if is_final else ""
        source.closed()
        count = self._files() if is_final else 0
        rule, is_part = self._rules[0], self._trees[0].is_part
        return Round(
            count,
            max(count - source.files - read, 0),
            not changed,
            rule.directories if is_part else 0,
            rule.files if is_part else 0,
        )

    def _break(self) -> None:
        """Read some batches, or all of them, of which the first arrive, or none."""
        arrive, read = sorted(self._chance.choice((*range(40), 1000)) for _ in range(2))
        if self._chance.random() < _ARRIVES_NOT:
            arrive, read = 0, 1000
        for number, batch in enumerate(self._batches()):
            if number < arrive:
                self._feed(batch)
            if number == read:
                break

    def _batches(self) -> Iterator[Batch]:
        while (batch := self._source.next_shape()) is not None:
            yield batch
        while (batch := self._source.next_data()) is not None:
            yield batch

    def _feed(self, batch: Batch) -> None:
        feed(self._to, iter(batch_body(batch, zstd=False).blocks), zstd=False)

    def _files(self) -> int:
        """Return how many files there are that are not empty: others need not be read."""
        found = set()
        for directory, _, names in os.walk(self._directory):
            for name in names:
                path = Path(directory, name)
                if path.is_file() and not path.is_symlink() and path.stat().st_size:
                    found.add(path.stat().st_ino)
        return len(found)

    def differing(self, done: Round) -> list[Path]:
        """Return what the destination has not as it is on the disk."""
        here, there = (seen(place, owner=False) for place in (self._directory, self._there.tree))
        names = {name for name in {*here, *there} if here.get(name) != there.get(name)}
        return [self._directory / os.fsdecode(name[1:]) for name in sorted(names)]
