"""Brings the directory of a server to a point of its history, by what differs. Blocking.

Contents are prepared while the server may run, in a directory of the same file system, the
*place*, and a draft of the plan. When the server has stopped, and a point of that moment was made,
`commit` prepares what else differs, and writes the plan. Where both have a path, the entry of the
plan counts. `apply` then renames: what was prepared is put into its place, and what is to be there
no more is moved away. Nothing of the server is changed before the plan is durable. From then on
`apply` may be broken off anywhere, and is completed when it is called again.

In the place are:

- `new`: files, symlinks and further names as they are to be, named by the SHA-256 of their paths
- `old`: what was removed, named in the same way; a directory has all that was in it. What a
  program makes there meanwhile gets a number after its name
- `draft`: what is to be changed, in the format of a delta, from the point that was the newest one
  when it was written to the one that is wanted. Files of which only the metadata is set have base
  1; the data of others are the inode numbers that they have in `new`. Once such a file is in its
  place, `new` has the one it replaced
- `plan`: in the same format the paths that were changed since; all paths where there is no `draft`
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from enum import Enum
from hashlib import sha256
from itertools import chain as chained
from itertools import count, islice
from pathlib import Path
from struct import Struct
from typing import NamedTuple

from attrs import define, field

from wingsd.archive.policy import member_mode
from wingsd.errors import HistoryDamaged, NoSuchPoint, StorageError
from wingsd.filesystem.attributes import (
    EVERYTHING,
    AttributeReader,
    clear_attributes,
    write_attributes,
)
from wingsd.filesystem.new_file import Owner
from wingsd.filesystem.open_directories import (
    FILE_FLAGS,
    OpenDirectories,
    closing_descriptor,
)
from wingsd.filesystem.syscalls import RENAME_EXCHANGE, renameat2, syncfs
from wingsd.filesystem.walk import opened
from wingsd.history.capture import joined
from wingsd.history.format import (
    Change,
    FormKind,
    FormReader,
    FormWriter,
    PastDirectory,
    PastEntry,
    PastFile,
    PastHardLink,
    PastLink,
    PastNothing,
    Point,
    Section,
)
from wingsd.history.rebuilding import (
    Contents,
    contents_of,
    last_of,
    only,
    overlaid,
    write_file,
)
from wingsd.history.store import HistoryStore
from wingsd.history.wanted import Wanted, WantedEntry
from wingsd.moves.nodes import tree_key
from wingsd.moves.scan import clamped_mtime
from wingsd.moves.tree import dirname
from wingsd.util.durable import storage_errors
from wingsd.util.text import disk_advice, display, display_all

MOST_LISTED = 10_000
"""The most paths that are listed as changed, or as not as they are to be."""

MOST_AMENDED = 10_000
"""The most paths, with the directories above them, of which a draft is amended."""

#: The most bytes that those have together, about, and the entries of these.
_LISTED_BYTES, _AMENDED_BYTES = 4 << 20, 8 << 20
_NEW, _OLD, _DRAFT, _PLAN, _PART = b"new", b"old", b"draft", b"plan", b"part"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_MAKE = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
_OWN = 0o700
_ABSENT = (FileNotFoundError, NotADirectoryError)
_ESCAPED = re.compile(rb"\\([0-7]{3})")
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
#: The section of files in the plan of which only the metadata is set, and the data of others.
_IN_PLACE, _INODE = Section(True, 0, 0), Struct("<Q")


class How(Enum):
    """How a path is changed."""

    REMOVED = "removed"
    #: It goes with a directory above it.
    TAKEN_ALONG = "taken along"
    PLACED = "placed"
    #: A directory that is made, or has something changed in it, or a file with other metadata.
    SET = "set"


class Step(NamedTuple):
    """A path that is changed: how, what it is to be, what it is, and what a chain has of it.

    Of a directory without `is_changed` only the time is set again.
    """

    how: How
    entry: PastEntry
    now: PastEntry
    found: Sequence[Change | None] = ()
    is_changed: bool = True
    #: For a further name: the first one is put into place, too.
    is_relinked: bool = False


@define
class Difference:
    """The difference of a server's files from a point: the number of its entries and their paths.

    They are as in the point `newest`. `size` are the bytes of files that are written, `total`
    those of all that are wanted, `paths` at most `MOST_LISTED` of the paths. `damaged` are files
    that are known to be damaged in the history: they do not become as at the point. `kept` are
    files that stay: they were unsettled then, so the point does not have them. `has_links` is true
    where files are to have further names, or symlinks are to be made.
    """

    newest: int
    entries: int = 0
    size: int = 0
    total: int = 0
    paths: list[bytes] = field(factory=list)
    damaged: list[bytes] = field(factory=list)
    kept: list[bytes] = field(factory=list)
    has_links: bool = False
    _listed: int = field(init=False, default=0, eq=False)

    def count(self, step: Step) -> None:
        """Count a path."""
        if not step.is_changed:
            return
        self.entries += 1
        if len(self.paths) < MOST_LISTED and self._listed < _LISTED_BYTES:
            self.paths.append(step.entry.path)
            self._listed += len(step.entry.path)
        if step.how is How.PLACED and isinstance(step.entry, PastFile):
            self.size += step.entry.size

    def add_unchanged(self, drafted: Difference, replaced: Difference) -> None:
        """Add what the draft has counted, but what it has counted of paths that count here."""
        self.entries += drafted.entries - replaced.entries
        self.size += drafted.size - replaced.size
        self.total += drafted.total - replaced.total
        paths = {*drafted.paths}.difference(replaced.paths).union(self.paths)
        self.paths = sorted(paths, key=tree_key)[:MOST_LISTED]
        self.kept = drafted.kept


def difference(store: HistoryStore, wanted: Wanted, lost: Collection[bytes] = ()) -> Difference:
    """Return how the newest point differs from what is wanted.

    The files that are `lost` differ from both. Raises as `HistoryStore.opened`.
    """
    damaged = frozenset(store.damaged.get(wanted.number, ()))
    with (
        storage_errors(f"point {wanted.number} of the history cannot be read"),
        store.opened(wanted.number) as (chain, _),
    ):
        found = Difference(chain[0].point.number)
        unsettled = chain[-1].point.unsettled
        for step in _steps(wanted.entries(chain), wanted, unsettled, lost, found):
            store.check()
            found.count(step)
            if step.how is How.PLACED and step.entry.path in damaged:
                found.damaged.append(step.entry.path)
    return found


def _steps(
    entries: Iterable[WantedEntry],
    wanted: Wanted,
    unsettled: Collection[bytes],
    lost: Collection[bytes],
    count: Difference,
) -> Iterator[Step]:
    """Yield what is to be changed of what is there `now`, as the entries say; sorted by path.

    The server has the files that are `lost`, with contents that are not known; `unsettled` are
    those of the wanted point. The bytes of all that is wanted are counted, and present files that
    stay since they were unsettled.
    """
    placed, way = set[bytes](), _Way()
    unsettled, taken = frozenset(unsettled), b""
    unknown = ((path, True) for path in sorted(lost, key=tree_key))
    known = ((each.path, each) for each in entries)
    # files are lost rarely, and joining takes a while
    rows = joined(known, unknown) if lost else ((path, (each, None)) for path, each in known)
    for path, (found_entry, is_unknown) in rows:
        nothing = PastNothing(path)
        each = found_entry or WantedEntry(path, nothing, nothing, (), wanted.keeps_present)
        _, now, entry, found, is_kept = each
        if path in unsettled and _would_go(each, count.kept) and not wanted.is_left_out(path):
            entry, is_kept = now, True
            count.kept.append(path)
        is_lost = is_unknown is not None and not is_kept
        if isinstance(entry, PastFile):
            count.total += entry.size
        # a further name of a file that is replaced leads to the new one
        is_relinked = isinstance(entry, PastHardLink) and _digest(entry.first) in placed
        is_changed = entry != now or is_relinked or is_lost
        is_link = isinstance(entry, PastHardLink) or (is_changed and isinstance(entry, PastLink))
        count.has_links = count.has_links or is_link
        if taken and path.startswith(taken) and isinstance(entry, PastNothing):
            if is_changed:
                yield Step(How.TAKEN_ALONG, entry, now)
            continue
        yield from way.to(entry, is_changed=is_changed)
        if not is_changed:
            continue
        if isinstance(now, PastDirectory) and not isinstance(entry, PastDirectory):
            taken = path + b"/"
        step = Step(_how(entry, now), entry, now, found, True, is_relinked)
        if is_lost and step.how is How.SET and isinstance(entry, PastFile):
            step = step._replace(how=How.PLACED)
        if step.how is How.PLACED:
            placed.add(_digest(path))
        yield step


def _would_go(each: WantedEntry, kept: Collection[bytes]) -> bool:
    """Return whether a present file, or a further name of one that is kept, would be removed."""
    now = each.now
    is_file = isinstance(now, PastFile) or (isinstance(now, PastHardLink) and now.first in kept)
    return is_file and isinstance(each.entry, PastNothing)


class _Way:
    """The directories on the way to a path; in each of them something changes, or nothing yet."""

    def __init__(self) -> None:
        self._above: list[PastDirectory] = []
        self._yielded = 0

    def to(self, entry: PastEntry, *, is_changed: bool) -> Iterator[Step]:
        """Go to a path; where it is changed, yield the directories that were not yielded yet."""
        above = self._above
        while above and above[-1].path and not entry.path.startswith(above[-1].path + b"/"):
            above.pop()
        self._yielded = min(self._yielded, len(above))
        if is_changed:
            for each in above[self._yielded :]:
                yield Step(How.SET, each, each, is_changed=False)
            self._yielded = len(above)
        if isinstance(entry, PastDirectory):
            above.append(entry)
            self._yielded += is_changed


def _how(entry: PastEntry, now: PastEntry) -> How:
    if isinstance(entry, PastNothing):
        return How.REMOVED
    if isinstance(entry, PastDirectory):
        return How.SET
    if isinstance(entry, PastFile) and isinstance(now, PastFile) and entry.digest == now.digest:
        return How.SET
    return How.PLACED


@define(eq=False, repr=False, slots=False)
class Rewriting:
    """Brings `directory`, a server's, to a point. A context.

    `place` is a path on the same file system, where an earlier one may have left its work. `owner`
    gets the files, None for the process's own ids. `check` is called again and again, with the
    bytes that were written since the last call, and may raise. With `skips_damaged` files stay as
    they are that are damaged in the history. Methods raise StorageError.
    """

    _directory: str
    _place: str
    _owner: Owner | None = None
    _check: Callable[[int], None] = lambda size: None
    _durable: bool = field(default=True, kw_only=True)
    _skips_damaged: bool = field(default=False, kw_only=True)
    _stack: ExitStack = field(init=False, factory=ExitStack)

    def __enter__(self) -> Rewriting:
        with self._stack, storage_errors(f"{self._place} cannot be used"):
            self._server = self._stack.enter_context(opened(self._directory))
            for name in (b"", _NEW, _OLD):
                with suppress(FileExistsError):
                    os.mkdir(os.path.join(os.fsencode(self._place), name), _OWN)
            self._home = self._opened(os.fsencode(self._place))
            self._new, self._old = self._opened(_NEW), self._opened(_OLD)
            self._directories = OpenDirectories(self._server)
            self._stack.callback(self._directories.close)
            found = os.fstat(self._server)
            self._given = self._owner or (found.st_uid, found.st_gid)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _opened(self, name: bytes) -> int:
        directory = None if os.path.isabs(name) else self._home
        fd = os.open(name, _DIRECTORY, dir_fd=directory)
        return self._stack.enter_context(closing_descriptor(fd))

    @property
    def new(self) -> str:
        """The directory of what was prepared."""
        return os.path.join(self._place, os.fsdecode(_NEW))

    @staticmethod
    def undo_of(place: str) -> int | None:
        """Return the point by which what the plan has can be undone; None without a plan.

        Where it is written, what is in the place is to be kept.
        """
        with storage_errors(f"{place} cannot be read"), suppress(*_ABSENT):
            return _read_plan(place).newer
        return None

    # What is prepared

    def prepare(
        self, store: HistoryStore, wanted: Wanted, lost: Collection[bytes] = ()
    ) -> Difference:
        """Write the files that differ from those of the newest point, if that was not done.

        They are flushed, as is the draft: `commit` does not wait for that. The server may run, and
        has files that are `lost`: it cannot read them. Raises NoSuchPoint, and HistoryDamaged with
        the names of all files that are damaged.
        """
        with storage_errors(f"{self._place} cannot be used"):
            found = self._write_whole_plan(store, wanted, lost, makes_links=False)
            # for these, commit makes the whole plan
            if lost or wanted.keeps_present or found.has_links or found.damaged:
                self._drop_draft()
            else:
                os.rename(_PART, _DRAFT, src_dir_fd=self._home, dst_dir_fd=self._home)
            if self._durable:
                syncfs(self._home)
        return found

    def commit(
        self,
        store: HistoryStore,
        wanted: Wanted,
        lost: Collection[bytes] = (),
        drafted: Difference | None = None,
    ) -> Difference:
        """Prepare what is not prepared yet, and write the plan durably.

        The files are to be as in the newest point, and nothing may change them from then on. With
        `drafted`, which the last `prepare` has returned for the same `wanted`, only what was
        changed since is looked at, where that is enough. A plan that is not known to be durable is
        removed: nothing is to be changed by it.
        """
        with storage_errors(f"{self._place} cannot be used"):
            mounts, found = _mounts_below(self._directory), None
            if drafted is not None and not mounts and not lost:
                found = self._write_amended_plan(store, wanted, drafted)
            if found is None:
                self._drop_draft()
                found = self._write_whole_plan(store, wanted, lost, mounts)
            if self._durable:
                syncfs(self._home)
            os.rename(_PART, _PLAN, src_dir_fd=self._home, dst_dir_fd=self._home)
            try:
                if self._durable:
                    os.fsync(self._home)
            except OSError:
                with suppress(OSError):
                    os.unlink(_PLAN, dir_fd=self._home)
                raise
        return found

    def _drop_draft(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(_DRAFT, dir_fd=self._home)

    def _write_whole_plan(
        self,
        store: HistoryStore,
        wanted: Wanted,
        lost: Collection[bytes],
        mounts: Sequence[bytes] = (),
        *,
        makes_links: bool = True,
    ) -> Difference:
        """Make what differs, links only with `makes_links`, and write a plan to `part`."""
        number = wanted.number
        with (
            storage_errors(f"point {number} of the history cannot be prepared"),
            store.opened(number) as (chain, tree),
            closing(OpenDirectories(tree)) as newest,
        ):
            found, point = Difference(chain[0].point.number), chain[-1].point
            steps = _steps(wanted.entries(chain), wanted, point.unsettled, lost, found)
            made = self._made(steps, chain, newest, found, makes_links=makes_links)
            self._write(made, found.newest, point, mounts)
        if found.damaged and not self._skips_damaged:
            raise HistoryDamaged(
                f"point {number}",
                f"{display_all(found.damaged)} cannot be rebuilt; wingsctl rewind "
                "--skip-damaged leaves such files as they are now",
            )
        return found

    def _write_amended_plan(
        self, store: HistoryStore, wanted: Wanted, drafted: Difference
    ) -> Difference | None:
        """Make what was changed since the draft, and write only that to `part`.

        A path that the draft lacks was as wanted in the point `drafted.newest`. Returns None where
        there is no such draft, too much was changed, or something is damaged.
        """
        with (
            suppress(FileNotFoundError, HistoryDamaged, NoSuchPoint),
            store.opened(drafted.newest) as (chain, tree),
            closing(OpenDirectories(tree)) as newest,
        ):
            draft = _read_plan(self._place, _DRAFT)
            if (draft.point.number, draft.newer) != (wanted.number, drafted.newest):
                return None
            # what is damaged is found before the exchange begins
            draft.check_entries()
            draft.data(0, draft.data_bytes)
            if (paths := _paths_since(chain)) is None:
                return None
            rows, size = [], 0
            for row in _changed_since(chain, draft, paths, drafted.kept):
                rows.append(row)
                size += _length(row[0].now) + _length(row[0].entry) + _length(row[1])
                if size > _AMENDED_BYTES:
                    return None
            point, kept = draft.point, [path for path in drafted.kept if path not in paths]
            replaced = Difference(drafted.newest, kept=[*kept])
            as_drafted = (each._replace(now=then) for each, then in rows)
            for step in _steps(as_drafted, wanted, point.unsettled, (), replaced):
                replaced.count(step)
            found = Difference(chain[0].point.number, kept=kept)
            steps = _steps((each for each, _ in rows), wanted, point.unsettled, (), found)
            self._write(self._made(steps, chain, newest, found), found.newest, point)
            # further names that were not changed stay, or go, with the files that do
            if found.damaged or {*found.kept} != {*drafted.kept}:
                return None
            found.add_unchanged(drafted, replaced)
            return found
        return None

    def _made(
        self,
        steps: Iterable[Step],
        chain: Sequence[FormReader],
        newest: OpenDirectories,
        found: Difference,
        *,
        makes_links: bool = True,
    ) -> Iterator[tuple[Step, int | None]]:
        """Make what is put into place; yield the steps of a plan, with the inode numbers of files.

        They are counted in `found`, which gets the files that are damaged in the history.
        """
        damaged = set[bytes]()
        for each in steps:
            step, inode = each, None
            if step.how is How.PLACED:
                inode = self._make(step, chain, newest, damaged)
                if inode is None:
                    damaged.add(step.entry.path)
                    if not isinstance(step.now, PastDirectory):
                        continue
                    step = Step(How.REMOVED, PastNothing(step.entry.path), step.now)
            found.count(step)
            if makes_links and isinstance(step.entry, PastLink):
                self._make_symlink(step.entry)
            elif makes_links and isinstance(step.entry, PastHardLink):
                self._make_link(step, step.entry)
            if step.how is not How.TAKEN_ALONG:
                yield step, inode
        found.damaged = sorted(damaged)

    def _write(
        self,
        made: Iterable[tuple[Step, int | None]],
        newest: int,
        point: Point,
        mounts: Sequence[bytes] = (),
    ) -> None:
        """Write a plan from the point `newest` to the wanted one."""
        with closing_descriptor(os.open(_PART, _MAKE, 0o600, dir_fd=self._home)) as fd:
            writer = FormWriter(fd, FormKind.DELTA, point.number, newest)
            for step, inode in made:
                _check_mounts(step, mounts)
                section = None
                if isinstance(step.entry, PastFile):
                    section = _IN_PLACE
                    if inode is not None:
                        section = Section(False, writer.data_bytes, _INODE.size)
                        writer.data(_INODE.pack(inode))
                writer.add(step.entry, section)
            writer.finish(point)

    def _make(
        self,
        step: Step,
        chain: Sequence[FormReader],
        newest: OpenDirectories,
        damaged: Collection[bytes],
    ) -> int | None:
        """Make a file, unless that was done; return its inode number, 0 of what is no file.

        None where its contents are damaged in the history.
        """
        entry = step.entry
        if not isinstance(entry, PastFile):
            return None if isinstance(entry, PastHardLink) and entry.first in damaged else 0
        # what was a further name may get the contents of the newest point
        if not isinstance(step.now, PastHardLink):
            with suppress(FileNotFoundError):
                own = _name(entry.path)
                return os.stat(own, dir_fd=self._new, follow_symlinks=False).st_ino
        with suppress(HistoryDamaged):
            return self._make_file(entry, contents_of(chain, step.found), newest)
        return None

    def _make_link(self, step: Step, entry: PastHardLink) -> None:
        source, first = self._new, _name(entry.first)
        if not step.is_relinked:
            source, first = self._directories.place(entry.first)
        fds = {"src_dir_fd": source, "dst_dir_fd": self._new}
        os.link(first, _name(entry.path), **fds, follow_symlinks=False)

    def _make_symlink(self, entry: PastLink) -> None:
        """Make a symlink. It has the project of `new` only from when that has the server's."""
        name = _name(entry.path)
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._new)
        os.symlink(entry.target, name, dir_fd=self._new)
        if self._owner is not None:
            os.chown(name, *self._owner, dir_fd=self._new, follow_symlinks=False)
        times = (entry.mtime, entry.mtime)
        os.utime(name, ns=times, dir_fd=self._new, follow_symlinks=False)

    def _make_file(self, entry: PastFile, contents: Contents, newest: OpenDirectories) -> int:
        with closing_descriptor(os.open(_PART, _MAKE, 0o600, dir_fd=self._new)) as fd:
            write_file(fd, entry, contents, newest, lambda: self._check(0))
            self._set(fd, entry)
            inode = os.fstat(fd).st_ino
        os.rename(_PART, _name(entry.path), src_dir_fd=self._new, dst_dir_fd=self._new)
        self._check(entry.size)
        return inode

    # What is changed

    def apply(self) -> None:
        """Change what the plan has. Blocks no longer than renaming takes, and one flush.

        Raises HistoryDamaged where the plan, or the draft, cannot be read.
        """
        path: bytes = b""
        try:
            late: list[PastDirectory] = []
            for entry, section, form in _planned(self._place):
                path = entry.path
                if isinstance(entry, PastNothing):
                    with _missing_allowed():
                        self._displace(path)
                elif isinstance(entry, PastDirectory):
                    self._make_directory(path)
                    late.append(entry)
                elif section == _IN_PLACE and isinstance(entry, PastFile):
                    self._set_file(entry)
                else:
                    self._put_into_place(path, _inode(form, section))
            for directory in reversed(late):
                path = directory.path
                self._set_directory(directory)
            path = b""
            if self._durable:
                syncfs(self._server)
        except OSError as error:
            what = display(path) if path else self._directory
            raise StorageError(f"{what} cannot be changed: {disk_advice(error)}") from error
        finally:
            self._directories.close()

    def _stat(self, path: bytes) -> os.stat_result:
        if not path:
            return os.fstat(self._server)
        parent, name = self._directories.place(path)
        return os.stat(name, dir_fd=parent, follow_symlinks=False)

    def _open_up(self, path: bytes, found: os.stat_result) -> None:
        """Let this process change a directory, whose mode is set at the end."""
        if found.st_mode & _OWN != _OWN:
            parent, name = self._directories.place(path or b".")
            os.chmod(name, stat.S_IMODE(found.st_mode) | _OWN, dir_fd=parent)

    def _displace(self, path: bytes) -> None:
        found = self._stat(path)
        if stat.S_ISDIR(found.st_mode):
            self._open_up(path, found)
            self._directories.close()
        parent, name = self._directories.place(path)
        # A program that has survived the stop may make again what was moved away.
        names = chained((_name(path),), (b"%b.%d" % (_name(path), each) for each in count(1)))
        old = next(each for each in names if not _exists(self._old, each))
        os.rename(name, old, src_dir_fd=parent, dst_dir_fd=self._old)

    def _make_directory(self, path: bytes) -> None:
        with _missing_allowed():
            found = self._stat(path)
            if stat.S_ISDIR(found.st_mode):
                self._open_up(path, found)
                return
            self._displace(path)
        parent, name = self._directories.place(path)
        os.mkdir(name, _OWN, dir_fd=parent)

    def _put_into_place(self, path: bytes, inode: bytes | None) -> None:
        """Put what was prepared for a path into its place, if that was not done before.

        A file is the one with that inode number. It changes places with the present one, since
        freeing the space of that takes longer.
        """
        own = _name(path)
        try:
            found = os.stat(own, dir_fd=self._new, follow_symlinks=False)
        except FileNotFoundError:
            return
        parent, name = self._directories.place(path)
        if inode is not None:
            if _INODE.pack(found.st_ino) != inode:
                return
            # where nothing is there, or the file system has no exchange, it is renamed
            with suppress(OSError):
                renameat2(self._new, own, parent, name, RENAME_EXCHANGE)
                return
        try:
            os.rename(own, name, src_dir_fd=self._new, dst_dir_fd=parent)
        except IsADirectoryError:
            self._displace(path)
            parent, name = self._directories.place(path)
            os.rename(own, name, src_dir_fd=self._new, dst_dir_fd=parent)

    def _set_file(self, entry: PastFile) -> None:
        with _missing_allowed(), closing_descriptor(self._directories.open_file(entry.path)) as fd:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                self._set(fd, entry)

    def _set_directory(self, entry: PastDirectory) -> None:
        parts = tuple(entry.path.split(b"/")) if entry.path else ()
        parent = self._directories.get(parts, make=False)
        with closing_descriptor(os.open(b".", os.O_RDONLY, dir_fd=parent)) as fd:
            self._set(fd, entry)

    def _set(self, fd: int, entry: PastFile | PastDirectory) -> None:
        """Give an open file or directory the metadata of an entry."""
        clear_attributes(fd)
        if self._owner is not None:
            os.fchown(fd, *self._owner)
        if entry.attributes:
            write_attributes(fd, entry.attributes, entry.mode, self._given)
        else:
            os.fchmod(fd, entry.mode)
        os.utime(fd, ns=(entry.mtime, entry.mtime))

    # What came of it

    def differing(self) -> list[bytes]:
        """Return the paths that are not as the plan has them, by names and metadata, at most some.

        Contents are not read: a file that was put into place had its digest and attributes when it
        was made, and has the same inode number. Files that were not changed are not looked at: as
        they are now, they are in the newest point.
        """
        attributes = AttributeReader(self._given, EVERYTHING)
        with storage_errors(f"{self._directory} cannot be compared"):
            found = (
                entry.path
                for entry, section, form in _planned(self._place)
                if not self._is_as(entry, _inode(form, section), attributes)
            )
            return list(islice(found, MOST_LISTED))

    def _is_as(self, entry: PastEntry, inode: bytes | None, attributes: AttributeReader) -> bool:
        path = entry.path
        now: PastEntry | None = None
        try:
            parent, name = self._directories.place(path or b".")
            if isinstance(entry, PastFile) and inode is not None and not entry.attributes:
                found = os.stat(name, dir_fd=parent, follow_symlinks=False)
                mode, _ = member_mode(stat.S_IMODE(found.st_mode))
                meta = (mode, clamped_mtime(found), found.st_size)
                is_same = meta == (entry.mode, entry.mtime, entry.size)
                return is_same and _INODE.pack(found.st_ino) == inode
            if isinstance(entry, PastFile | PastDirectory):
                with closing_descriptor(os.open(name, FILE_FLAGS, dir_fd=parent)) as fd:
                    now = _now(fd, entry, attributes)
            elif isinstance(entry, PastHardLink):
                return os.path.samestat(self._stat(path), self._stat(entry.first))
            elif stat.S_ISLNK((found := self._stat(path)).st_mode):
                target = os.readlink(name, dir_fd=parent)
                now = PastLink(path, clamped_mtime(found), target)
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise
            return isinstance(entry, PastNothing)
        return now == entry


