"""Backups that are points of their servers' histories: `system.backups.wings.kind: history`.

A point gets the backup's UUID as a name, and stays as long as it has that. The name has the
backup's ignore list: the point has all files, and what the list has is left out when the backup is
restored or downloaded. `wingsd.histories.manager` and what it needs are imported where a backup is
made, read or deleted, since a node without histories saves their memory.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import attrs
from twisted.logger import Logger

from wingsd.archive.compress import ArchiveFormat, Compression, compressed, compressor
from wingsd.archive.policy import MAX_DEPTH
from wingsd.archive.quota import free_bytes
from wingsd.config import POINTS
from wingsd.errors import (
    BackupExists,
    BackupIgnoresEverything,
    BadRequest,
    DaemonStopping,
    NoSuchPoint,
    StorageError,
    TreeTooLarge,
    WingsdError,
)
from wingsd.files.denylist import Denylist
from wingsd.files.guard import Progress
from wingsd.files.tasks import Lane
from wingsd.filesystem.new_file import TEMPORARY
from wingsd.filesystem.paths import name_text
from wingsd.filesystem.walk import Listing
from wingsd.histories import HistoriesOnDemand
from wingsd.history.names import PointName, read_names
from wingsd.servers.server import Server
from wingsd.threadio import Outflow, Workers, awaited
from wingsd.util.durable import storage_errors
from wingsd.util.text import display, display_all

if TYPE_CHECKING:
    from wingsd.histories.past import OpenCopy
    from wingsd.history.packing import Batch
    from wingsd.history.store import HistoryStore
    from wingsd.history.wanted import Wanted

CHECKSUM_TYPE = "sha256"
"""The type of a point's checksum, its root, with each Panel."""

MOST_IGNORED = 64 << 10
"""The most characters of the lines that a backup leaves out files by."""

#: What has given the names of backups.
_MAKER = "backup"


@attrs.define
class IgnoreList:
    """Files that are left out of one backup: those of the lines `ignored` and `denied`.

    `name` is that of the first list in the log. `dropped` counts the names that were left out;
    what is in a directory is not counted.
    """

    ignored: Sequence[str] = ()
    denied: Sequence[str] = ()
    name: str = "an ignore list"
    dropped: int = 0
    _ignored: Denylist = attrs.field(init=False)
    _denied: Denylist = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._ignored = Denylist(self.ignored, self.name, exact=True)
        self._denied = Denylist(self.denied)

    @property
    def is_empty(self) -> bool:
        """True where nothing is left out but files that are being written."""
        return self._ignored.is_empty and self._denied.is_empty

    def select(self, listing: Listing) -> Listing:
        """Return what a backup has of a directory; one that is left out is not entered.

        Raises TreeTooLarge for what is so deep that it could not be restored.
        """
        kept = self._selected(listing)
        if len(kept.path) + bool(kept.count) > MAX_DEPTH:
            raise TreeTooLarge.reading(
                f"{display(b'/'.join(kept.path))} is nested too deeply: a backup could not be "
                f"restored with more than {MAX_DEPTH} directories in each other; move it up, "
                "delete it, or add it to the ignore list"
            )
        return kept

    def _selected(self, listing: Listing) -> Listing:
        files = [name for name in listing.files if not TEMPORARY.fullmatch(name)]
        found = attrs.evolve(listing, files=files)
        if self.is_empty:
            return found
        prefix = name_text(listing.prefix)
        return found.filtered(
            lambda name, is_directory: self._keeps(f"{prefix}{name_text(name)}", is_directory)
        )

    def leaves_out(self, path: bytes, is_directory: bool) -> bool:
        """Return whether a path is left out, by itself."""
        if not is_directory and TEMPORARY.fullmatch(path.rpartition(b"/")[2]):
            return True
        return not self.is_empty and not self._keeps(name_text(path), is_directory)

    def _keeps(self, path: str, is_directory: bool) -> bool:
        asked = f"{path}/" if is_directory else path
        is_left_out = self._ignored.matches(asked) or self._denied.matches(asked)
        self.dropped += is_left_out
        return not is_left_out


@attrs.frozen
class PointBackup:
    """A backup of `server` that is a point."""

    server: str
    name: PointName

    @property
    def ignore(self) -> IgnoreList:
        """The files of the point that do not belong to it."""
        which = f"the ignore list of the backup {self.name.name}"
        return IgnoreList(self.name.ignored, self.name.denied, which)


@attrs.frozen
class MadePoint:
    """A new backup. `unsettled` are files that it has as the point before, or not at all."""

    name: PointName
    unsettled: Sequence[bytes]


