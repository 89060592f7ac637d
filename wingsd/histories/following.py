"""A history that follows its server: what both nodes read and write of their stores. Blocking.

The source has the deltas, and writes the bridge beside them (see `wingsd.history.adopting`). At
the destination one delta at a time grows in a file beside the store's, and is taken in when it is
whole. What breaks off leaves nothing but these files: the next attempt uses them, or writes them
again. Functions raise StorageError.
"""

from __future__ import annotations

import marshal
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import attrs

from wingsd.errors import (
    HistoryBaseChanged,
    HistoryDamaged,
    HistoryTakesNoMore,
    MoveRequestInvalid,
)
from wingsd.filesystem.open_directories import closing_descriptor
from wingsd.history.adopting import (
    MOST_BLOCKS,
    NEW,
    BlockDigests,
    BlockRange,
    wanted_blocks,
    write_bridge,
    write_catalogue,
)
from wingsd.history.capture import FrameFile
from wingsd.history.format import FormReader
from wingsd.history.store import HistoryStore
from wingsd.moves.nodes import tree_key
from wingsd.util.durable import storage_errors, sync_directory

#: The bridge at the source.
_BRIDGE = "bridge"
#: At the destination: the catalogue of the base, and digests of files of it; a delta that grows,
#: or is whole.
_BASE, _PART, _WHOLE = "base-", "arriving-", "arrived-"
_DELTA = re.compile(r"(\d{20})\.delta").fullmatch
_MAKE = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW

PAGE = 4 << 20
"""Bytes of a page of the catalogue of a base; the last one has less."""


@attrs.frozen(eq=False)
class HistoryFigures:
    """The number of a history's newest point, as far as its files say, and its deltas' bytes."""

    newest: int
    bytes: int


def history_figures(directory: str) -> HistoryFigures | None:
    """Return the figures of a history, also while it is in use; None where there is no point."""
    newest = size = 0
    with storage_errors(f"{directory} cannot be read"), suppress(FileNotFoundError):
        for name in os.listdir(directory):
            if found := _DELTA(name):
                newest = max(newest, int(found[1]) + 1)
                with suppress(FileNotFoundError):
                    size += os.stat(os.path.join(directory, name)).st_size
        for name in ("catalogue", "catalogue.copy"):
            with suppress(FileNotFoundError, HistoryDamaged):
                newest = max(
                    newest, FormReader.at(os.path.join(directory, name), name).point.number
                )
    return HistoryFigures(newest, size) if newest else None


# At the source


@attrs.frozen(eq=False)
class NextDelta:
    """The delta that is sent next, in the file at `path`; empty where the bridge is to be made."""

    number: int
    path: str = ""
    bytes: int = 0


def next_delta(store: HistoryStore, base: int, floor: int) -> NextDelta | None:
    """Return the delta that goes before the point `base` of the destination, None for none.

    Points up to `floor` are there already. Raises HistoryDamaged where others are left that cannot
    be sent: the history here is the only one that has them.
    """
    numbers = [point.number for point in store.points()]
    if not numbers:
        return None
    if base < numbers[-1]:
        raise HistoryDamaged(
            f"point {base}", "it is older than every point here, and these have not been sent"
        )
    if base <= numbers[0]:
        number = max((each for each in numbers if each < base), default=0)
        name = f"{number:020}.delta"
    else:
        number, name = numbers[0], _BRIDGE
    if number <= floor:
        unreadable = [each for each in store.unreadable() if floor < each < base]
        if unreadable:
            raise HistoryDamaged(
                f"points {unreadable[-1]} to {unreadable[0]}",
                "they cannot be read, and are not sent",
            )
        return None
    path = os.path.join(store.directory, name)
    try:
        form = FormReader.at(path, name)
    except (FileNotFoundError, HistoryDamaged):
        if name != _BRIDGE:
            raise
        return NextDelta(number)
    if (form.point.number, form.newer) != (number, base):
        if name != _BRIDGE:
            raise HistoryDamaged(name, f"it does not go before point {base}")
        return NextDelta(number)
    return NextDelta(number, path, form.size)