def _now(fd: int, entry: PastFile | PastDirectory, attributes: AttributeReader) -> PastEntry:
    """Return what an open file or directory is now, but for the contents of a file."""
    found = os.fstat(fd)
    mode, _ = member_mode(stat.S_IMODE(found.st_mode))
    value, mode = attributes.read(fd, found, mode)
    if stat.S_ISDIR(found.st_mode):
        return PastDirectory(entry.path, mode, clamped_mtime(found), value)
    digest = entry.digest if isinstance(entry, PastFile) else b""
    return PastFile(entry.path, mode, clamped_mtime(found), found.st_size, digest, value)


def _read_plan(place: str, name: bytes = _PLAN) -> FormReader:
    path = os.path.join(place, os.fsdecode(name))
    return FormReader.at(path, path)


def _planned(place: str) -> Iterator[tuple[PastEntry, Section | None, FormReader]]:
    """Yield what is to be changed, and the form that has the data of its section."""
    forms = [_read_plan(place)]
    with suppress(FileNotFoundError):
        forms.append(_read_plan(place, _DRAFT))
    for _, found in overlaid(forms):
        for form, change in zip(forms, found, strict=True):
            if change is not None:
                yield *change, form
                break


def _inode(form: FormReader, section: Section | None) -> bytes | None:
    """Return the inode number of a file that is put into place, None of anything else."""
    if section is None or section == _IN_PLACE:
        return None
    return form.data(section.offset, section.length)