@attrs.frozen(eq=False, repr=False)
class PointBackups:
    """The backups on this node that are points. The threads `workers` make and read them.

    `downloads` have the threads that pack them for users.
    """

    _histories: HistoriesOnDemand
    _workers: Workers
    _downloads: Lane
    _log = Logger()

    @property
    def is_on(self) -> bool:
        """True if new local backups are points."""
        return self._histories.config.system.backups.wings.kind == POINTS

    # Look

    async def names(self, server: str) -> Mapping[str, PointName]:
        """Return the backups of a server by their UUIDs. Raises StorageError."""
        return await self._histories.names(server)

    async def find(self, server: str, backup: str) -> PointBackup | None:
        """Return a backup of a server, or with an empty `server` of any; None without one.

        Raises StorageError where it is not known whether there is one.
        """
        if server:
            name = (await self.names(server)).get(backup)
            return None if name is None else PointBackup(server, name)
        found, damaged = await self._read()
        for each in found:
            if each.name.name == backup:
                return each
        for error in damaged.values():
            raise error
        return None

    async def check_new(self, server: str, backup: str, ignore: IgnoreList) -> None:
        """Raise BackupExists where a server has this backup already.

        Raises BadRequest for an ignore list that is too long to be stored with each backup.
        """
        if await self.find(server, backup) is not None:
            raise BackupExists
        if sum(map(len, (*ignore.ignored, *ignore.denied))) > MOST_IGNORED:
            raise BadRequest(
                "The list of ignored files is too long.",
                f"it may have {MOST_IGNORED >> 10} KiB; ignore directories in place of files",
            )

    async def all(self, server: str) -> list[PointBackup]:
        """Return the backups of a server. Raises StorageError."""
        return [PointBackup(server, each) for each in (await self.names(server)).values()]

    async def readable(self, server: str = "") -> list[PointBackup]:
        """Return all backups, or those of a server, as far as names are not damaged."""
        found, damaged = await self._read(server)
        for each, error in damaged.items():
            self._log.error(
                "{server}: its backups are not listed: {error}", server=each, error=error
            )
        return found

    async def _read(self, server: str = "") -> tuple[list[PointBackup], dict[str, StorageError]]:
        """Return all backups, or those of a server, and why those of some servers are unknown."""
        servers = [server] if server else await self._histories.all()

        def read() -> tuple[list[PointBackup], dict[str, StorageError]]:
            found: list[PointBackup] = []
            damaged: dict[str, StorageError] = {}
            for each in servers:
                try:
                    names = read_names(self._histories.path(each))
                except StorageError as error:
                    damaged[each] = error
                else:
                    found += [PointBackup(each, name) for name in names.values()]
            return found, damaged

        return await self._histories.look(read)

    # Make and delete

    async def make(
        self, server: Server, backup: str, ignore: IgnoreList, progress: Progress
    ) -> MadePoint:
        """Make a backup of a server: a point that has its name, on stable storage.

        After an error, or when it is cancelled, nothing of it is left, but for the point, which
        goes as others do. Raises what `Histories.make` does, StorageError also for a file that
        cannot be read, and BackupIgnoresEverything.
        """
        # Here, since a node without histories saves their memory.
        from wingsd.history.wanted import Wanted  # noqa: PLC0415

        histories = self._histories.get()
        made: list[PointName] = []
        lost: list[bytes] = []

        def name(store: HistoryStore) -> None:
            progress.check()
            wanted = Wanted(store.points()[0].number, ignore.leaves_out)
            _, unreadable = histories.unsettled(server.uuid)
            lost.extend(path for path in unreadable if not wanted.is_left_out(path))
            if lost:
                raise StorageError(
                    f"{display_all(lost)} cannot be read, since the disk failed: look into the "
                    "kernel's log (dmesg); delete the file, or add it to the ignore list"
                )
            made.append(_named(store, wanted, backup, ignore, self._histories.now(), progress))

        histories.interrupt(server.uuid, only_checks=True)
        try:
            await histories.make(server, None, self._workers, name)
        except BaseException as error:
            if isinstance(error, StorageError) and not lost:
                histories.note_failure(server, error)
            try:
                if await self._histories.has(server.uuid):
                    # In the turn after the thread, which may have gone on.
                    await histories.use(
                        server.uuid, lambda each: each.unname(backup), self._workers
                    )
            except DaemonStopping:  # the next one reports the backup, if it is there
                pass
            except WingsdError as failure:
                self._log.error(
                    "{server}: the point of the backup {backup}, which failed, may stay; delete "
                    "the backup in the Panel: {error}",
                    server=server.uuid,
                    backup=backup,
                    error=failure,
                )
            raise
        written, _ = histories.unsettled(server.uuid)
        return MadePoint(made[0], written)

    async def delete(self, found: PointBackup) -> None:
        """Delete a backup, and later its point where nothing else keeps that.

        Raises StorageError, and ServerBusy where it would wait for long: then it is still there.
        """
        await self._histories.get().unname(found.server, found.name.name, self._workers)

    async def take(self, server: str, name: PointName) -> None:
        """Give a point that has followed its server here the name of a backup, durably.

        Raises NoSuchPoint where it is not here, and StorageError.
        """
        if not await self._histories.has(server):
            raise NoSuchPoint(f"{server} has no history on this node")
        await self._histories.get().use(server, lambda store: store.name(name), self._workers)

    # Download

    async def send(self, found: PointBackup, compression: Compression, to: Outflow) -> None:
        """Write a backup as a tar.gz. No thread waits for its user.

        Raises `FilesBusy`, StorageError, and what the stream does.
        """
        histories, workers = self._histories.get(), self._downloads.workers
        following = self._batches(found)
        packer = compressor(ArchiveFormat.TAR_GZ, compression)
        assert packer is not None  # noqa: S101 - only a tar has none

        def packed(batch: Batch) -> Iterator[bytes]:
            yield from map(packer.compress, batch.pieces())
            if batch.is_last:
                yield packer.flush()

        def read(store: HistoryStore) -> tuple[Batch, OpenCopy]:
            with storage_errors(f"{store.directory} cannot be read"):
                before = free_bytes(store.directory)
                batch = following(store)
                taken = min(batch.size, max(before - free_bytes(store.directory), 0))
            return batch, histories.copies.begin(store.directory, batch.size, taken)

        is_last = False
        async with self._downloads.turn(found.server):
            while not is_last:
                batch, copy = await histories.use(found.server, read, self._workers)
                try:
                    with storage_errors("the backup cannot be read"):
                        blocks = packed(batch)
                        while not await workers.run(to.fill, blocks):
                            await to.drained()
                    is_last = batch.is_last
                finally:
                    await workers.run(batch.close)
                    histories.copies.end(copy)
            await workers.run(to.finish)

    def blocks(
        self, found: PointBackup, workers: Workers | None = None
    ) -> Generator[bytes, None, None]:
        """Yield a backup as a tar. In a thread that is none of those which read it.

        These are the idle threads, or `workers`. Raises StorageError and DaemonStopping.
        """
        read = self._batches(found)

        async def following() -> Batch:
            return await self._histories.get().use(found.server, read, workers)

        is_last = False
        while not is_last:
            batch = awaited(self._histories.reactor, following)
            with closing(batch), storage_errors("the backup cannot be read"):
                yield from batch.pieces()
                is_last = batch.is_last

    def _batches(self, found: PointBackup) -> Callable[[HistoryStore], Batch]:
        """Return what reads the next batch of a backup, as long as its point is still that."""
        # Here, since a node without histories saves their memory.
        from wingsd.history.packing import PointArchive  # noqa: PLC0415
        from wingsd.history.wanted import Wanted  # noqa: PLC0415

        name, user = found.name, self._histories.config.system.user
        wanted = Wanted(name.number, found.ignore.leaves_out)
        archive = PointArchive(wanted, (user.uid, user.gid))

        def read(store: HistoryStore) -> Batch:
            if (store.names or {}).get(name.name) != name:
                raise StorageError(f"the backup {name.name} was deleted meanwhile")
            return archive.next(store)

        return read


