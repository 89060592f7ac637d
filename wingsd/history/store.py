"""The history of one server: its points are made, listed, merged, removed, rebuilt and verified.

Blocking; calls come one at a time, and a lock keeps other processes out. The directory has the
`tree` of the newest point, its `catalogue`, a delta for each older point, and `stamps` and
`incoming`, which matter to the next point only. docs/history.md says what a crash leaves at each
place, and why every listed point can be rebuilt then. Methods raise StorageError.
"""

from __future__ import annotations

import fcntl
import marshal
import os
import re
import stat
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import takewhile
from tempfile import TemporaryFile

from attrs import frozen

from wingsd.errors import FileWorkCancelled, HistoryDamaged, HistoryFull, NoSuchPoint
from wingsd.filesystem.new_file import Owner
from wingsd.filesystem.open_directories import closing_descriptor
from wingsd.filesystem.syscalls import syncfs
from wingsd.filesystem.walk import survey
from wingsd.history.adopting import check_bridge, described
from wingsd.history.capture import Capture, FrameFile, HistorySource, Record, joined
from wingsd.history.format import (
    FormKind,
    FormReader,
    FormWriter,
    PastDirectory,
    PastEntry,
    PastFile,
    PastNothing,
    Point,
    PointLabel,
    point_of,
)
from wingsd.history.newest import NewestTree, TreeStep
from wingsd.history.policy import surplus
from wingsd.history.rebuilding import (
    EVERYTHING_DAMAGED,
    OpenForm,
    Rebuilding,
    Verification,
    merge_deltas,
    overlaid,
)
from wingsd.util.durable import storage_errors
from wingsd.util.text import display

_TREE, _CATALOGUE, _STAMPS, _INCOMING = b"tree", b"catalogue", b"stamps", b"incoming"
_PART = b".new"
_DELTA = re.compile(rb"(\d{20})\.delta").fullmatch
_READ = os.O_RDONLY | os.O_NOFOLLOW
_MAKE = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
#: Files and directories of servers may have permissions that only root can pass.
_OWN = 0o700


def _delta_name(number: int) -> bytes:
    return b"%020d.delta" % number


Label = PointLabel | Callable[[], PointLabel]
"""The label of a new point; a function is called when all files were read."""


@frozen(eq=False, repr=False)
class _NewDelta:
    """A delta that is being written."""

    fd: int
    writer: FormWriter