class BridgeWork:
    """The bridge of a history in `directory`, as it is being made. `close` must be called."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._stack = ExitStack()
        with storage_errors(f"{directory} cannot be written"):
            files = [
                self._stack.enter_context(TemporaryFile(dir=directory))  # noqa: SIM115 - by `close`
                for _ in range(3)
            ]
        self._base, ranges, self._digests = files
        self._ranges = FrameFile(ranges.fileno())
        self._wanted: Iterator[bytes] = iter(())

    def close(self) -> None:
        """Drop what is not the bridge."""
        self._stack.close()

    def add_base(self, data: bytes) -> None:
        """Add a page of the catalogue of the base."""
        with storage_errors(f"{self._directory} cannot be written"):
            self._base.write(data)

    def plan(self, store: HistoryStore) -> None:
        """Find out of which blocks the digests are needed."""
        with storage_errors(f"{self._directory} cannot be written"):
            self._base.flush()
            with store.opened(store.points()[0].number) as ((own,), _):
                for group in wanted_blocks(self._reader(), own):
                    self._ranges.add(marshal.dumps([tuple(each) for each in group]))
            self._ranges.flush()
            self._wanted = iter(self._ranges)

    def wanted(self) -> list[BlockRange]:
        """Return the next blocks of which the digests are needed, none at the end."""
        with storage_errors(f"{self._directory} cannot be read"):
            group = next(self._wanted, None)
        return [] if group is None else [BlockRange(*each) for each in marshal.loads(group)]  # noqa: S302 - by this process

    def add_digests(self, digests: bytes) -> None:
        """Add the digests of these blocks."""
        with storage_errors(f"{self._directory} cannot be written"):
            self._digests.write(digests)

    def write(self, store: HistoryStore) -> list[bytes]:
        """Write the bridge; return the files that could not be read as they were."""
        part = os.path.join(self._directory, _BRIDGE + NEW)
        with (
            storage_errors(f"{self._directory} cannot be written"),
            store.opened(store.points()[0].number) as ((own,), tree),
            closing_descriptor(os.open(part, _MAKE, 0o600)) as fd,
        ):
            self._digests.seek(0)
            read = self._digests.read
            damaged = write_bridge(self._reader(), own, tree, read, fd, store.check_room)
            os.fsync(fd)
            os.rename(part, os.path.join(self._directory, _BRIDGE))
        return damaged

    def _reader(self) -> FormReader:
        return FormReader.of(self._base.fileno(), "the catalogue of the other node")


# At the destination


def base_of(store: HistoryStore, newest: int, floor: int) -> int:
    """Return the point before which the next delta goes, 0 as long as there is none.

    A delta that is whole is taken in first. `newest` is the newest point of those that come, and
    points up to `floor` were here before.
    """
    for name in _names(store, _WHOLE):
        take_in(store, name, newest)
    numbers = [point.number for point in store.points()]
    return _base(numbers, floor) if numbers and numbers[0] > newest else 0


def _base(numbers: Iterable[int], floor: int) -> int:
    """Return the oldest of some points above the floor, 0 without one."""
    return min((number for number in numbers if number > floor), default=0)


def floor_of(store: HistoryStore, newest: int) -> int:
    """Return the newest point of an earlier stay, 0 for none, before one of those up to `newest`
    has come.
    """
    return max((point.number for point in store.points() if point.number <= newest), default=0)


def require_room(store: HistoryStore, newer: int, size: int, floor: int, most: int | None) -> None:
    """Check that a delta of `size` bytes goes before a point, and may be taken in.

    Raises HistoryBaseChanged and, for more than `most` bytes of the history, HistoryTakesNoMore.
    """
    _require_base(store, newer, floor)
    if most is not None and store.size + size > most:
        raise HistoryTakesNoMore


def ranges_of(wanted: Sequence[Any]) -> list[BlockRange]:
    """Return what blocks a request wants. Raises MoveRequestInvalid."""
    try:
        ranges = [
            BlockRange(each.path.encode("latin-1"), each.first, each.blocks) for each in wanted
        ]
    except UnicodeEncodeError:
        raise MoveRequestInvalid("a path is not in ISO 8859-1") from None
    keys = [(tree_key(each.path), each.first) for each in ranges]
    is_small = all(0 <= each.first < 1 << 51 and each.blocks > 0 for each in ranges)
    if keys != sorted(keys) or not is_small or sum(each.blocks for each in ranges) > MOST_BLOCKS:
        raise MoveRequestInvalid("the blocks are too many, or not sorted")
    return ranges


def take_in(store: HistoryStore, name: str, newest: int) -> None:
    """Take in a delta that is whole. Raises HistoryDamaged for one that does not fit."""
    newer = int(name.split("-")[1])
    try:
        store.adopt(name.encode(), is_bridge=newer > newest)
    except HistoryDamaged:
        with storage_errors(f"{store.directory} cannot be written"):
            os.unlink(os.path.join(store.directory, name))
        raise
    drop_arriving(store)


def drop_arriving(store: HistoryStore) -> None:
    """Remove what is not needed any more: other deltas, and the catalogues of bases."""
    with storage_errors(f"{store.directory} cannot be written"):
        for name in _names(store, _BASE, _PART, _WHOLE):
            os.unlink(os.path.join(store.directory, name))


def base_page(store: HistoryStore, number: int, offset: int, floor: int) -> bytes:
    """Return a page of the catalogue of a point. Raises HistoryBaseChanged for another base."""
    path = os.path.join(store.directory, f"{_BASE}{number}")
    with storage_errors(f"{path} cannot be written"):
        if not os.path.exists(path):
            for name in _names(store, _BASE):
                os.unlink(os.path.join(store.directory, name))
            with (
                _opened(store, number, floor) as (chain, _),
                closing_descriptor(os.open(path + NEW, _MAKE, 0o600)) as fd,
            ):
                store.require_room(chain[0].size)
                write_catalogue(chain, fd)
            os.rename(path + NEW, path)
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(PAGE)


def digests_of(
    store: HistoryStore, number: int, wanted: Sequence[BlockRange], floor: int
) -> bytes:
    """Return the digests of blocks at a point. Raises HistoryBaseChanged for another base."""

    def place(path: bytes) -> str:
        return os.path.join(store.directory, f"{_BASE}{number}-{sha256(path).hexdigest()}")

    with (
        storage_errors(f"{store.directory} cannot be read"),
        _opened(store, number, floor) as (chain, tree),
        ExitStack() as stack,
    ):
        scratch = store.new_scratch(stack)
        return BlockDigests(chain, tree, scratch, place, store.check).of(wanted)


@contextmanager
def _opened(
    store: HistoryStore, number: int, floor: int
) -> Iterator[tuple[Sequence[FormReader], int]]:
    _require_base(store, number, floor)
    with store.opened(number) as found:
        yield found


def _require_base(store: HistoryStore, number: int, floor: int) -> None:
    """Check that deltas go before that point; the node that sends them learns of no other one."""
    if _base((each.number for each in store.points()), floor) != number:
        raise HistoryBaseChanged


def _names(store: HistoryStore, *prefixes: str) -> list[str]:
    with storage_errors(f"{store.directory} cannot be read"):
        return [name for name in os.listdir(store.directory) if name.startswith(prefixes)]


@attrs.frozen(eq=False, repr=False)
class DeltaFiles:
    """The files in which deltas grow, by the next newer point and their bytes.

    `directory` is that of the history. See `Attachment`. Methods raise StorageError.
    """

    directory: str

    def part(self, newer: int, size: int) -> Path:
        """Return the file in which a delta grows."""
        return Path(self.directory, f"{_PART}{newer}-{size}")

    def whole(self, newer: int, size: int) -> Path | None:
        """Return the file of a delta that is whole, None before."""
        path = self._whole(newer, size)
        return path if path.exists() else None

    def _whole(self, newer: int, size: int) -> Path:
        return Path(self.directory, f"{_WHOLE}{newer}-{size}")

    def complete(self, newer: int, size: int, *, sha256: str) -> None:
        """Note that a delta is whole: it is on stable storage, and has that SHA-256."""
        with storage_errors(f"{self.directory} cannot be written"):
            self.part(newer, size).rename(self._whole(newer, size))
            sync_directory(Path(self.directory))

    def drop(self, newer: int, size: int) -> None:
        """Delete what has arrived."""
        with storage_errors(f"{self.directory} cannot be written"):
            for path in (self.part(newer, size), self._whole(newer, size)):
                path.unlink(missing_ok=True)