@contextmanager
def tar_gz(
    blocks: Generator[bytes, None, None], compression: Compression
) -> Iterator[Iterator[bytes]]:
    """Yield the blocks of a tar as gzip; it is closed at the end."""
    packer = compressor(ArchiveFormat.TAR_GZ, compression)
    assert packer is not None  # noqa: S101 - only a tar has none
    with closing(blocks):
        yield compressed(blocks, packer)


def _named(
    store: HistoryStore,
    wanted: Wanted,
    backup: str,
    ignore: IgnoreList,
    now: float,
    progress: Progress,
) -> PointName:
    """Give the newest point, of which files are `wanted`, the name of a backup. In a thread."""
    # Here, since a node without histories saves their memory.
    from wingsd.history.format import PastDirectory, PastFile  # noqa: PLC0415

    point = store.points()[0]
    files = size = others = 0
    ignore.dropped = 0
    with (
        storage_errors(f"point {point.number} of the history cannot be read"),
        store.opened(point.number) as (chain, _),
    ):
        for each in wanted.entries(chain):
            progress.check()
            if isinstance(each.entry, PastFile):
                files, size = files + 1, size + each.entry.size
            elif each.is_there and not isinstance(each.entry, PastDirectory):
                others += 1
    if ignore.dropped and not files + others:
        raise BackupIgnoresEverything
    given = PointName(
        backup,
        point.number,
        point.root.hex(),
        now,
        _MAKER,
        files,
        size,
        tuple(ignore.ignored),
        tuple(ignore.denied),
    )
    store.name(given)
    return given
