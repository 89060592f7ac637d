"""A destination that is killed anywhere goes on: what it says it has is on the disk."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.moves.moving import Destination, Source, differing, feed
from tests.support.archives import Tree, seen
from wingsd.errors import ShapeMissing
from wingsd.moves.applier import TreeApplier
from wingsd.moves.batch import BlockRun, Shape, WholeFrame
from wingsd.moves.destination import MoveDestination
from wingsd.moves.filling import Batch
from wingsd.moves.ledger import LedgerFile
from wingsd.moves.tree import MoveTree


class Rounds(list[tuple[list[Batch], bytes, Tree]]):
    """Rounds: their batches, roots, and what the tree is then."""

    def __repr__(self) -> str:
        return "Rounds()"


class Killed(BaseException):
    """The process ends here. Nothing may catch it."""


@define
class Killer:
    """Kills after so many bytes of the ledger, or steps of the tree."""

    size: int
    steps: int

    def write(self, fd: int, data: bytes) -> int:
        if self.size < len(data):
            os.write(fd, data[: self.size])
            raise Killed
        self.size -= len(data)
        return os.write(fd, data)

    def step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise Killed


@define
class Written:
    """Contents that are not on stable storage: what was there before, to be put back.

    Of the ledger `flushed` bytes are.
    """

    files: list[tuple[bytes, int, bytes | None]] = field(factory=list)
    flushed: int = 0

    def lose(self, root: Path, random_: random.Random) -> None:
        """Undo some, as a power loss does."""
        for path, at, before in reversed(self.files):
            name = os.path.join(os.fsencode(root), path)
            if random_.random() < 0.5 or not os.path.exists(name):
                continue
            os.chmod(name, 0o600)
            if before is None:
                os.truncate(name, 0)
                continue
            with open(name, "r+b") as file:
                file.seek(at)
                file.write(before)


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> Rounds:
    """Return three rounds."""
    root = tmp_path_factory.mktemp("source")
    source = Source(140_000, root)
    found = Rounds()
    for change in (_first, _second, _third):
        change(root)
        batches = source.round()
        found.append((batches, source.sent.root(), seen(root, owner=False)))
    return found


def _first(root: Path) -> None:
    data = random.Random(1)
    for name in ("a", "b", "d/e", "d/f"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(data.randbytes(150_000))
        (root / f"{name}-small").write_bytes(data.randbytes(300))
    with (root / "sparse").open("wb") as file:
        file.truncate(300_000)
    os.link(root / "a", root / "d/a")
    (root / "link").symlink_to("d")
    (root / "d/f").chmod(0o400)
    (root / "d").chmod(0o555)


def _second(root: Path) -> None:
    (root / "d").chmod(0o755)
    for one, other in (("a", "b"), ("a-small", "b-small")):
        (root / one).rename(root / "swap")
        (root / other).rename(root / one)
        (root / "swap").rename(root / other)
    (root / "d/e").rename(root / "link-not")
    shutil.rmtree(root / "d")
    (root / "d").write_bytes(b"no directory")
    (root / "link").unlink()
    (root / "link").mkdir()
    (root / "link-not").rename(root / "link/e")
    with (root / "a").open("r+b") as file:
        file.seek(5000)
        file.write(b"changed" * 2000)
        file.truncate(120_001)
    with (root / "sparse").open("r+b") as file:
        file.write(b"no hole")
        file.truncate(500_000)


def _third(root: Path) -> None:
    os.truncate(root / "b", 10)
    os.link(root / "a", root / "link/a")
    (root / "b-small").write_bytes(b"anew")
    (root / "a").unlink()


class Life:
    """One run of a destination until it is killed, or its work is done."""

    def __init__(self, destination: Destination, killer: Killer) -> None:
        self._destination = destination
        self._killer = killer

    def run(self, rounds: Rounds, seed: int) -> None:
        destination = self._destination
        destination.write = self._killer.write
        random_ = random.Random(seed)
        with destination.open() as to:
            for number, (batches, root, expected) in enumerate(rounds, 1):
                if number < to.received.round:
                    continue
                self._round(to, batches, random_)
                to.close_round(number, batches[-1].index.number, root)
                to.finish()
                assert seen(destination.tree, owner=False) == expected
                assert differing(to, destination.tree) == []

    def _round(self, to: MoveDestination, batches: list[Batch], random_: random.Random) -> None:
        waiting = [batch for batch in batches if not to.received.has(batch.index.number)]
        while waiting:
            batch = random_.choice(waiting)
            try:
                feed(to, batch.pieces())
            except ShapeMissing:
                continue
            waiting.remove(batch)
            if random_.random() < 0.3:
                to.checkpoint()


@pytest.fixture(scope="module")
def steps() -> Iterator[Callable[[Killer, Written], None]]:
    """Have the applier count its steps, and remember what they overwrite."""
    shape, content, flush = TreeApplier.shape, TreeApplier.content, LedgerFile._flush
    current = [(Killer(0, 0), Written())]

    def counted(self: TreeApplier, frame: Shape, *, makes: bool, again: bool) -> None:
        killer, written = current[0]
        written.files.clear()  # everything was synced before
        killer.step()
        shape(self, frame, makes=makes, again=again)
        killer.step()

    def halved(self: TreeApplier, run: BlockRun, tree: MoveTree, *, is_new: bool = False) -> None:
        killer, written = current[0]
        written.files += _before(self, run, tree)
        killer.step()
        if run.count > 1 and killer.steps == 0:
            content(self, _half(run, tree), tree, is_new=is_new)
            raise Killed
        content(self, run, tree, is_new=is_new)

    def noted(self: LedgerFile) -> None:
        flush(self)
        current[0][1].flushed = self.size

    def use(killer: Killer, written: Written) -> None:
        current[0] = (killer, written)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TreeApplier, "shape", counted)
        patch.setattr(TreeApplier, "content", halved)
        patch.setattr(LedgerFile, "_flush", noted)
        yield use


def _half(run: BlockRun, tree: MoveTree) -> BlockRun:
    count = run.count // 2
    size = 0 if isinstance(run.frame, WholeFrame) else tree.numbered(run.frame.number).block_size
    return BlockRun(run.frame, run.first, count, run.data[: count * size])


def _before(
    applier: TreeApplier, run: BlockRun, tree: MoveTree
) -> Iterator[tuple[bytes, int, bytes | None]]:
    if isinstance(run.frame, WholeFrame):
        yield run.frame.path, 0, None
        return
    node = tree.numbered(run.frame.number)
    fd = applier.open_file(node.names[0])
    assert fd is not None
    at = run.first * node.block_size
    yield node.names[0], at, os.pread(fd, run.count * node.block_size, at)
    os.close(fd)


def _lose_tail(ledger: Path, flushed: int, random_: random.Random) -> None:
    """Cut a ledger anywhere behind what was flushed; zeros may be left of the rest."""
    size = ledger.stat().st_size
    if flushed and size > flushed:
        os.truncate(ledger, random_.randrange(flushed, size + 1))
        os.truncate(ledger, size + random_.choice((0, 1, 4096)))


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 12_000), st.integers(0, 60), st.booleans()),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 10**6),
)
def test_a_killed_destination_goes_on(
    tmp_path_factory: pytest.TempPathFactory,
    rounds: Rounds,
    steps: Callable[[Killer, Written], None],
    kills: list[tuple[int, int, bool]],
    seed: int,
) -> None:
    destination = Destination(tmp_path_factory.mktemp("destination"))
    random_ = random.Random(seed)
    for number, (size, count, loses_power) in enumerate(kills):
        killer, written = Killer(size, count), Written()
        steps(killer, written)
        destination.synced = written.files.clear
        try:
            Life(destination, killer).run(rounds, seed + number)
        except Killed:
            if loses_power:
                destination.boot = b"%016d" % number
                written.lose(destination.tree, random_)
                _lose_tail(destination.place / "ledger", written.flushed, random_)
    killer, written = Killer(1 << 40, 1 << 40), Written()
    steps(killer, written)
    Life(destination, killer).run(rounds, seed)
    assert seen(destination.tree, owner=False) == rounds[-1][2]
    assert not os.listdir(destination.place / "aside")
