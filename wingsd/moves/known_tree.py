"""The knowledge of the tree since the last round, at the source of a running server's move.

Of directories that are as they were then, all files are settled but for those that it names: so
only the others have to be scanned again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from wingsd.errors import FrameRefused
from wingsd.filesystem.attributes import AttributeReader
from wingsd.moves.nodes import FileNode
from wingsd.moves.scan import ChangedPart, KnownDirectories, Rescan, scan
from wingsd.moves.seen_directories import FoundBeside, SeenDirectories
from wingsd.moves.tree import MoveTree, dirname
from wingsd.moves.unchanged.rule import UnchangedFiles
from wingsd.moves.walk_process import WalkProcess

__all__ = ["LEAST_NAMES", "KnownTree"]

LEAST_NAMES = 100_000
"""Files for which a second process is started: it takes a tenth of a second to begin."""


class KnownTree:
    """Begins rounds by `scan` or `Rescan`; without a `rule` each one is a `scan`.

    It is called for each file that is read while the server runs.
    """

    def __init__(self, rule: UnchangedFiles | None, attributes: AttributeReader) -> None:
        self._rule = rule
        self._attributes = attributes
        #: What the last round has seen, None where that counts for nothing; and the directories
        #: with files that have to be read in the next one, though they be as they were.
        self._seen: SeenDirectories | None = None
        self._unsettled: set[bytes] = set()
        #: How often the rule had forgotten all files then.
        self._forgotten = 0
        #: The same of this round, and whether it is one of what was changed.
        self._next = SeenDirectories()
        self._next_unsettled: set[bytes] = set()
        self._is_part = False

    @property
    def steps(self) -> int:
        """Grows while directories are looked at. From any thread."""
        return self._next.steps

    def scan(self, root: int, warn: Callable[[str], None], scratch: str | None) -> MoveTree:
        """Scan all of it. Raises as `scan.scan`."""
        self._begin(is_part=False)
        return scan(root, warn, self._attributes, scratch, self._next)

    def rescan(
        self,
        root: int,
        warn: Callable[[str], None],
        scratch: str | None,
        *,
        is_final: bool = False,
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
                known = KnownDirectories(seen, self._unsettled, same, found)
                part = Rescan(warn, self._attributes, scratch, now, known).changed(root)
        except FrameRefused:  # a directory was seen twice, or as something else
            return None
        if part is not None and not now.is_whole:
            part.tree.close()
            return None
        return part

    def _begin(self, *, is_part: bool) -> SeenDirectories:
        rule = self._rule
        self._next = SeenDirectories() if rule is None else SeenDirectories(rule.settles)
        self._next_unsettled, self._is_part = set(), is_part
        return self._next

    # While files are read

    def before_reading(self, fd: int) -> os.stat_result:
        """See `UnchangedFiles`."""
        assert self._rule is not None  # noqa: S101 - it runs
        return self._rule.before_reading(fd)

    def after_reading(self, fd: int, node: FileNode, first: os.stat_result) -> bool:
        """See `UnchangedFiles`."""
        assert self._rule is not None  # noqa: S101 - it runs
        is_settled = self._rule.after_reading(fd, node, first)
        if not is_settled:
            self.not_settled(node.names[0])
        return is_settled

    def not_settled(self, path: bytes) -> None:
        """Note a file that has to be read in the next round, whether it is changed or not."""
        self._next_unsettled.add(dirname(path))

    # After a round

    def read_all(self) -> None:
        """Note that the tree of the last round is now what this one has scanned and read."""
        if self._rule is not None and self._next.is_whole:
            self._seen, self._unsettled = self._next, self._next_unsettled
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
