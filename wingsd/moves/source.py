"""The source of one move: the parts of a directory that the destination lacks, in batches.

Blocking; calls come one at a time. Each round begins with `scan`, then come the pages of what the
destination holds, `plan`, the batches, `root`, and `closed` when the destination has the same. A
round after one that was closed may be planned without pages: the destination has the same tree. Of
a running server only what was changed since is scanned then, and put in place when it was read.

Of a stopped server, what was read in an earlier round and arrived is not read again. While a
server runs, files are sent as they were read, changed or not, and only those that the rule of
`UnchangedFiles` proves unchanged are not read again, then or in the final pass.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import wraps
from threading import Lock
from typing import Concatenate, ParamSpec, TypeVar

from attrs import frozen

from wingsd.archive.policy import attributes_line
from wingsd.errors import FrameRefused, SourceFileChanged
from wingsd.filesystem.attributes import EVERYTHING, MOST, AttributeReader, AttributesKept
from wingsd.filesystem.walk import opened, opened_again
from wingsd.moves.filling import Batch, BatchFiller, ContentReader, FramedData
from wingsd.moves.nodes import FileNode
from wingsd.moves.plan import FileContent, plan, put_in_place
from wingsd.moves.scan import ChangedPart, Rescan, Scan, first_difference
from wingsd.moves.seen_directories import FoundBeside, SeenDirectories
from wingsd.moves.tree import HeldTree, MoveTree, Resumption, dirname, held_limits
from wingsd.moves.unchanged import KERNEL, KernelCalls, MeasuredFileSystems, UnchangedFiles
from wingsd.moves.walk_process import WalkProcess
from wingsd.util.durable import storage_errors
from wingsd.util.text import display

LEAST_NAMES = 100_000
"""Files for which a second process is started: it takes a tenth of a second to begin."""


class KnownTree:
    """The knowledge of the tree since the last round, at the source of a running server's move.

    Of directories that are as they were then, all files are settled but for those that it names:
    so only the others have to be scanned again. Rounds begin by `scan` or `Rescan`; without a
    `rule` each one is a `scan`.
    """

    def __init__(
        self, rule: UnchangedFiles | None, attributes: AttributeReader, scratch: str | None
    ) -> None:
        self._rule = rule
        self._attributes = attributes
        self._scratch = scratch
        #: What the last round has seen, None where that counts for nothing.
        self._seen: SeenDirectories | None = None
        #: How often the rule had forgotten all files then.
        self._forgotten = 0
        #: The same of this round, and whether it is one of what was changed.
        self._next = SeenDirectories()
        self._is_part = False

    @property
    def steps(self) -> int:
        """Grows while directories are looked at. From any thread."""
        return self._next.steps

    def scan(self, root: int, warn: Callable[[str], None]) -> MoveTree:
        """Scan all of it. Raises as `Scan.run`."""
        self._begin(is_part=False)
        return Scan(warn, self._attributes, self._scratch, self._next).run(root)

    def rescan(
        self, root: int, warn: Callable[[str], None], *, is_final: bool = False
    ) -> ChangedPart | None:
        """Scan what was changed since the last round; None where all is to be scanned.

        A final one takes two cores. Raises as `scan`.
        """
        rule, seen = self._rule, self._seen
        if rule is None or seen is None or rule.forgotten != self._forgotten:
            return None
        now = self._begin(is_part=True)
        same = rule.unchanged_directory
        try:
            with _beside(root, seen if is_final else None) as found:
                rescan = Rescan(warn, self._attributes, self._scratch, now, seen, same, found)
                part = rescan.changed(root)
        except FrameRefused:  # a directory was seen twice, or as something else
            return None
        if part is not None and not now.is_whole:
            part.tree.store.close()
            return None
        return part

    def _begin(self, *, is_part: bool) -> SeenDirectories:
        rule = self._rule
        self._next = SeenDirectories() if rule is None else SeenDirectories(rule.settles)
        self._is_part = is_part
        return self._next

    def not_settled(self, path: bytes) -> None:
        """Note a file that has to be read in the next round, whether it is changed or not."""
        self._next.noted.add(dirname(path))

    # After a round

    def read_all(self) -> None:
        """Note that the tree of the last round is now what this one has scanned and read."""
        if self._rule is not None and self._next.is_whole:
            self._seen = self._next
            self._forgotten = self._rule.forgotten
        else:
            self._seen = None

    def forget(self) -> None:
        """Make the next round scan everything."""
        self._seen = None

    def end_round(self, *, is_final: bool) -> None:
        """Settle what was read of the round."""
        if self._rule is not None and not (self._is_part and is_final):
            self._rule.end(keeps=self._is_part)

    def is_all_of(self, root: int) -> bool:
        """Walk once more; return whether all is as this round has seen it. Raises as `scan`.

        May be called in another thread, when the scan has ended. Only with a rule, that is for a
        server that runs until the end, a second process makes it shorter.
        """
        seen = self._next
        with _beside(root, None if self._rule is None else seen) as found:
            return seen.is_all_of(root, found)


@contextmanager
def _beside(root: int, seen: SeenDirectories | None) -> Iterator[FoundBeside]:
    """Start a process that looks at directories that were seen, where there is much in them."""
    if seen is None or seen.names < LEAST_NAMES or len(os.sched_getaffinity(0)) == 1:
        yield lambda path: None
        return
    with closing(WalkProcess(root, [path for path in seen.digests if path])) as process:
        yield process.take


P = ParamSpec("P")
T = TypeVar("T")

#: How often the names of a running server are read that change too fast to make a tree.
_SCANS = 5


@frozen(eq=False, repr=False)
class LiveSource:
    """The parts that a move of a running server needs: file systems that are trusted, and the log.

    `log` gets a line for each reason why files are read that need not be, from any thread.
    """

    file_systems: MeasuredFileSystems
    log: Callable[[str], None]
    kernel: KernelCalls = KERNEL


class HotFiles:
    """The files that were changed in each of the last two rounds that have ended."""

    def __init__(self) -> None:
        self._earlier: set[int] = set()
        self._last: set[int] = set()
        self._changed: set[int] = set()
        self._is_leaving = False
        #: Bytes of the hot files that are changed in this round, too.
        self.size = 0

    def begin(self, *, leave: bool) -> None:
        """Begin a round; `leave` is whether hot files are left out of it."""
        self._changed, self._is_leaving, self.size = set(), leave, 0

    @property
    def left(self) -> int:
        """The bytes of the files that are left out of this round."""
        return self.size if self._is_leaving else 0

    def leave(self, before: FileNode, node: FileNode) -> bool:
        """Note a file that is to be read; return whether it is left as it was sent."""
        number = before.number
        if not number or before.stamp == node.stamp:
            return False  # it was not changed, but is not settled
        self._changed.add(number)
        is_hot = number in self._last and number in self._earlier
        if is_hot:
            self.size += node.size
        return is_hot and self._is_leaving

    def end(self) -> None:
        """End a round whose files are all at the destination."""
        self._earlier, self._last, self._changed = self._last, self._changed, set()


class SourceStopped(Exception):
    """The source was stopped."""


def _in_turn(
    method: Callable[Concatenate[MoveSource, P], T],
) -> Callable[Concatenate[MoveSource, P], T]:
    """Wait for an abandoned call: it goes on in its thread until it ends."""

    @wraps(method)
    def alone(self: MoveSource, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self._turn:
            return method(self, *args, **kwargs)

    return alone


class MoveSource:
    """Reads the tree in `directory`, of a running server with `live`. `close` must be called.

    `warn` gets a line for what is left out or changed; temporary files, without names, are in
    `scratch`. Extended attributes and ACLs are sent as far as the destination keeps them: `kept`.
    Methods raise StorageError, TreeTooLarge and SourceFileChanged.
    """

    def __init__(
        self,
        directory: str,
        warn: Callable[[str], None],
        live: LiveSource | None = None,
        *,
        scratch: str | None = None,
        kept: AttributesKept = EVERYTHING,
    ) -> None:
        self._turn = Lock()
        self._stack = ExitStack()
        self._root = self._stack.enter_context(opened(directory))
        found = os.fstat(self._root)
        #: The attributes that the destination keeps.
        self.kept = kept
        self._attributes = AttributeReader((found.st_uid, found.st_gid), kept)
        #: The line about attributes that was given last.
        self._line = ""
        self._reader = ContentReader(self._root, self._attributes, self._count)
        self._stack.callback(self._reader.close)
        self._rule: UnchangedFiles | None = None
        if live is not None:
            self._rule = UnchangedFiles(self._root, live.file_systems, live.log, live.kernel)
        self._known = KnownTree(self._rule, self._attributes, scratch)
        self._scratch = scratch
        self._hot = HotFiles()
        self._warn = self._tell = warn
        #: Bytes of files that are read in this round, or need not be; and how many files.
        self.read = self.files = 0
        #: Bytes of all files, as scanned, and of those that the plan has read.
        self.total = self.unread = 0
        #: Bytes of files that change all the time, and of those that the plan leaves as they were
        #: sent for that.
        self.hot = self.left = 0
        #: Seconds that it took to read the names and to plan.
        self.walk_seconds = 0.0
        #: Whether its rounds share flushes of the file system with others.
        self.shares_flushes = False
        #: The bytes of a batch; may be changed at any time.
        self.size = 1 << 20
        self._now = MoveTree()
        #: Where only that was read: what was changed since `_last` was scanned.
        self._part: ChangedPart | None = None
        #: The last tree that was sent from: of files that were read it has the digests.
        self._last = MoveTree()
        #: Whether the server runs, and whether it has not run since `_last` was scanned.
        self._is_running = self._is_quiet = False
        #: Whether something else was found to write since the server's end.
        self._is_written = False
        #: Whether the destination has all of `_last`, so that a plan needs no pages; and whether
        #: this round has sent anything.
        self.can_go_on = self._is_begun = False
        self._held: HeldTree | None = None
        #: What the destination held, by the plan.
        self._before: MoveTree | None = None
        #: Of the last round that has sent anything, and of the one that is planned.
        self._filler = self._next_filler = BatchFiller(self.size)
        self._shapes: Iterator[Batch] = iter(())
        self._data: Iterator[Batch] = iter(())
        self._reading: Generator[FramedData, None, None] | None = None
        self._is_stopped = False

    @_in_turn
    def close(self) -> None:
        """Close every descriptor, and the files of the trees."""
        self._end_round()
        self._last.store.close()
        self._stack.close()
        self._root = -1  # nothing is opened below another descriptor with its number

    def stop(self) -> None:
        """Make the present reading fail soon, by SourceStopped. From any thread."""
        self._is_stopped = True

    @_in_turn
    def hand_over(self, warn: Callable[[str], None], log: Callable[[str], None] | None) -> None:
        """Go on for a later move of the server, with its lines; `log` is that of `LiveSource`."""
        self._is_stopped = False
        self._warn = self._tell = warn
        self._line = ""
        if self._rule is not None and log is not None:
            self._rule.log = log

    def is_of(self, directory: str) -> bool:
        """Return whether the directory at that path is the one that is read."""
        with storage_errors(f"{directory} cannot be read"):
            return os.path.samestat(os.stat(directory), os.fstat(self._root))

    @property
    def steps(self) -> tuple[int, ...]:
        """A value that changes while names are read, compared or made a root. From any thread."""
        return self._known.steps, self._now.store.steps, self._last.store.steps

    @property
    def last(self) -> int:
        """The number of the last batch."""
        return self._filler.number

    @property
    def round(self) -> int:
        """The round that is being sent, or was sent last."""
        return self._filler.round

    @_in_turn
    def scan(self, *, running: bool = False, goes_on: bool = False) -> None:
        """Begin a round: read names and metadata. `running` is whether the server runs.

        `goes_on` is whether it is planned without pages, when `can_go_on`: what was not changed
        since the last round is then only looked at.
        """
        self._end_round()
        self._is_quiet = self._is_quiet and not running
        self._is_written = self._is_written and not running
        self._is_running = running
        if self._rule is not None:
            self._rule.begin(is_final=not running, shares=self.shares_flushes)
        began = time.monotonic()
        warn: Callable[[str], None] = _ignore
        if not running:
            warn, self._warn = self._warn, _ignore  # the same lines in each round
        self._part = (
            self._known.rescan(self._root, warn, is_final=not running)
            if goes_on and self.can_go_on
            else None
        )
        self._now = self._scanned(warn) if self._part is None else self._part.tree
        self.walk_seconds = time.monotonic() - began
        if not goes_on:
            self._held = HeldTree(held_limits(self._now), self._scratch)
        self.total = self._now.bytes if self._part is None else self._last.bytes
        self.read = self.files = 0

    def _scanned(self, warn: Callable[[str], None]) -> MoveTree:
        for _ in range(_SCANS - 1 if self._is_running else 0):
            with suppress(FrameRefused):  # a directory was seen twice, or as something else
                return self._known.scan(self._root, warn)
        return self._known.scan(self._root, warn)

    def was_started(self) -> None:
        """Note that the server has run since the last scan."""
        self._is_quiet = False
        self._known.forget()

    @_in_turn
    def add_page(self, page: bytes) -> None:
        """Take a page of what the destination holds. Raises HeldTreeInvalid."""
        assert self._held is not None  # noqa: S101 - by `scan`
        self._held.add(page)

    @_in_turn
    def plan(self, numbers: Resumption | None = None, *, leave_hot: bool = False) -> None:
        """Compare the tree with what the destination holds. Raises HeldTreeInvalid.

        Without `numbers` that is the last tree, when `can_go_on`. With `leave_hot` files that were
        changed in each of the last two rounds stay as they were sent.
        """
        if numbers is None:
            last, held = self._filler, self._last
            counts = (last.number, last.round, last.shape)
            is_unchanged: Callable[[FileNode, FileNode], bool] = self._is_unchanged
        else:
            assert self._held is not None  # noqa: S101 - by `scan`
            held, is_unchanged = self._held.finish(numbers.file), self._is_held
            counts = (numbers.next - 1, numbers.round - 1, numbers.shape)
            self.can_go_on = False
        self._held, self._before = None, held
        began = time.monotonic()
        self._hot.begin(leave=leave_hot)
        if self._part is not None:
            self._part.narrow(held)
        planned = plan(held, self._now, is_unchanged, self._leave, self._reader.read_mode)
        self._next_filler = BatchFiller(self.size, *counts)
        self.unread, self.hot, self.left = planned.unread, self._hot.size, self._hot.left
        self.total = max(self.total, planned.unread)  # of a part, that of the tree before it
        self.read = self.total - planned.unread
        self._shapes = self._next_filler.shapes(planned)
        self._reading = self._contents(planned.contents)
        self._data = self._next_filler.data(self._reading)
        self.walk_seconds += time.monotonic() - began

    @_in_turn
    def next_shape(self) -> Batch | None:
        """Return the next shape batch, None after the last."""
        self._begin_sending()
        self._filler.size = self.size
        return next(self._shapes, None)

    @_in_turn
    def next_data(self) -> Batch | None:
        """Read and return the next data batch, None after the last."""
        self._begin_sending()
        self._filler.size = self.size
        return next(self._data, None)

    @_in_turn
    def root(self) -> bytes:
        """Return the root, when all was read."""
        if self._part is not None:
            put_in_place(self._last, self._part)
            self._part = None
            self._now.store.close()
            self._now = self._last
            self._is_quiet = not (self._is_running or self._is_written)
        self._known.read_all()
        if not self._is_running:
            self._tell_of_attributes()
        return self._now.root()

    def _tell_of_attributes(self) -> None:
        """Give a line about files of which attributes are left out, if it was not given before."""
        count = self._attributes.without
        if not count:
            return
        is_kept = self.kept.user and self.kept.acls
        reason = "they have too many" if is_kept else "the destination does not keep them"
        line = ("at least " if count == MOST else "") + attributes_line(count, reason)
        if line != self._line:
            self._line = line
            self._tell(line)

    def closed(self) -> None:
        """Note that the destination has the same root."""
        self.can_go_on = True
        self._hot.end()
        self._known.end_round(is_final=not self._is_running)

    @_in_turn
    def rest(self) -> None:
        """Take little memory until the next round, which comes later."""
        self._end_round()
        self._last.store.rest()

    def walk_again(self) -> bool:
        """Return whether all names and stat results are as they were scanned, for `unproven`.

        Also while other calls read and send. False may mean that this is not known.
        """
        with opened_again(self._root) as root:  # a next scan does not wait for this one
            return self._known.is_all_of(root)

    @_in_turn
    def unproven(self, *, is_same: bool = False) -> str:
        """Return what was changed since the scan of the final pass, when all was read.

        Blocks of some files that were not read are compared, and all names and stat results unless
        `is_same`. Where something differs, another final pass is needed; else the text is empty.
        """
        if self._rule is not None and not self._rule.spot_check(self._now):
            self._found_writer()
            return "a file of which no change was seen"
        if is_same:
            return ""
        path = first_difference(self._root, self._now, self._attributes)
        if path is None:
            return ""
        self._known.forget()  # the next pass scans all
        self._found_writer()
        return display(path) if path else "its directory"

    def _found_writer(self) -> None:
        """Make the next final passes read all that is not settled: the writer may go on."""
        self._is_written, self._is_quiet = True, False

    def _begin_sending(self) -> None:
        """Make what was planned the last tree: the destination has the one before no more."""
        if not self._is_begun:
            self._is_begun, self.can_go_on = True, False
            self._filler = self._next_filler
            if self._part is not None:
                return  # what was changed is put in place when it was read
            if self._last is not self._before:
                self._last.store.close()
            self._last = self._now
            self._is_quiet = not (self._is_running or self._is_written)

    def _end_round(self) -> None:
        """Drop what the next round does not need."""
        if self._reading is not None:
            self._reading.close()  # which closes a file
            self._reading = None
        if self._is_begun and not self.can_go_on and self._part is None:
            # what was read of a round that was given up need not be read again; but of a part that
            # is not in place, `_last` has other digests, maybe with the same stamps
            self._known.end_round(is_final=not self._is_running)
        self._is_begun = False
        self._reader.close()  # directories may be others in the next round
        self._shapes = self._data = iter(())
        # at once: an error's traceback may keep them for long
        if self._now is not self._last:
            self._now.store.close()
        if self._before is not None and self._before is not self._last:
            self._before.store.close()
        if self._held is not None:
            self._held.close()
        if self._part is not None:
            self._last.only = None
        self._now, self._held, self._before = MoveTree(), None, None
        self._part = None

    def _contents(self, contents: Iterator[FileContent]) -> Generator[FramedData, None, None]:
        rule = self._rule if self._is_running else None
        for content in contents:
            try:
                is_settled = yield from self._reader.read(content, rule)
            except SourceFileChanged:
                self._found_writer()
                raise
            if not is_settled:
                self._known.not_settled(content.path)
            self.files += 1

    def _leave(self, before: FileNode, node: FileNode) -> bool:
        is_left = self._hot.leave(before, node)
        if is_left:
            self._known.not_settled(node.names[0])
        return is_left

    def _is_held(self, held: FileNode, node: FileNode) -> bool:
        """Return whether the destination holds what was read of a file that is as it was then."""
        if held.blocks.missing or held.size != node.size:
            return False
        self._last.trim()
        read = self._last.find(node.names[0])
        if (
            not isinstance(read, FileNode)
            or read.blocks.missing
            or not self._is_unchanged(read, node)
        ):
            return False
        # of a file that comes as a whole, the metadata comes with it
        if not held.number and (held.mode, held.mtime) != (node.mode, node.mtime):
            return False
        return read.attributes == held.attributes and read.value() == held.value()

    def _is_unchanged(self, read: FileNode, node: FileNode) -> bool:
        """Return whether a file is as it was when it was read; it has the same mode then."""
        if read.seen_as != node.seen_as:
            return False
        node.mode = read.mode  # without an ACL
        if self._rule is None:
            return not self._is_written
        if self._rule.unchanged(read.seen_as, node):
            return True
        if self._is_quiet:  # nothing writes between two final passes
            self._known.not_settled(node.names[0])
        return self._is_quiet

    def _count(self, size: int) -> None:
        if self._is_stopped:
            raise SourceStopped
        self.read += size


def _ignore(_: str) -> None:
    pass