def _paths_since(chain: Sequence[FormReader]) -> set[bytes] | None:
    """Return the paths that were changed after the last point of a chain, and all above them.

    Returns None if they are too many.
    """
    paths, size = set[bytes](), 0
    for entry, _ in chained.from_iterable(delta.entries() for delta in chain[1:]):
        path = entry.path
        while path not in paths:
            paths.add(path)
            size += len(path)
            if len(paths) > MOST_AMENDED or size > _AMENDED_BYTES:
                return None
            path = dirname(path)
    return paths


def _changed_since(
    chain: Sequence[FormReader], draft: FormReader, paths: Collection[bytes], kept: Sequence[bytes]
) -> Iterator[tuple[WantedEntry, PastEntry]]:
    """Yield what is wanted at these paths, and what was there when the draft was written.

    At paths of files that were `kept` the wanted point has nothing: `_steps` decides again
    whether they stay. Raises HistoryDamaged.
    """
    select, kept_paths, removed = only(*paths), frozenset(kept), b""
    changes = ((change[0].path, change) for change in draft.entries(select))
    for path, (found, change) in joined(overlaid(chain, select), changes):
        if found is None:
            raise HistoryDamaged(f"point {chain[-1].point.number}", "a path has no directory")
        now = found[0][0] if found[0] is not None else PastNothing(path)
        entry = then = last_of(found)
        if change is not None:
            entry = change[0]
            removed = removed if isinstance(entry, PastDirectory) else path + b"/"
        elif path in kept_paths or (removed and path.startswith(removed)):
            entry = PastNothing(path)
        yield WantedEntry(path, now, entry, found), then


