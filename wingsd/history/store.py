"""The history of one server: its points are made, listed, merged, removed, rebuilt and verified.

Blocking; calls come one at a time, and a lock keeps other processes out. The directory has the
`tree` of the newest point, its `catalogue` twice, a delta for each older point, `state`, which
says what is damaged, and `stamps` and `incoming` for the next point. docs/history.md says what a
crash leaves at each place, and why every listed point can be rebuilt then. Methods raise
StorageError.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from functools import partial
from itertools import chain as chained
from tempfile import TemporaryFile
from typing import Any

from wingsd.archive.quota import kept_free, require_free_space
from wingsd.errors import (
    FileWorkCancelled,
    HistoryDamaged,
    HistoryFull,
    HistoryVersionUnknown,
    NoSuchPoint,
    PointNamed,
    StorageError,
)
from wingsd.filesystem.open_directories import closing_descriptor
from wingsd.filesystem.syscalls import syncfs
from wingsd.filesystem.walk import survey
from wingsd.history.adopting import Scratch, check_bridge, rebase_delta
from wingsd.history.capture import Capture, CheckedValues, HistorySource, Record, joined
from wingsd.history.format import (
    DISK_ERRORS,
    PIECE,
    SECTOR,
    FormKind,
    FormReader,
    FormWriter,
    PastDirectory,
    PastEntry,
    PastFile,
    PastNothing,
    Point,
    PointLabel,
    RootHash,
    every_path,
    read_fully,
)
from wingsd.history.names import FILES, PointName, encode_names, load_names, read_names
from wingsd.history.newest import (
    NewestTree,
    Steps,
    TreeStep,
    names_in,
    remove_entry,
)
from wingsd.history.policy import surplus
from wingsd.history.rebuilding import EVERYTHING_DAMAGED, Verification, merge_deltas
from wingsd.moves.applier import write_at
from wingsd.moves.scan import seen_as
from wingsd.util.durable import storage_errors
from wingsd.util.text import display, display_all

_TREE, _CATALOGUE, _STAMPS, _INCOMING = b"tree", b"catalogue", b"stamps", b"incoming"
_COPY, _STATE = b"catalogue.copy", b"state"
_PART = b".new"
_DELTA = re.compile(rb"(\d{20})\.delta").fullmatch
_READ = os.O_RDONLY | os.O_NOFOLLOW
_MAKE = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_OWN = 0o700
#: Nanoseconds after which a change of a file changes its ctime once more.
_SETTLED = 100_000_000


Damaged = dict[int, tuple[bytes, ...]]
"""Damaged files by the numbers of points; `EVERYTHING_DAMAGED` stands for all of a point."""


Label = PointLabel | Callable[[], PointLabel]
"""The label of a new point. A function is called before and after the reading of files."""


def _delta_name(number: int) -> bytes:
    return b"%020d.delta" % number


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
        self.directory = directory
        self._log = log
        self.max_size = max_size
        #: Bytes of the disk that work besides points leaves free.
        self.reserve, self.inode_reserve = 0, 0
        #: Bytes of the tree on the disk, once they are known.
        self._tree_bytes: int | None = None
        #: Files that were found damaged, also before this object was made.
        self.damaged: Damaged = {}
        #: Numbers of further points that are removed neither by `thin` nor for `max_size`.
        self.pinned: Collection[int] = ()
        #: The names of points; None where they cannot be read, and no point is removed.
        self.names: Mapping[str, PointName] | None = None
        #: Files whose copies were damaged when `make` read them; they are checked after it.
        self._doubtful: set[bytes] = set()
        self._is_stopped = False
        #: Catalogues whose entries were read, as `seen_as` has them: each is checked once.
        self._sound: set[object] = set()
        #: Whether something was interrupted, and not undone yet.
        self._is_interrupted = True
        self._stack = ExitStack()
        try:
            with storage_errors(f"the history in {directory} cannot be used"):
                os.makedirs(directory, 0o700, exist_ok=True)
                fd = os.open(directory, _DIRECTORY)
                self._home = self._stack.enter_context(closing_descriptor(fd))
                try:
                    fcntl.flock(self._home, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise StorageError(
                        f"the history in {directory} is in use by another process"
                    ) from None
            self._read_names()
            self._recover()
        except BaseException:
            self._stack.close()
            raise

    def stop(self) -> None:
        """Make what is under way fail soon, by FileWorkCancelled. From any thread."""
        self._is_stopped = True

    @property
    def scratch(self) -> str:
        """The directory of files without a name, while something is done with the history."""
        return os.path.join(self.directory, os.fsdecode(_INCOMING))

    def temporary(self) -> int:
        """Return the descriptor of a new file without a name, which is the caller's to close."""
        with TemporaryFile(dir=self.scratch, buffering=0) as file:
            return os.dup(file.fileno())

    def new_scratch(self, stack: ExitStack) -> Scratch:
        """Return a new file to put files together in."""
        fd = self.temporary()
        stack.callback(os.close, fd)
        return Scratch(fd, self.require_room)

    def require_room(self, more: int) -> None:
        """Raise StorageError where so many bytes more would not leave the reserve of the disk."""
        found, what = os.fstatvfs(self._home), "what is put together of a history"
        require_free_space(found, self.reserve, what, more, self.inode_reserve)

    def check(self) -> None:
        """Raise FileWorkCancelled after `stop`."""
        if self._is_stopped:
            raise FileWorkCancelled

    def check_room(self) -> None:
        """Do the same, and check that one more piece leaves the reserve of the disk."""
        self.check()
        self.require_room(PIECE)

    def close(self) -> None:
        """Close every descriptor, and let others use the history."""
        self._stack.close()

    # Points

    def points(self) -> list[Point]:
        """Return the points, the newest first. Those that cannot be read are left out."""
        return [delta.point for delta in self.chain()]

    def chain(self) -> list[FormReader]:
        """Return the same as what they are made of, for `opened`: a thousand take a while.

        What was interrupted is undone first.
        """
        self._recover()
        with storage_errors(f"the history in {self.directory} cannot be read"):
            return self._chain()

    @property
    def size(self) -> int:
        """The bytes that the history takes on the disk."""
        tree_bytes = self._measured_tree()
        with storage_errors(f"the history in {self.directory} cannot be used"):
            names = [name for name in names_in(self._home) if name not in (_TREE, _INCOMING)]
            files = [os.stat(name, dir_fd=self._home, follow_symlinks=False) for name in names]
        return tree_bytes + sum(each.st_blocks * SECTOR for each in files)

    def _measured_tree(self) -> int:
        if self._tree_bytes is None:
            self._tree_bytes = survey(os.path.join(self.directory, os.fsdecode(_TREE))).on_disk
        return self._tree_bytes

    def stored(self, number: int) -> int:
        """Return the bytes that the delta of a point takes on the disk; the newest has none."""
        with storage_errors(f"the history in {self.directory} cannot be used"):
            return self._size_of(_delta_name(number))

    def unreadable(self) -> list[int]:
        """Return the numbers of the points that `points` leaves out, the newest first."""
        read = {point.number for point in self.points()}
        with storage_errors(f"the history in {self.directory} cannot be read"):
            return sorted(set(self._deltas()) - read, reverse=True)

    def _chain(self) -> list[FormReader]:
        """Return the catalogue and all deltas, the newest first, as far as they can be read."""
        chain = [each for each in (self._open_catalogue(),) if each is not None]
        for number in sorted(self._deltas(), reverse=True) if chain else ():
            try:
                delta = self._open_form(_delta_name(number))
            except (HistoryDamaged, HistoryVersionUnknown) as error:
                self._broken(number, error)
                break
            if delta is None or delta.newer != chain[-1].point.number:
                self._broken(number, HistoryDamaged(f"point {number}", "a delta is missing"))
                break
            chain.append(delta)
        return chain

    def _broken(self, number: int, error: StorageError) -> None:
        numbers = [each for each in (number, *self._deltas()) if each <= number]
        if any(self.damaged.get(each) != EVERYTHING_DAMAGED for each in numbers):
            self.damaged.update(dict.fromkeys(numbers, EVERYTHING_DAMAGED))
            self._log(f"points up to {number} of the history are damaged: {error}")

    def _open_form(self, name: bytes) -> FormReader | None:
        """Return a file of the history, which is opened for each read; None if it is missing."""
        with suppress(FileNotFoundError):
            return FormReader.at(name, display(name), self._home)
        return None

    def _open_catalogue(self) -> FormReader | None:
        """Return the catalogue, or its copy where it is damaged; None where there is none.

        Raises HistoryDamaged where neither can be read.
        """
        damage: HistoryDamaged | None = None
        for name in (_CATALOGUE, _COPY):
            try:
                if (found := self._open_form(name)) is not None:
                    self._check_entries(found)
                    return found
            except HistoryDamaged as error:
                damage = damage or error
        if damage is None and self._deltas():
            damage = HistoryDamaged(self.directory, "its catalogue is missing")
        if damage is not None:
            raise damage
        return None

    def _check_entries(self, catalogue: FormReader) -> None:
        """Read the entries of a catalogue, once for as long as the file is not changed."""
        if (seen := seen_as(catalogue.found)) not in self._sound:
            catalogue.check_entries()
            if time.time_ns() - catalogue.found.st_ctime_ns > _SETTLED:
                self._sound.add(seen)

    def _deltas(self) -> list[int]:
        found = map(_DELTA, names_in(self._home))
        return [int(each[1]) for each in found if each]

    # Names

    def name(self, name: PointName) -> None:
        """Give a point a name, in place of an equal one; it is on stable storage then.

        Raises NoSuchPoint where the history has no such point.
        """
        for each in self.points():
            if (each.number, each.root.hex()) == (name.number, name.root):
                break
        else:
            raise NoSuchPoint(f"there is no point {name.number} with the root {name.root}")
        self._write_names({**self._known_names(), name.name: name})

    def unname(self, name: str) -> PointName | None:
        """Remove a name, and return what it was; None where there is none. The point stays."""
        names = dict(self._known_names())
        found = names.pop(name, None)
        if found is not None:
            self._write_names(names)
        return found

    def _known_names(self) -> Mapping[str, PointName]:
        if self.names is None:
            self.names = read_names(self.directory)  # which raises why
        return self.names

    def _write_names(self, names: Mapping[str, PointName]) -> None:
        first, copy = FILES
        with storage_errors(f"the names of points in {self.directory} cannot be written"):
            self._write_file(first, encode_names(names.values()))
        self.names = names
        try:
            self._write_file(copy, encode_names(names.values()))
        except OSError as error:
            self._log(f"{display(copy)} of the history is written at its next use: {error}")
            # rather none than an older one: `names` is there
            with suppress(OSError):
                os.unlink(copy, dir_fd=self._home)
                os.fsync(self._home)

    def _write_file(self, name: bytes, content: bytes) -> None:
        with self._making(name) as fd:
            write_at(fd, memoryview(content), 0)

    def _read_names(self) -> None:
        """Read the names, and make both files equal where one is damaged or older."""
        try:
            self.names, is_twice = load_names(self.directory)
        except StorageError as error:
            self._log(f"no point of the history is removed, as their names are damaged: {error}")
            return
        if not is_twice:
            with suppress(StorageError):
                self._write_names(self.names)

    def _kept(self) -> Collection[int]:
        """Return the numbers of the points that are removed neither by a rule nor for space."""
        if self.names is None:
            return [*self._deltas(), *(each.point.number for each in self._chain()[:1])]
        return {*self.pinned, *(each.number for each in self.names.values())}

    # Recovery

    def _recover(self) -> None:
        """Undo what was interrupted, if anything was."""
        if self._is_interrupted:
            with storage_errors(f"the history in {self.directory} cannot be used"):
                self._undo_all()
            self._is_interrupted = False

    def _undo_all(self) -> None:
        """Make the tree that of the catalogue, and drop what was left."""
        missing = {_TREE, _INCOMING}.difference(names_in(self._home))
        for name in missing:
            os.mkdir(name, _OWN, dir_fd=self._home)
        if missing:
            os.fsync(self._home)
        self._tree_bytes = None
        self._sweep()
        self._sound.clear()
        catalogue = self._open_catalogue()
        newest = 0 if catalogue is None else catalogue.point.number
        if catalogue is None:
            self._clear_tree()
        else:
            self._repair_catalogues(catalogue)
        self._read_state(newest)
        for number in sorted(self._deltas(), reverse=True):
            if number >= newest:
                self._tree_bytes = None
                self._undo(number)
        self._drop_merged()

    def _repair_catalogues(self, good: FormReader) -> None:
        """Make both catalogues that one, which one of them is."""
        for name in (_CATALOGUE, _COPY):
            found = None
            with suppress(HistoryDamaged):
                found = self._open_form(name)
                if found is not None and found.point == good.point:
                    self._check_entries(found)
                    continue
            if found is None:
                self._log(f"{display(name)} of the history was damaged or missing: it is replaced")
            try:
                with self._making(name) as fd:
                    good.copy(fd)
            except OSError:
                # rather none than one of another point: the good one is there
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=self._home)

    def _sweep(self) -> None:
        """Remove files that are not complete, and what was put aside."""
        for name in names_in(self._home):
            if name.endswith(_PART):
                os.unlink(name, dir_fd=self._home)
        with self._opened(_INCOMING) as incoming:
            for name in names_in(incoming):
                os.unlink(name, dir_fd=incoming)

    def _clear_tree(self) -> None:
        """Remove what the first point has left, which was not completed."""
        with self._opened(_TREE) as tree:
            for name in names_in(tree):
                remove_entry(tree, name)

    def _undo(self, number: int) -> None:
        """Make the tree that of a point, whose successor was not completed, and drop its delta."""
        try:
            delta = self._open_form(_delta_name(number))
            assert delta is not None  # noqa: S101 - it was listed
            self._apply(delta)
        except HistoryDamaged as error:
            # each file of the server is read for the next point, and its copy checked
            self.damaged[number] = EVERYTHING_DAMAGED
            self._save_state(number)
            self._log(f"files of point {number} of the history may be lost: {error}")
        os.unlink(_delta_name(number), dir_fd=self._home)
        os.fsync(self._home)

    def _apply(self, delta: FormReader) -> None:
        """Make the tree that of the delta's point."""
        try:
            self._change_tree(partial(_reverse_steps, delta))
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            # a sector can neither be read nor written: other sectors are used
            self._change_tree(partial(_reverse_steps, delta), in_place=False)

    def _drop_merged(self) -> None:
        """Remove deltas that others have taken in."""
        end = 0
        for number in sorted(self._deltas()):
            if number < end:
                os.unlink(_delta_name(number), dir_fd=self._home)
                continue
            with suppress(HistoryDamaged, HistoryVersionUnknown):
                delta = self._open_form(_delta_name(number))
                end = delta.newer if delta is not None else 0

    def _change_tree(self, steps: Steps, *, in_place: bool = True) -> int:
        """Change the tree, and return by how many bytes it has grown when that is durable."""
        with self._newest_tree() as tree:
            tree.change(steps, in_place=in_place)
        # by a descriptor that was open all the time: no error of writing back is missed
        syncfs(self._home)
        return tree.grown

    @contextmanager
    def _newest_tree(self) -> Iterator[NewestTree]:
        with (
            self._opened(_TREE) as root,
            self._opened(_INCOMING) as incoming,
            closing(NewestTree(root, incoming)) as tree,
        ):
            yield tree

    def _opened(self, name: bytes) -> AbstractContextManager[int]:
        return closing_descriptor(os.open(name, _DIRECTORY, dir_fd=self._home))

    def _new_file(self, name: bytes) -> AbstractContextManager[int]:
        """Open a new file that is to get a name by `_name_file`."""
        return closing_descriptor(os.open(name + _PART, _MAKE, 0o600, dir_fd=self._home))

    def _name_file(self, name: bytes) -> None:
        os.rename(name + _PART, name, src_dir_fd=self._home, dst_dir_fd=self._home)

    @contextmanager
    def _making(self, name: bytes) -> Iterator[int]:
        """Open a new file, which gets its name, durably, at the end."""
        with self._new_file(name) as fd:
            try:
                yield fd
                os.fsync(fd)
                self._name_file(name)
            except BaseException:
                with suppress(OSError):
                    os.unlink(name + _PART, dir_fd=self._home)
                raise
            os.fsync(self._home)

    # A new point

    def make(self, source: HistorySource, label: Label, least: int = 1) -> Point | None:
        """Make a point of what a server's directory has; None where nothing is changed.

        Its number is the next one, and `least` at least; where that is a higher one, the point is
        made in any case. One with unsettled files is of a server that runs. Raises HistoryFull
        where there is no space for it.
        """
        self._recover()
        self._is_interrupted = True
        try:
            with storage_errors(f"a point of the history in {self.directory} cannot be made"):
                found = self._make(source, label, least)
        except BaseException:
            # what was begun is undone, from the disk alone, as after a crash
            self._recover()
            raise
        self._is_interrupted = False
        if self._doubtful:
            self._check_doubtful()
        return found

    def _make(self, source: HistorySource, label: Label, least: int) -> Point | None:
        began = source.kernel.wall_time()
        source.check_work = self._check_notes
        with ExitStack() as stack:
            catalogue = self._open_catalogue()
            before = None if catalogue is None else catalogue.point
            number = max(before.number + 1 if before else 1, least)
            if before is not None and not source.is_restored:
                source.hot = frozenset(before.unsettled)
            delta = None
            if before is not None:
                fd = stack.enter_context(self._new_file(_delta_name(before.number)))
                delta = FormWriter(fd, FormKind.DELTA, before.number, number)
            capture = self._capture(stack, source, delta, before)
            stamps = self._read_stamps(stack, source, before)
            is_running = _now(label) is PointLabel.RUNNING
            capture.run(partial(_catalogued, catalogue), stamps, is_running=is_running)
            # what is deleted, or replaced, after a stop is no part of the point
            self.check()
            source.check()
            unsettled = tuple(sorted(capture.unsettled))
            # files that are unsettled are not of the same moment as others
            is_running = is_running or bool(unsettled) or _now(label) is PointLabel.RUNNING
            given = PointLabel.RUNNING if is_running else PointLabel.STOPPED
            is_changed = any(record.old != record.new for record in capture.records())
            if before is not None and not is_changed and before.number >= least - 1:
                if capture.damaged:
                    self._tree_bytes = None
                    self._change_tree(partial(_forward_steps, capture))
                os.unlink(_delta_name(before.number) + _PART, dir_fd=self._home)
                if next(capture.records(), None) is not None:  # else the stamps stay as they are
                    self._write_stamps(source, before, stamps, capture.records())
                self._note_damage(capture, before, is_same=True)
                return None
            entries = _following(catalogue, capture)
            found = self._write_catalogues(entries, number, began, given, unsettled)
            if delta is not None and before is not None:
                self._write_delta(delta, before, capture)
            is_only = self._make_room(capture.growth, before)
            if delta is not None and before is not None:
                self._rename(_delta_name(before.number))
            tree_bytes = self._measured_tree()
            grown = self._change_tree(partial(_forward_steps, capture))
            self._rename(_CATALOGUE, _COPY)
            self._tree_bytes = tree_bytes + grown
            self._write_stamps(source, found, stamps, capture.records())
            self._save_state(number)
            if is_only and before is not None:
                with suppress(HistoryDamaged):  # the point is made
                    self._remove_for_space(before.number)
            self._note_damage(capture, before)
            return found

    def _note_damage(
        self, capture: Capture, before: Point | None, *, is_same: bool = False
    ) -> None:
        """Note files whose copy was damaged, for `make`; those that were read are replaced."""
        if replaced := capture.damaged:
            self._log(
                f"{len(replaced)} files of the history were damaged, and are replaced: "
                f"{display(next(iter(replaced)))}"
            )
        if before is not None:
            known = self.damaged.get(before.number, ())
            if is_same and known == EVERYTHING_DAMAGED and not capture.unsettled:
                del self.damaged[before.number]  # each file was read
                self._save_state(before.number)
            self._doubtful = {*replaced, *known}

    def _write_catalogues(
        self,
        entries: Iterable[PastEntry],
        number: int,
        began: int,
        label: PointLabel,
        unsettled: tuple[bytes, ...],
    ) -> Point:
        """Write both catalogues of a new point, which get their names by `_rename`."""
        with self._new_file(_CATALOGUE) as first, self._new_file(_COPY) as second:
            writer, root = FormWriter(first, FormKind.CATALOGUE, number), RootHash()
            for entry in entries:
                writer.add_encoded(root.add(entry))
            of_all = (root.digest(), root.files, root.size)
            point = Point(number, began, label, *of_all, unsettled)
            writer.finish(point)
            # a file system that shares blocks must not do so here
            for at in range(0, writer.size, PIECE):
                write_at(second, memoryview(read_fully(first, PIECE, at)), at)
            for fd in (first, second):
                os.fsync(fd)
            return point

    def _rename(self, *names: bytes) -> None:
        """Give new files their names, durably."""
        for name in names:
            self._name_file(name)
        os.fsync(self._home)

    def _capture(
        self,
        stack: ExitStack,
        source: HistorySource,
        delta: FormWriter | None,
        before: Point | None,
    ) -> Capture:
        newest = stack.enter_context(self._newest_tree())
        damaged = () if before is None else self.damaged.get(before.number, ())
        suspect = None if damaged == EVERYTHING_DAMAGED else frozenset(damaged)
        capture = Capture(source, newest, delta, self.scratch, self._budget, suspect)
        return stack.enter_context(closing(capture))

    @staticmethod
    def _write_delta(delta: FormWriter, before: Point, capture: Capture) -> None:
        """Complete the delta of the point before. From its rename on, that can be rebuilt."""
        for record in capture.records():
            if record.old != record.new:
                delta.add(record.old, record.reverse)
        delta.finish(before)
        os.fsync(delta.fd)

    def _budget(self, size: int) -> None:
        """Check how many bytes are put aside."""
        self.check()
        if self.max_size is not None and size > self.max_size:
            raise self._full()

    def _check_notes(self) -> None:
        """Check that what is noted of names, while a point is made, does not fill the disk."""
        self.check()
        self._require_room_for_notes()

    def _require_room_for_notes(self) -> None:
        # A history may have grown up to the reserve; the oldest points make room later.
        found = os.fstatvfs(self._home)
        reserve = kept_free(found, self.reserve) // 2
        require_free_space(found, reserve, "what is noted of the server's files", PIECE, 0)

    def _full(self) -> HistoryFull:
        return HistoryFull(self.directory, len(self.names or ()))

    def _size_of(self, name: bytes) -> int:
        return os.stat(name, dir_fd=self._home, follow_symlinks=False).st_blocks * SECTOR

    def _make_room(self, growth: int, before: Point | None) -> bool:
        """Remove the oldest points, until the history is not too large with what was written.

        `growth` are the bytes by which the tree will grow. Returns whether the point `before` is
        to be removed as well, once the one that is made exists.
        """
        if self.max_size is None:
            return False
        names = names_in(self._home)
        growth -= sum(self._size_of(name) for name in (_CATALOGUE, _COPY) if name in names)
        kept = self._kept()
        numbers = [each for each in sorted(self._deltas()) if each not in kept]
        removable = sum(self._size_of(_delta_name(number)) for number in numbers)
        last = 0
        if before is not None and before.number not in kept:
            last = self._size_of(_delta_name(before.number) + _PART)
        if self.size + growth - removable - last > self.max_size:
            raise self._full()
        for number in numbers:
            if self.size + growth <= self.max_size:
                break
            with suppress(HistoryDamaged):
                self._remove_for_space(number)
        size = self.size + growth
        if size - last > self.max_size:
            raise self._full()
        return size > self.max_size

    def _remove_for_space(self, number: int) -> None:
        self._remove(self._chain(), number)
        self._log(f"point {number} of the history is removed: the history takes too much space")

    def _read_stamps(
        self, stack: ExitStack, source: HistorySource, point: Point | None
    ) -> Iterable[tuple[bytes, bytes]]:
        """Return what the settled files of the newest point were seen as, empty if not known."""
        if point is None:
            return ()
        with suppress(OSError, EOFError, ValueError, TypeError):  # or all files are read
            fd = os.open(_STAMPS, _READ, dir_fd=self._home)
            stack.callback(os.close, fd)
            stamps = CheckedValues(fd)
            number, root, saved = stamps.first()
            if (number, root) == (point.number, point.root):
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
        with suppress(OSError, StorageError):  # all files are read then
            head = (point.number, point.root, source.rule.saved())
            values = _stamp_values(head, stamps, records)
            self._write_values(_STAMPS, values, self._require_room_for_notes)

    def _write_values(
        self, name: bytes, values: Iterable[Any], check: Callable[[], None] = lambda: None
    ) -> None:
        with self._new_file(name) as fd:
            CheckedValues(fd, check).write(values)
            self._name_file(name)

    # Damage

    def _read_state(self, newest: int) -> None:
        """Read what was saved: which files are damaged, and what the tree takes."""
        numbers = {*self._deltas(), newest}
        with suppress(OSError, EOFError, ValueError, TypeError):  # the next check finds them again
            with closing_descriptor(os.open(_STATE, _READ, dir_fd=self._home)) as fd:
                values = CheckedValues(fd)
                number, tree_bytes = values.first()
                found = dict(values)
            self.damaged = {number: found[number] for number in numbers if number in found}
            if number == newest:
                self._tree_bytes = tree_bytes

    def _save_state(self, newest: int) -> None:
        """Save it. It need not be durable."""
        with suppress(OSError):
            head = (newest, self._tree_bytes)
            self._write_values(_STATE, (head, *sorted(self.damaged.items())))

    # Older points

    def remove(self, number: int) -> None:
        """Remove a point but the newest; the next older one takes in what it needs of it.

        Raises NoSuchPoint, PointNamed for one that has a name, and HistoryDamaged where it cannot
        be read, and an older point is to stay as it is.
        """
        named = self._known_names().values()
        if names := [each.name for each in named if each.number == number]:
            raise PointNamed(number, names)
        chain = self.chain()
        is_listed = any(each.point.number == number for each in chain)
        if (is_listed or number not in self._deltas()) and _place_of(chain, number) == 0:
            raise NoSuchPoint(f"point {number} is the newest one, which stays")
        with storage_errors(f"point {number} cannot be removed"):
            self._is_interrupted = True  # a delta that was merged is no more one of the chain
            self._remove(chain, number)
            self._is_interrupted = False

    def _remove(self, chain: Sequence[FormReader], number: int) -> None:
        """Remove a delta, which the next older one takes in, unless it cannot be read.

        Files that cannot be read are lost, unless a point that is kept may need them: an error of
        the disk may pass.
        """
        at = next((at for at, each in enumerate(chain) if each.point.number == number), len(chain))
        if at < len(chain) - 1:
            older = chain[at + 1]
            with self._making(_delta_name(older.point.number)) as fd:
                try:
                    damaged = merge_deltas(older, chain[at], fd, self.check)
                except HistoryDamaged as error:
                    self._broken(number, error)
                    raise
                if damaged and any(each < number for each in self._kept()):
                    raise self._unmerged(chain[0].point.number, older.point.number, damaged)
            if damaged:
                self._log(
                    f"{len(damaged)} files of point {older.point.number} of the history were "
                    f"damaged, and are lost: {display(damaged[0])}"
                )
        os.unlink(_delta_name(number), dir_fd=self._home)
        os.fsync(self._home)
        self.damaged.pop(number, None)

    def _unmerged(self, newest: int, number: int, damaged: Sequence[bytes]) -> HistoryDamaged:
        """Note that files of a point cannot be read; the next verification finds out if so.

        Return the error.
        """
        known = self.damaged.get(number, ())
        if known != EVERYTHING_DAMAGED and not {*damaged} <= {*known}:
            self.damaged[number] = tuple(sorted({*known, *damaged}))
            self._save_state(newest)
            self._log(
                f"the point after point {number} of the history stays, since a point that is kept "
                f"may need what cannot be read: {display(damaged[0])}"
            )
        return HistoryDamaged(f"point {number}", f"{display(damaged[0])} cannot be read")

    def adopt(self, name: bytes, *, is_bridge: bool) -> Point:
        """Take in the file `name` of the directory: the delta of a point, which is there then.

        It is on stable storage, and goes right before one of the points here. What it makes is
        checked if it `is_bridge`: one that was made for this history. Raises HistoryDamaged where
        it is no such delta.
        """
        chain = self.chain()
        with (
            ExitStack() as stack,
            storage_errors(f"the history in {self.directory} cannot take in a point"),
        ):
            delta = self._open_form(name)
            if delta is None or delta.kind is not FormKind.DELTA:
                raise HistoryDamaged(display(name), "it is no delta")
            number, newer = delta.point.number, delta.newer
            upper = [form for form in chain if form.point.number >= newer]
            older = chain[len(upper)] if len(upper) < len(chain) else None
            least = 0 if older is None else older.point.number
            if not upper or upper[-1].point.number != newer or not least < number < newer:
                raise HistoryDamaged(display(name), f"it does not go between {least} and {newer}")
            for _ in delta.entries():
                self.check()
            tree = stack.enter_context(self._opened(_TREE))
            upper.append(delta)
            damaged: tuple[bytes, ...] = ()
            if is_bridge:
                damaged = check_bridge(upper, tree, self.new_scratch(stack), self.check)
            if damaged:
                self.damaged[number] = damaged
                self._save_state(chain[0].point.number)
                self._log(f"of point {number} of the history {display_all(damaged)} is damaged")
            rename = partial(os.rename, src_dir_fd=self._home, dst_dir_fd=self._home)
            if older is None:
                rename(name, _delta_name(number))
                os.fsync(self._home)
                return delta.point
            scratches = (self.new_scratch(stack), self.new_scratch(stack))
            self._is_interrupted = True  # a delta that the older one still skips is dropped
            with self._making(_delta_name(least)) as fd:
                rebase_delta(upper, older, tree, fd, scratches, self.check_room)
                rename(name, _delta_name(number))
            self._is_interrupted = False
            return delta.point

    def thin(self, keep: Mapping[int, int], now: int, most: int | None = None) -> None:
        """Remove the oldest points that no rule keeps; `keep` and `now` are as for `surplus`.

        Not more than `most`. Those that have a name, or are pinned or damaged, stay, and the one
        before those that cannot be read.
        """
        points, kept = self.points(), self._kept()
        last = points[-1].number if points else 0
        is_last_needed = any(number < last for number in self._deltas())
        for number in surplus(points, keep, now):
            if most == 0:
                break
            is_needed = number in kept or (is_last_needed and number == last)
            if not is_needed and self.damaged.get(number) != EVERYTHING_DAMAGED:
                with suppress(HistoryDamaged):
                    self.remove(number)
                    most = None if most is None else most - 1

    def drop(self, number: int, keep: Mapping[int, int], now: int) -> None:
        """Remove a point that no rule, name or pin keeps, unless it is the newest; see `thin`."""
        if number in surplus(self.points(), keep, now) and number not in self._kept():
            with suppress(HistoryDamaged):
                self.remove(number)

    @contextmanager
    def opened(
        self, number: int, chain: Sequence[FormReader] | None = None
    ) -> Iterator[tuple[Sequence[FormReader], int]]:
        """Open what a point is made of: the forms from the newest to its own, and the tree.

        The tree is a descriptor. Raises NoSuchPoint.
        """
        chain = self.chain() if chain is None else chain
        with self._opened(_TREE) as tree:
            yield chain[: _place_of(chain, number) + 1], tree

    def verify(self) -> Damaged:
        """Read all files, and all entries; return what is damaged."""
        return self._verify(every_path)

    def _check_doubtful(self) -> None:
        """Find out which points need what was lost with damaged copies."""
        known = {*self._doubtful, *chained.from_iterable(self.damaged.values())}
        self._doubtful = set()
        try:
            self._verify(known.__contains__, roots=False)
        except (StorageError, FileWorkCancelled) as error:
            self._log(f"points of the history may be damaged, which cannot be checked: {error}")

    def _verify(self, is_wanted: Callable[[bytes], bool], *, roots: bool = True) -> Damaged:
        self._sound.clear()
        chain = self.chain()
        with (
            storage_errors(f"the history in {self.directory} cannot be read"),
            TemporaryFile(dir=self.scratch, buffering=0) as file,
            self._opened(_TREE) as tree,
        ):
            for each in chain[:1]:
                self._repair_catalogues(each)
            readable = self._readable(chain)
            check = Verification(readable, tree, file.fileno(), self.check, is_wanted, roots)
            check.run()
            numbers = {each.point.number for each in readable}
            bad = {number for number in self._deltas() if number not in numbers}
            if not roots:
                bad |= {each for each, it in self.damaged.items() if it == EVERYTHING_DAMAGED}
            self.damaged = dict.fromkeys(bad, EVERYTHING_DAMAGED) | check.damaged
            for each in chain[:1]:
                self._save_state(each.point.number)
        return self.damaged

    def _readable(self, chain: Sequence[FormReader]) -> Sequence[FormReader]:
        """Return the forms of a chain whose entries can be read, as well as those before them."""
        for at, form in enumerate(chain):
            try:
                for _ in form.entries():
                    pass
            except HistoryDamaged as error:
                self._broken(form.point.number, error)
                return chain[:at]
        return chain