class HistoryStore:
    """The history in `directory`, which is made. `close` must be called.

    What was interrupted is undone or completed first. `max_size` are the bytes that the history
    may take, `log` gets lines about what is removed. Raises HistoryDamaged and StorageError.
    """

    def __init__(
        self,
        directory: str,
        log: Callable[[str], None] = lambda line: None,
        *,
        max_size: int | None = None,
    ) -> None:
        self._directory = directory
        self._log = log
        self.max_size = max_size
        #: Points that stay, also where the history takes too much space.
        self.pinned: Collection[int] = ()
        #: Bytes of the tree on the disk, once they are known.
        self._tree_bytes: int | None = None
        #: Files that were found damaged, by the numbers of points; `EVERYTHING_DAMAGED` for all.
        self.damaged: dict[int, tuple[bytes, ...]] = {}
        self._is_stopped = False
        #: Whether something was interrupted, and not undone yet.
        self._is_interrupted = True
        self._stack = ExitStack()
        try:
            with storage_errors(f"the history in {directory} cannot be used"):
                os.makedirs(directory, 0o700, exist_ok=True)
                fd = os.open(directory, _DIRECTORY)
                self._home = self._stack.enter_context(closing_descriptor(fd))
                fcntl.flock(self._home, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._recover()
        except BaseException:
            self._stack.close()
            raise

    def stop(self) -> None:
        """Make what is under way fail soon, by FileWorkCancelled. From any thread."""
        self._is_stopped = True

    def _check(self) -> None:
        if self._is_stopped:
            raise FileWorkCancelled

    def close(self) -> None:
        """Close every descriptor, and let others use the history."""
        self._stack.close()

    # Points

    def points(self) -> list[Point]:
        """Return the points, the newest first. Those that cannot be read are left out."""
        with self._chain() as chain:
            return [delta.point for delta in chain]

    @property
    def size(self) -> int:
        """The bytes that the history takes on the disk."""
        if self._tree_bytes is None:
            self._tree_bytes = survey(os.path.join(self._directory, os.fsdecode(_TREE))).on_disk
        with storage_errors(f"the history in {self._directory} cannot be used"):
            names = [name for name in _names(self._home) if name not in (_TREE, _INCOMING)]
            files = [os.stat(name, dir_fd=self._home, follow_symlinks=False) for name in names]
        return self._tree_bytes + sum(each.st_blocks * 512 for each in files)

    def stored(self, number: int) -> int:
        """Return the bytes that the delta of a point takes on the disk; the newest has none."""
        with storage_errors(f"the history in {self._directory} cannot be used"):
            return self._size_of(_delta_name(number))

    @contextmanager
    def _chain(self) -> Iterator[list[OpenForm]]:
        """Open the catalogue and all deltas, the newest first, as far as they can be read."""
        self._recover()
        with ExitStack() as stack:
            chain: list[OpenForm] = []
            first = self._open_form(stack, _CATALOGUE)
            if first is not None:
                chain.append(first)
                for number in sorted(self._deltas(), reverse=True):
                    try:
                        delta = self._open_form(stack, _delta_name(number))
                    except HistoryDamaged as error:
                        self._broken(number, error)
                        break
                    if delta is None or delta.reader.newer != chain[-1].point.number:
                        self._broken(number, HistoryDamaged(str(number), "a delta is missing"))
                        break
                    chain.append(delta)
            yield chain

    def _broken(self, number: int, error: HistoryDamaged) -> None:
        for each in (number, *self._deltas()):
            if each <= number:
                self.damaged[each] = EVERYTHING_DAMAGED
        self._log(f"points up to {number} of the history are damaged: {error}")

    def _open_form(self, stack: ExitStack, name: bytes) -> OpenForm | None:
        try:
            fd = os.open(name, _READ, dir_fd=self._home)
        except FileNotFoundError:
            return None
        stack.callback(os.close, fd)
        return OpenForm(fd, FormReader(fd, display(name)))

    def _deltas(self) -> list[int]:
        found = map(_DELTA, _names(self._home))
        return [int(each[1]) for each in found if each]

    # Recovery

    def _recover(self) -> None:
        """Undo what was interrupted, if anything was."""
        if self._is_interrupted:
            with storage_errors(f"the history in {self._directory} cannot be used"):
                self._undo_all()
            self._is_interrupted = False

    def _undo_all(self) -> None:
        """Make the tree that of the catalogue, and drop what was left."""
        for name in (_TREE, _INCOMING):
            with suppress(FileExistsError):
                os.mkdir(name, _OWN, dir_fd=self._home)
        os.fsync(self._home)
        self._tree_bytes = None
        self._sweep()
        with ExitStack() as stack:
            catalogue = self._open_form(stack, _CATALOGUE)
            newest = 0 if catalogue is None else catalogue.point.number
            if not newest and self._deltas():
                raise HistoryDamaged(self._directory, "its catalogue is missing")
            if not newest:
                self._clear_tree()
            unfinished = [number for number in self._deltas() if number >= newest]
            for number in sorted(unfinished, reverse=True):
                self._undo(number)
            self._drop_merged()

    def _sweep(self) -> None:
        """Remove files that are not complete, and what was put aside."""
        for name in _names(self._home):
            if name.endswith(_PART):
                os.unlink(name, dir_fd=self._home)
        with self._opened(_INCOMING) as incoming:
            for name in _names(incoming):
                os.unlink(name, dir_fd=incoming)

    def _clear_tree(self) -> None:
        """Remove what the first point has left, which was not completed."""
        with self._opened(_TREE) as tree:
            for name in _names(tree):
                _remove(tree, name)

    def _undo(self, number: int) -> None:
        """Make the tree that of a point, whose successor was not completed, and drop its delta."""
        with ExitStack() as stack:
            delta = self._open_form(stack, _delta_name(number))
            assert delta is not None  # noqa: S101 - it was listed
            self._change_tree(lambda: _reverse_steps(delta.reader))
        os.unlink(_delta_name(number), dir_fd=self._home)
        os.fsync(self._home)

    def _drop_merged(self) -> None:
        """Remove deltas that others have taken in."""
        with ExitStack() as stack:
            end = 0
            for number in sorted(self._deltas()):
                if number < end:
                    os.unlink(_delta_name(number), dir_fd=self._home)
                    continue
                with suppress(HistoryDamaged):
                    delta = self._open_form(stack, _delta_name(number))
                    end = delta.reader.newer if delta is not None else 0

    def _change_tree(self, steps: Callable[[], Iterator[TreeStep]]) -> int:
        """Change the tree, and return by how many bytes it has grown when that is durable."""
        with self._opened(_TREE) as root, self._opened(_INCOMING) as incoming:
            tree = NewestTree(root, incoming)
            try:
                tree.change(steps)
            finally:
                tree.close()
            syncfs(root)
            return tree.grown

    @contextmanager
    def _opened(self, name: bytes) -> Iterator[int]:
        with closing_descriptor(os.open(name, _DIRECTORY, dir_fd=self._home)) as fd:
            yield fd

    @contextmanager
    def _making(self, name: bytes) -> Iterator[int]:
        """Open a new file, which gets its name, durably, at the end."""
        part = name + _PART
        with closing_descriptor(os.open(part, _MAKE, 0o600, dir_fd=self._home)) as fd:
            try:
                yield fd
                os.fsync(fd)
                os.rename(part, name, src_dir_fd=self._home, dst_dir_fd=self._home)
            except BaseException:
                with suppress(OSError):
                    os.unlink(part, dir_fd=self._home)
                raise
            os.fsync(self._home)

    # A new point

    def make(self, source: HistorySource, label: Label, least: int = 1) -> Point | None:
        """Make a point of what a server's directory has; None where nothing is changed.

        Its number is the next one, and `least` at least. Raises HistoryFull where there is no
        space for it.
        """
        self._recover()
        self._is_interrupted = True
        try:
            with storage_errors(f"a point of the history in {self._directory} cannot be made"):
                found = self._make(source, label, least)
        except BaseException:
            # what was begun is undone, from the disk alone, as after a crash
            self._recover()
            raise
        self._is_interrupted = False
        return found

    def _make(self, source: HistorySource, label: Label, least: int) -> Point | None:
        began = source.kernel.wall_time()
        with ExitStack() as stack:
            catalogue = self._open_form(stack, _CATALOGUE)
            before = None if catalogue is None else catalogue.point
            number = max(before.number + 1 if before else 1, least)
            used = self.size
            delta = None if before is None else self._begin_delta(stack, before, number)
            capture = self._capture(stack, source, delta, used)
            stamps = self._read_stamps(stack, source, before)
            capture.run(partial(_catalogued, catalogue), stamps)
            # What is deleted, or replaced, after a stop is no part of the point.
            self._check()
            source.check()
            if not isinstance(label, PointLabel):
                label = label()
            if capture.healed:
                self._log(
                    f"{len(capture.healed)} files of the history were damaged, and are replaced: "
                    f"{display(capture.healed[0])}"
                )
            entries = partial(_following, catalogue, capture)
            unsettled = tuple(sorted(capture.unsettled))
            found = point_of(entries(), number, began, label, unsettled)
            if before is not None and found.root == before.root:
                if capture.healed:
                    self._change_tree(partial(_forward_steps, capture))
                os.unlink(_delta_name(before.number) + _PART, dir_fd=self._home)
                self._write_stamps(source, before, stamps, capture.records())
                return None
            if delta is not None and before is not None:
                self._finish_delta(delta, before, capture, used)
            else:
                self._make_room(used + capture.growth)
            grown = self._change_tree(partial(_forward_steps, capture))
            with self._making(_CATALOGUE) as fd:
                writer = FormWriter(fd, FormKind.CATALOGUE, number)
                for entry in entries():
                    writer.add(entry)
                writer.finish(found)
            if self._tree_bytes is not None:
                self._tree_bytes += grown
            self._write_stamps(source, found, stamps, capture.records())
            return found

    def _begin_delta(self, stack: ExitStack, before: Point, number: int) -> _NewDelta:
        name = _delta_name(before.number) + _PART
        fd = os.open(name, _MAKE, 0o600, dir_fd=self._home)
        stack.callback(os.close, fd)
        return _NewDelta(fd, FormWriter(fd, FormKind.DELTA, before.number, number))

    def _capture(
        self, stack: ExitStack, source: HistorySource, delta: _NewDelta | None, used: int
    ) -> Capture:
        incoming = stack.enter_context(self._opened(_INCOMING))
        newest = NewestTree(stack.enter_context(self._opened(_TREE)), incoming)
        stack.callback(newest.close)
        scratch = os.path.join(self._directory, os.fsdecode(_INCOMING))
        writer = None if delta is None else delta.writer
        capture = Capture(source, newest, writer, incoming, scratch, self._budget(used))
        stack.callback(capture.close)
        return capture

    def _finish_delta(self, delta: _NewDelta, before: Point, capture: Capture, used: int) -> None:
        """Make the delta of the point before durable: from here on, its point can be rebuilt."""
        for record in capture.records():
            if record.old != record.new:
                delta.writer.add(record.old, record.reverse)
        delta.writer.finish(before)
        self._make_room(used + delta.writer.size + capture.growth)
        os.fsync(delta.fd)
        name = _delta_name(before.number)
        os.rename(name + _PART, name, src_dir_fd=self._home, dst_dir_fd=self._home)
        os.fsync(self._home)

    def _budget(self, used: int) -> Callable[[int], None]:
        """Return what checks how many bytes are put aside, when so many are used."""
        room = None if self.max_size is None else self.max_size - used + self._removable()

        def check(size: int) -> None:
            self._check()
            if room is not None and size > room:
                raise HistoryFull(self._directory)

        return check

    def _removable(self) -> int:
        return sum(self._size_of(_delta_name(number)) for number in self._removable_deltas())

    def _removable_deltas(self) -> list[int]:
        """Return the points that may be removed for their space, the oldest first."""
        return list(takewhile(lambda number: number not in self.pinned, sorted(self._deltas())))

    def _size_of(self, name: bytes) -> int:
        return os.stat(name, dir_fd=self._home, follow_symlinks=False).st_blocks * 512

    def _make_room(self, size: int) -> None:
        """Remove the oldest points until the history takes at most `size` less what they took."""
        if self.max_size is None:
            return
        if size - self._removable() > self.max_size:
            raise HistoryFull(self._directory)
        deltas = self._removable_deltas()
        while size > self.max_size:
            name = _delta_name(deltas.pop(0))
            size -= self._size_of(name)
            os.unlink(name, dir_fd=self._home)
            self._log(f"point {int(name[:20])} of the history is removed: it takes too much space")

    def _read_stamps(
        self, stack: ExitStack, source: HistorySource, point: Point | None
    ) -> Iterable[tuple[bytes, bytes]]:
        """Return what the settled files of the newest point were seen as, empty if not known."""
        if point is None:
            return ()
        with suppress(FileNotFoundError):
            fd = os.open(_STAMPS, _READ, dir_fd=self._home)
            stack.callback(os.close, fd)
            stamps = _Stamps(fd)
            if (saved := stamps.saved(point)) is not None:
                if not source.is_restored:
                    source.rule.restore(saved)
                source.is_restored = True
                return stamps
        return ()

    def _write_stamps(
        self,
        source: HistorySource,
        point: Point,
        stamps: Iterable[tuple[bytes, bytes]],
        records: Iterable[Record],
    ) -> None:
        """Write what the settled files are seen as. It need not be durable."""
        source.is_restored = True
        part = _STAMPS + _PART
        with (
            suppress(OSError),  # all files are read then
            closing_descriptor(os.open(part, _MAKE, 0o600, dir_fd=self._home)) as fd,
        ):
            head = (point.number, point.root, source.rule.saved())
            frames, crc = FrameFile(fd), 0
            for value in _stamp_values(head, stamps, records):
                frames.add(value)
                crc = zlib.crc32(value, crc)
            frames.add(b"%d" % crc)
            frames.flush()
            os.rename(part, _STAMPS, src_dir_fd=self._home, dst_dir_fd=self._home)

    # Older points

    def remove(self, number: int) -> None:
        """Remove a point but the newest; the next older one takes in what it needs of it.

        Raises NoSuchPoint.
        """
        with self._chain() as chain, storage_errors(f"point {number} cannot be removed"):
            at = _place_of(chain, number)
            if at == 0:
                raise NoSuchPoint(f"point {number} is the newest one, which stays")
            if at + 1 < len(chain):
                older, removed = chain[at + 1], chain[at]
                self._is_interrupted = True  # a delta that was merged is no more one of the chain
                with self._making(_delta_name(older.point.number)) as fd:
                    merge_deltas(older, removed, fd, self._check)
            os.unlink(_delta_name(number), dir_fd=self._home)
            os.fsync(self._home)
            self._is_interrupted = False
            self.damaged.pop(number, None)

    def adopt(self, name: bytes, *, is_bridge: bool) -> Point:
        """Take in the file `name` of the directory: the delta of the point before the oldest one.

        It is on stable storage. With `is_bridge` it was made for this history, and what it makes
        is checked. Raises HistoryDamaged where it is no such delta.
        """
        with (
            self._chain() as chain,
            ExitStack() as stack,
            storage_errors(f"the history in {self._directory} cannot take in a point"),
        ):
            delta = self._open_form(stack, name)
            oldest = chain[-1].point.number if chain else 0
            if delta is None or delta.reader.kind is not FormKind.DELTA:
                raise HistoryDamaged(display(name), "it is no delta")
            number, newer = delta.point.number, delta.reader.newer
            if not 0 < number < newer == oldest:
                raise HistoryDamaged(display(name), f"it does not go before point {oldest}")
            for _ in delta.reader.entries():
                self._check()
            if is_bridge:
                scratch = os.path.join(self._directory, os.fsdecode(_INCOMING))
                file = stack.enter_context(TemporaryFile(dir=scratch, buffering=0))
                tree = stack.enter_context(self._opened(_TREE))
                if damaged := check_bridge([*chain, delta], tree, file.fileno(), self._check):
                    self.damaged[number] = tuple(damaged)
                    self._log(f"of point {number} of the history {described(damaged)} is damaged")
            os.rename(name, _delta_name(number), src_dir_fd=self._home, dst_dir_fd=self._home)
            os.fsync(self._home)
            return delta.point

    def thin(self, keep: Mapping[int, int], now: int) -> None:
        """Remove the points that no rule keeps; `keep` and `now` are as for `surplus`."""
        for number in surplus(self.points(), keep, now):
            self.remove(number)

    def changes(self, number: int) -> Iterator[tuple[PastEntry, PastEntry]]:
        """Yield what is not as at a point: how it was then, and how it is in the newest one.

        Raises NoSuchPoint.
        """
        with self._chain() as chain:
            needed = chain[: _place_of(chain, number) + 1]
            for path, (newest, *found) in overlaid(needed):
                before = next((each[0] for each in reversed(found) if each is not None), None)
                now = PastNothing(path) if newest is None else newest[0]
                if before is not None and before != now:
                    yield before, now

    @contextmanager
    def opened(self, number: int) -> Iterator[tuple[Sequence[OpenForm], int]]:
        """Open what a point is made of: the forms from the newest to its own, and the tree.

        The tree is a descriptor. Raises NoSuchPoint.
        """
        with self._chain() as chain, self._opened(_TREE) as tree:
            yield chain[: _place_of(chain, number) + 1], tree

    def rebuild(self, number: int, target: int, owner: Owner | None = None) -> None:
        """Write the files of a point into the empty directory with the descriptor `target`.

        `owner` gets them, None for the process's own ids. Raises NoSuchPoint, and HistoryDamaged
        where something is not as it was.
        """
        with (
            storage_errors(f"point {number} cannot be rebuilt"),
            self.opened(number) as (needed, tree),
        ):
            with Rebuilding(target, tree, owner) as rebuilding:
                root = rebuilding.run(needed, self._check)
            if root != needed[-1].point.root:
                self.damaged[number] = EVERYTHING_DAMAGED
                raise HistoryDamaged(f"point {number}", "its entries do not have its root")

    def verify(self) -> dict[int, tuple[bytes, ...]]:
        """Read all, and return the files that are damaged by the numbers of points.

        `EVERYTHING_DAMAGED` stands for all files of a point.
        """
        self.damaged.clear()
        scratch = os.path.join(self._directory, os.fsdecode(_INCOMING))
        with (
            self._chain() as chain,
            storage_errors(f"the history in {self._directory} cannot be read"),
            TemporaryFile(dir=scratch, buffering=0) as file,
            self._opened(_TREE) as tree,
        ):
            readable = self._readable(chain)
            check = Verification(readable, tree, file.fileno(), self._check)
            check.run()
            self.damaged.update(check.damaged)
        return self.damaged

    def _readable(self, chain: Sequence[OpenForm]) -> Sequence[OpenForm]:
        """Return the forms of a chain whose entries can be read, as well as those before them."""
        for at, form in enumerate(chain):
            try:
                for _ in form.reader.entries():
                    pass
            except HistoryDamaged as error:
                self._broken(form.point.number, error)
                return chain[:at]
        return chain


def _stamp_values(
    head: tuple[int, bytes, bytes],
    stamps: Iterable[tuple[bytes, bytes]],
    records: Iterable[Record],
) -> Iterator[bytes]:
    yield marshal.dumps(head)
    named = ((record.new.path, record) for record in records)
    for path, (stamp, record) in joined(stamps, named):
        if now := stamp if record is None else record.stamp:
            yield marshal.dumps((path, now))


class _Stamps:
    """The file of stamps: its head, a stamp for each path, and a CRC."""

    def __init__(self, fd: int) -> None:
        self._frames = FrameFile(fd)

    def saved(self, point: Point) -> bytes | None:
        """Return what the rule has saved, None where the file is not whole or of another point."""
        crc, head, last = 0, None, b""
        for value in self._frames:
            head = last if head is None and last else head
            crc = zlib.crc32(last, crc)
            last = value
        if head is None or last != b"%d" % crc:
            return None
        number, root, saved = marshal.loads(head)  # noqa: S302 - this program has written it
        return saved if (number, root) == (point.number, point.root) else None

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        before: bytes | None = None
        for at, value in enumerate(self._frames):
            if at > 1 and before is not None:
                yield marshal.loads(before)  # noqa: S302 - this program has written it
            before = value


def _reverse_steps(reader: FormReader) -> Iterator[TreeStep]:
    for entry, section in reader.entries():
        if isinstance(entry, PastFile) and section is not None:
            chunks = reader.chunks(section, entry.size)
            meta = (entry.size, section.is_based)
            yield TreeStep(entry.path, False, True, *meta, chunks)
        else:
            yield TreeStep(entry.path, isinstance(entry, PastDirectory))


def _forward_steps(capture: Capture) -> Iterator[TreeStep]:
    for record in capture.records():
        new, spooled = record.new, record.spooled
        if record.old == new and not spooled.length:
            continue
        if isinstance(new, PastFile):
            chunks = () if spooled.incoming else capture.chunks(spooled, new.size)
            meta = (new.size, isinstance(record.old, PastFile))
            yield TreeStep(new.path, False, True, *meta, chunks, spooled.incoming)
        else:
            yield TreeStep(new.path, isinstance(new, PastDirectory))


def _place_of(chain: Sequence[OpenForm], number: int) -> int:
    for at, delta in enumerate(chain):
        if delta.point.number == number:
            return at
    raise NoSuchPoint(f"there is no point {number}")


def _names(directory: int) -> list[bytes]:
    """Return the names in an open directory."""
    # of a descriptor that stays open, btrfs lists what there was when it was last rewound
    os.lseek(directory, 0, os.SEEK_SET)
    return [os.fsencode(name) for name in os.listdir(directory)]


def _remove(parent: int, name: bytes) -> None:
    """Remove a tree of files and directories that is this program's own."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=parent)
        return
    with closing_descriptor(os.open(name, _DIRECTORY, dir_fd=parent)) as fd:
        for each in _names(fd):
            _remove(fd, each)
    os.rmdir(name, dir_fd=parent)


def _catalogued(catalogue: OpenForm | None) -> Iterator[tuple[bytes, PastEntry]]:
    if catalogue is not None:
        yield from ((entry.path, entry) for entry, _ in catalogue.reader.entries())


def _following(catalogue: OpenForm | None, capture: Capture) -> Iterator[PastEntry]:
    """Yield the entries of a new point: those of the newest one, but for what was captured."""
    records = ((record.new.path, record) for record in capture.records())
    for _, (entry, record) in joined(_catalogued(catalogue), records):
        now = entry if record is None else record.new
        if not isinstance(now, PastNothing):
            yield now