def _length(entry: PastEntry) -> int:
    """Return the bytes of an entry that may be many: its path, target and attributes."""
    return sum(len(each) for each in entry if isinstance(each, bytes))


def _mounts_below(directory: str) -> list[bytes]:
    """Return the paths in a directory at which something is mounted; see proc_pid_mountinfo(5)."""
    above = os.fsencode(os.path.realpath(directory)) + b"/"
    rows = Path("/proc/self/mountinfo").read_bytes().splitlines()
    places = (_ESCAPED.sub(lambda code: bytes([int(code[1], 8)]), row.split()[4]) for row in rows)
    return [place.removeprefix(above) for place in places if place.startswith(above)]


def _check_mounts(step: Step, mounts: Sequence[bytes]) -> None:
    """Raise StorageError where something that is mounted would be changed, or moved away."""
    path = step.entry.path
    for mount in mounts if step.is_changed else ():
        is_moved = step.how is not How.SET and mount.startswith(path + b"/")
        if is_moved or (path + b"/").startswith(mount + b"/"):
            raise StorageError(
                f"something is mounted at {display(mount)} in the server's directory; unmount it, "
                "and try again"
            )


def _digest(path: bytes) -> bytes:
    """Return what stands for a path in memory: it may have 16 KiB."""
    return sha256(path).digest()


def _name(path: bytes) -> bytes:
    return sha256(path).hexdigest().encode()


def _exists(directory: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


@contextmanager
def _missing_allowed() -> Iterator[None]:
    """Do nothing where a path does not exist, or leads through something else."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