def _stamp_values(
    head: tuple[int, bytes, bytes],
    stamps: Iterable[tuple[bytes, bytes]],
    records: Iterable[Record],
) -> Iterator[Any]:
    yield head
    named = ((record.new.path, record) for record in records)
    for path, (stamp, record) in joined(stamps, named):
        if now := stamp if record is None else record.stamp:
            yield path, now


def _now(label: Label) -> PointLabel:
    return label if isinstance(label, PointLabel) else label()


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
        if record.old == new and spooled.is_empty:
            continue
        if isinstance(new, PastFile):
            chunks = () if spooled.incoming else capture.chunks(spooled, new.size)
            meta = (new.size, isinstance(record.old, PastFile))
            yield TreeStep(new.path, False, True, *meta, chunks, spooled.incoming)
        else:
            yield TreeStep(new.path, isinstance(new, PastDirectory))


def _place_of(chain: Sequence[FormReader], number: int) -> int:
    for at, delta in enumerate(chain):
        if delta.point.number == number:
            return at
    raise NoSuchPoint(f"there is no point {number}")


def _catalogued(catalogue: FormReader | None) -> Iterator[tuple[bytes, PastEntry]]:
    if catalogue is not None:
        yield from ((entry.path, entry) for entry, _ in catalogue.entries())


def _following(catalogue: FormReader | None, capture: Capture) -> Iterator[PastEntry]:
    """Yield the entries of a new point: those of the newest one, but for what was captured."""
    records = ((record.new.path, record) for record in capture.records())
    for _, (entry, record) in joined(_catalogued(catalogue), records):
        now = entry if record is None else record.new
        if not isinstance(now, PastNothing):
            yield now
