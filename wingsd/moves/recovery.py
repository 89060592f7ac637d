"""Replays a ledger: the tree and the batches that it proves, and what must be looked at. Pure.

A record is durable before anything of its batch is written, unless all of its blocks were unknown
before. So each block is unknown, or as the last record says, or its batch is among those that are
not proven: those without CHECK. In the same boot the page cache has survived, but a flush that has
failed may have been told to somebody else.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import Factory, define

from wingsd.errors import Conflict
from wingsd.moves.batch import BatchKind, Index, decode_index
from wingsd.moves.changes import apply_shape, begin, done
from wingsd.moves.errors import BatchInvalid, LedgerDamaged
from wingsd.moves.ledger import NO_ROOT, LedgerReader, Record, RecordType
from wingsd.moves.received import ReceivedBatches
from wingsd.moves.snapshot import add_part
from wingsd.moves.tree import MoveLimits, MoveTree

__all__ = ["Recovered", "recover"]


@define(eq=False, repr=False)
class Recovered:
    """What a ledger says.

    `unproven` are data batches in the order of their records, which are to be read back.
    `unfinished` is a shape batch to be applied once more, with whether each frame makes a name.
    `undurable` are batches that are written and not known to be on stable storage.
    """

    tree: MoveTree
    received: ReceivedBatches = Factory(ReceivedBatches)
    roots: dict[int, bytes] = Factory(dict)
    unproven: list[Index] = Factory(list)
    unfinished: tuple[Index, tuple[bool, ...]] | None = None
    undurable: set[int] = Factory(set)


def recover(reader: LedgerReader, limits: MoveLimits, directory: str | None = None) -> Recovered:
    """Read a ledger to its end. The tree's file is in `directory`.

    Raises LedgerDamaged and LedgerVersionUnknown.
    """
    tree = MoveTree(limits, directory)
    replay = _Replay(tree)
    try:
        for record in reader.records():
            try:
                replay.add(record)
            except LedgerDamaged:
                raise
            except (BatchInvalid, Conflict) as error:
                raise record.damaged(f"a record does not fit those before it ({error})") from error
        return replay.result(reader.end)
    except BaseException:
        tree.close()
        raise


class _Replay:
    def __init__(self, tree: MoveTree) -> None:
        self._found = Recovered(tree)
        #: Batches without CHECK in the order of their records: the index, and DONE.
        self._open: dict[int, tuple[Index, bool]] = {}
        self._made: tuple[bool, ...] = ()
        self._state: Record | None = None
        self._handlers: dict[RecordType, Callable[[Record], None]] = {
            RecordType.OPENED: self._opened,
            RecordType.BATCH: self._batch,
            RecordType.DONE: self._done,
            RecordType.CHECK: self._check,
            RecordType.LOST: self._lost,
            RecordType.ROUND: self._round,
            RecordType.STATE: self._begin_snapshot,
            RecordType.PART: self._part,
            RecordType.END: self._end_snapshot,
        }

    def add(self, record: Record) -> None:
        kind = record.type
        if (self._state is not None) is not (kind in (RecordType.PART, RecordType.END)):
            raise record.damaged("a snapshot is not whole")
        self._handlers[kind](record)

    def result(self, end: int) -> Recovered:
        if self._state is not None:
            raise LedgerDamaged(end, "its snapshot has no end")
        found = self._found
        for index, is_done in self._open.values():
            if index.kind is BatchKind.SHAPE:
                # DONE is written when all of it is on stable storage
                found.unfinished = None if is_done else (index, self._made)
            else:
                found.unproven.append(index)
                self._forget(index)
            if is_done:
                found.undurable.add(index.number)
        return found

    def _opened(self, record: Record) -> None:
        record.boot()  # which boot it was does not matter

    def _batch(self, record: Record) -> None:
        index = decode_index(record.payload)
        again = self._open.pop(index.number, None)
        if again is not None and (again[0].digest != index.digest or again[1]):
            raise record.damaged(f"batch {index.number} is in it with other contents")
        if again is None and not self._found.received.admit(index):
            raise record.damaged(f"batch {index.number} is in it twice")
        if index.kind is BatchKind.SHAPE:
            if self._open or again is not None:
                raise record.damaged(f"shape {index.number} was applied beside other batches")
            self._made = tuple(apply_shape(self._found.tree, frame) for frame in index.shapes)
        else:
            self._forget(index)
        self._found.received.recorded(index)
        self._open[index.number] = (index, False)

    def _forget(self, index: Index) -> None:
        for frame in index.contents:
            begin(self._found.tree, frame)

    def _done(self, record: Record) -> None:
        number = record.number()
        entry = self._open.get(number)
        if entry is None or entry[1]:
            raise record.damaged(f"batch {number} was written and is not in it")
        for frame in entry[0].contents:
            done(self._found.tree, frame)
        self._found.received.add(number)
        self._open[number] = (entry[0], True)

    def _check(self, record: Record) -> None:
        for number in record.numbers():
            entry = self._open.pop(number, None)
            if entry is None or not entry[1]:
                raise record.damaged(f"batch {number} is durable and was not written")

    def _lost(self, record: Record) -> None:
        number = record.number()
        entry = self._open.pop(number, None)
        if entry is None or entry[0].kind is BatchKind.SHAPE:
            raise record.damaged(f"batch {number} was lost and is not in it")
        self._forget(entry[0])
        self._found.received.forget(number)

    def _round(self, record: Record) -> None:
        number, root = record.round_and_root()
        received = self._found.received
        if self._open or received.beyond or number != received.round:
            raise record.damaged(f"round {number} was closed with batches open")
        received.close(number, received.upto)
        self._found.roots = {number: root}

    def _begin_snapshot(self, record: Record) -> None:
        record.state()
        if self._found.received.upto or self._open:
            raise record.damaged("a snapshot is not at its beginning")
        self._state = record

    def _part(self, record: Record) -> None:
        add_part(self._found.tree, record.payload)

    def _end_snapshot(self, record: Record) -> None:
        assert self._state is not None  # noqa: S101 - by `add`
        state = self._state.state()
        if state.number < self._found.tree.last_number:
            raise record.damaged(f"it has a file above the last number, {state.number}")
        self._found.tree.last_number = state.number
        self._found.received.restore(state.round, state.batch, state.shape)
        if state.root != NO_ROOT:
            self._found.roots = {state.round: state.root}
        self._state = None
