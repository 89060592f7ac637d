"""Two sides of a move in one process: a source of rounds, and a destination on the disk."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from unittest import mock

from tests.support.attributes import reading
from wingsd.errors import ShapeMissing
from wingsd.filesystem.openers import OpenatOpener
from wingsd.moves.applier import TreeApplier
from wingsd.moves.batch import BatchKind, BatchReader, Index
from wingsd.moves.destination import MoveDestination, PieceReader
from wingsd.moves.filling import Batch, BatchFiller, ContentReader, batch_body, deflated
from wingsd.moves.ledger import LedgerFile
from wingsd.moves.nodes import FileNode
from wingsd.moves.plan import plan
from wingsd.moves.scan import Scan
from wingsd.moves.seen_directories import SeenDirectories
from wingsd.moves.source import MoveSource
from wingsd.moves.tree import HeldTree, MoveLimits, MoveTree

MOVE, BOOT = b"m" * 16, b"b" * 16
LIMITS = MoveLimits(100_000, 1 << 40)


def never(before: FileNode, node: FileNode) -> bool:
    return False


class Source:
    """Sends a directory in rounds."""

    def __init__(self, size: int = 256 << 10, root: Path | None = None) -> None:
        self.sent = MoveTree()
        self.filler = BatchFiller(size)
        self.root = root

    def round(
        self,
        root: Path | None = None,
        unchanged: Callable[[FileNode, FileNode], bool] = never,
    ) -> list[Batch]:
        """Return the batches of the next round."""
        fd = os.open(root or self.root or "", os.O_RDONLY)
        try:
            attributes = reading(fd)
            now = Scan(lambda line: None, attributes, None, SeenDirectories()).run(fd)
            with closing(ContentReader(fd, attributes, lambda size: None)) as reader:
                planned = plan(self.sent, now, unchanged, read_mode=reader.read_mode)
                batches = list(self.filler.shapes(planned))
                contents = (each for content in planned.contents for each in reader.read(content))
                batches += self.filler.data(contents)
        finally:
            os.close(fd)
        self.sent = now
        return batches


def resume(
    to: MoveDestination,
    root: Path,
    size: int = 256 << 10,
    move: bytes | None = None,
    wrong: Iterable[bytes] = (),
) -> Source:
    """Have a destination begin a round; return a source that knows of it what it tells."""
    told = to.rebase(move, wrong)
    held = HeldTree(LIMITS)
    for number in range(1, told.pages + 1):
        held.add(to.ledger.part(number))
    source = Source(size, root)
    source.sent = held.finish(told.file)
    assert source.sent.held_bytes() == told.bytes
    source.filler = BatchFiller(
        size, number=told.next - 1, in_round=told.round - 1, shape=told.shape
    )
    return source


class Destination:
    """A destination in a directory: `tree`, `aside` and `ledger`. It can be opened again."""

    def __init__(self, place: Path, limits: MoveLimits = LIMITS) -> None:
        self.place = place
        self.tree = place / "tree"
        self.limits = limits
        self.move = MOVE
        self.boot = BOOT
        self.write: Callable[[int, bytes], int] = os.write
        self.synced: Callable[[], object] = lambda: None
        for each in (place, self.tree, place / "aside"):
            each.mkdir(exist_ok=True)

    def sync(self) -> None:
        self.synced()

    def open(self) -> Opened:
        return Opened(self)


class Opened:
    """One run of the destination, to be used as a context."""

    def __init__(self, of: Destination) -> None:
        self._stack = ExitStack()
        fds = [os.open(each, os.O_RDONLY) for each in (of.tree, of.place / "aside")]
        for fd in fds:
            self._stack.callback(os.close, fd)
        try:
            applier = self._stack.enter_context(
                closing(TreeApplier(fds[0], fds[1], None, OpenatOpener()))
            )
            if of.write is not os.write:
                patched = mock.patch.object(LedgerFile, "_write", staticmethod(of.write))
                self._stack.enter_context(patched)
            ids = (of.move, of.boot)
            opened = MoveDestination(str(of.place / "ledger"), ids, of.limits, applier, of.sync)
            self.of = self._stack.enter_context(closing(opened))
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> MoveDestination:
        return self.of

    def __exit__(self, *args: object) -> None:
        self._stack.close()


def differing(to: MoveDestination, root: Path) -> list[bytes]:
    """Read all files back; return the paths of those that are not as they were sent."""
    to.rereading.restart()
    with closing(PieceReader(os.open(root, os.O_RDONLY))) as reader:
        found: dict[bytes, None] = {}
        while pieces := to.rereading.take():
            found |= dict.fromkeys(to.rereading.settle(reader.differing(pieces)))
    return list(found)


def feed(
    to: MoveDestination,
    pieces: Iterator[bytes | memoryview],
    *,
    zstd: bool = False,
) -> bool:
    """Give a batch to a destination; return whether it was applied."""
    reader = BatchReader(zstd=zstd)
    begun: Index | None = None
    try:
        for piece in pieces:
            for event in reader.feed(piece):
                if not isinstance(event, Index):
                    if begun is None:
                        return False
                    to.write(begun, [event])
                elif event.kind is BatchKind.DATA:
                    if not to.begin(event):
                        return False
                    begun = event
        index = reader.finish()
    except Exception:
        if begun is not None:
            to.abandon(begun)
        raise
    if begun is None:
        return to.begin(index)
    to.end(begun)
    return True


class LiveMove:
    """Rounds of a source, as a daemon takes them, to a destination."""

    def __init__(self, source: MoveSource, to: MoveDestination) -> None:
        self.source = source
        self.to = to

    def plan(self, *, running: bool, resume: bool = False, leave_hot: bool = False) -> None:
        goes_on = self.source.can_go_on and not resume
        self.source.scan(running=running, goes_on=goes_on)
        if goes_on:
            self.source.plan(leave_hot=leave_hot)
            return
        held = self.to.rebase()
        for number in range(1, held.pages + 1):
            self.source.add_page(self.to.ledger.part(number))
        self.source.plan(held, leave_hot=leave_hot)

    def batches(self) -> Iterator[Batch]:
        """Yield the batches of what was planned."""
        while (batch := self.source.next_shape()) is not None:
            yield batch
        while (batch := self.source.next_data()) is not None:
            yield batch

    def feed(self, batch: Batch) -> int:
        """Have a batch arrive; return the bytes of files in it."""
        body = batch_body(batch, zstd=False)
        feed(self.to, iter(body.blocks), zstd=False)
        return body.data

    def send(self) -> int:
        """Send what was planned; return the bytes of files that were sent."""
        sent = sum(map(self.feed, self.batches()))
        self.to.close_round(self.to.received.round, self.source.last, self.source.root())
        return sent


def cut(pieces: Iterator[bytes | memoryview], random_: random.Random) -> Iterator[bytes]:
    """Cut bytes anew, at random."""
    data = b"".join(pieces)
    at = 0
    while at < len(data):
        step = random_.choice((1, 7, 61, 5_000, 70_000, 1 << 20))
        yield data[at : at + step]
        at += step


def send(to: MoveDestination, batch: Batch, random_: random.Random | None = None) -> bool:
    """Send a batch, with `random_` in odd pieces and sometimes compressed."""
    if random_ is None:
        return feed(to, batch.pieces())
    zstd = random_.random() < 0.3
    pieces = deflated(batch.pieces()) if zstd else batch.pieces()
    return feed(to, cut(iter(pieces), random_), zstd=zstd)


def send_all(to: MoveDestination, batches: list[Batch], random_: random.Random) -> None:
    """Send batches in any order that is allowed, some of them twice, some cut short at first."""
    waiting = list(batches)
    while waiting:
        batch = random_.choice(waiting)
        try:
            if random_.random() < 0.2:
                data = b"".join(batch.pieces())
                short = data[: random_.randrange(len(data))]
                try:
                    feed(to, cut(iter([short]), random_))
                except ShapeMissing:
                    raise
                except Exception:  # noqa: S110
                    pass
            send(to, batch, random_)
        except ShapeMissing:
            continue
        if random_.random() < 0.7:
            waiting.remove(batch)
