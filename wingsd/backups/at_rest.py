"""Backups at rest: verified, and rewritten for Wings.

They are verified when an operator asks for it, or regularly. They are rewritten in the form that
Wings can restore before a node goes back to it. The new archive is written beside the old one, and
takes its place when it is complete and on stable storage. A daemon that dies before that leaves
the old one, and its successor removes the part, or completes the exchange if that had begun. An
archive that is in that form stays. Of a backup that is a point of a history an archive is made,
which takes its place.

The daemon does this, and not `wingsctl` itself: it knows which backups are in use, and keeps
transfers, restores and deletions of the server from using one meanwhile.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, suppress
from functools import partial

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.archive.compress import ArchiveFormat
from wingsd.archive.decompress import decompressed
from wingsd.archive.pipeline import Blocks, joined
from wingsd.archive.policy import Kind, link_text, member_kind, member_path
from wingsd.archive.quota import ArchiveLimits
from wingsd.archive.regular_files import RegularFiles, has_only_files
from wingsd.archive.tar_reader import TarReader
from wingsd.backups.catalogue import COMPLETE, DAMAGED, VERSION, Catalogue
from wingsd.backups.creation import (
    Backups,
    NewArchiveFile,
    check_space,
    keep_pace,
    new_part,
)
from wingsd.backups.points import PointBackup, tar_gz
from wingsd.backups.store import BackupStore, StoredBackup
from wingsd.config import CALAGOPUS
from wingsd.errors import (
    ArchiveError,
    BackupIsPoint,
    BackupMissing,
    BackupNotForWings,
    FileWorkCancelled,
    StorageError,
    WingsdError,
)
from wingsd.files.guard import Progress
from wingsd.filesystem.directory import OpenFile
from wingsd.servers.operations import Operation
from wingsd.servers.registry import Servers
from wingsd.servers.server import Server
from wingsd.statedb import TO_SEND
from wingsd.util.deferreds import failure_logger
from wingsd.util.durable import storage_errors
from wingsd.util.reactor import Periodic
from wingsd.util.text import reading_advice

#: Seconds between two looks for a backup that is due.
HOUR = 3600.0
_DAY = 24 * HOUR
#: The suffixes of formats of which only the checksum is verified here.
UNREAD = ("tar.lz", "zip", "7z")
_BLOCK = 240 << 10
#: Checks, and rewrites, that have ended and are kept in memory.
_KEPT = 100


@attrs.frozen
class VerifiedBackup:
    """The result of a check: the archive's bytes, SHA-256 and regular files, and its `fault`.

    `files` is None where the members were not read. `fault` is empty when the archive can be
    extracted and agrees with its catalogue, if it has one.
    """

    bytes: int
    sha256: str
    files: int | None
    fault: str = ""


@attrs.define(eq=False)
class BackupCheck:
    """A check of one backup: how far it is, and its `result`, None before its end."""

    found: StoredBackup
    progress: Progress = attrs.field(factory=Progress)
    result: VerifiedBackup | None = None


class BackupChecks:
    """Checks backups, one at a time: when asked to, and each by itself after `days` (0: never).

    `limit` are the bytes a second that a check by itself reads. `now` is Unix time.
    """

    _log = Logger()

    def __init__(self, backups: Backups, days: int, limit: int, now: Callable[[], float]) -> None:
        self._backups = backups
        self._days = days
        self._limit = limit
        self._now = now
        #: Held by what reads or replaces a backup at rest, which is one at a time.
        self.lock = DeferredLock()
        self._checks: dict[str, BackupCheck] = {}
        self._ended: dict[str, BackupCheck] = {}
        #: The UUIDs of the backups that were found to be damaged, and are still there.
        self.damaged: set[str] = set()
        #: When a check by itself has failed, by the backup's UUID.
        self._failures: dict[str, float] = {}
        #: How many checks have ended.
        self.count = 0
        # An error must not end the loop.
        self._regular = Periodic(
            backups.reactor,
            lambda: Deferred.fromCoroutine(self._check_due()).addErrback(self._failed, ""),
        )

    def start(self) -> None:
        """Begin to check backups by themselves, if that is configured."""
        if self._days:
            self._regular.start(HOUR)

    def stop(self) -> None:
        """Cancel all checks."""
        self._regular.stop()
        for check in self._checks.values():
            check.progress.cancel()

    async def begin(self, backup: str) -> BackupCheck:
        """Begin to check a backup, or join the check that is under way.

        Raises BackupMissing, BackupIsPoint, StorageError.
        """
        if backup in self._checks:
            return self._checks[backup]
        found = await self._backups.disk.run(self._backups.store.find, "", backup)
        if found is None:
            if (point := await self._backups.points.find("", backup)) is not None:
                raise BackupIsPoint(backup, point.name.number, point.server)
            raise BackupMissing(backup)
        if backup not in self._checks:
            check = self._checks[backup] = BackupCheck(found)
            Deferred.fromCoroutine(self._run(check, 0)).addErrback(self._failed, backup)
        return self._checks[backup]

    def last(self, backup: str) -> BackupCheck:
        """Return the check of a backup that is under way, or has ended last.

        Raises BackupMissing where there was none.
        """
        found = self._checks.get(backup) or self._ended.get(backup)
        if found is None:
            raise BackupMissing(backup)
        return found

    async def _run(self, check: BackupCheck, limit: int) -> None:
        backup = check.found.uuid
        try:
            async with self.lock:
                await self._check(check, limit)
        except StorageError as error:
            check.result = VerifiedBackup(0, "", None, f"it cannot be read: {error}")
            raise
        finally:
            self._checks.pop(backup, None)
            self._ended[backup] = check
            while len(self._ended) > _KEPT:
                del self._ended[next(iter(self._ended))]

    async def _check(self, check: BackupCheck, limit: int) -> None:
        found, backups = check.found, self._backups
        opened = await backups.disk.run(backups.store.open, found.server, found.uuid)
        if opened is None:
            check.result = VerifiedBackup(0, "", None, "it was deleted meanwhile")
            return
        result = await backups.workers.run(self._verify, *opened, check.progress, limit)
        check.result = result
        self.count += 1
        if not result.fault:
            self.damaged.discard(found.uuid)
            self._log.info("backup {backup}: verified, it is whole", backup=found.uuid)
            return
        self.damaged.add(found.uuid)
        self._log.error(
            "backup {backup} of {server} is DAMAGED: {fault}; {path}",
            backup=found.uuid,
            server=found.server or "an unknown server",
            fault=result.fault,
            path=backups.store.path(found.place),
        )

    def _verify(
        self, found: StoredBackup, file: OpenFile, progress: Progress, limit: int
    ) -> VerifiedBackup:
        store = self._backups.store
        with file:
            verified = verify_archive(found, file, progress, limit)
        catalogue = verified_catalogue(found, verified)
        if catalogue is not None and store.at(found.place) is not None:
            store.write_catalogue(found.place, catalogue)
        return verified

    def _failed(self, failure: Failure, backup: str) -> None:
        if failure.check(StorageError):
            self._log.error(
                "backup {backup}: not verified: {error}", backup=backup, error=failure.value
            )
        elif not failure.check(FileWorkCancelled, CancelledError):
            self._log.failure("backup {backup}: its check failed", failure, backup=backup)

    # By themselves

    async def _check_due(self) -> None:
        found = await self._backups.disk.run(self._backups.store.all)
        made = [each for each in found if each.catalogue is not None]
        self.damaged = {
            each.uuid for each in made if each.catalogue and each.catalogue.state == DAMAGED
        }
        for each in sorted(made, key=self._last):
            if self._now() - self._last(each) < self._days * _DAY:
                return
            if each.uuid not in self._checks:
                check = self._checks[each.uuid] = BackupCheck(each)
                try:
                    await self._run(check, self._limit)
                except (FileWorkCancelled, CancelledError):
                    raise
                except Exception:
                    # The others are checked nevertheless, and it is not tried in each hour.
                    self._failures[each.uuid] = self._now()
                    self._failed(Failure(), each.uuid)

    def _last(self, found: StoredBackup) -> float:
        """Return when a backup was last verified, made, or could not be verified."""
        made = found.catalogue
        last = 0.0 if made is None else max(made.checked, made.made)
        return max(last, self._failures.get(found.uuid, 0.0))


# In a thread


def verify_archive(
    found: StoredBackup, file: OpenFile, progress: Progress, limit: int = 0
) -> VerifiedBackup:
    """Read an open backup to its end, at most `limit` bytes a second (0: any); return what it is.

    Raises FileWorkCancelled.
    """
    progress.bytes_total = found.size
    digest, began = hashlib.sha256(), time.monotonic()

    def blocks() -> Iterator[bytes]:
        while block := file.read(_BLOCK):
            digest.update(block)
            progress.bytes_done += len(block)
            progress.check()
            keep_pace(began, progress.bytes_done, limit, progress)
            yield block

    files, fault = None, ""
    try:
        if found.suffix in UNREAD:
            for _ in blocks():
                pass
        else:
            files = _count_files(blocks())
    except ArchiveError as error:
        fault = error.detail
    except OSError as error:
        fault = f"it cannot be read: {reading_advice(error)}"
    size, sha256 = progress.bytes_done, digest.hexdigest()
    return VerifiedBackup(size, sha256, files, _different(found, size, sha256) or fault)


def _count_files(blocks: Iterator[bytes]) -> int:
    """Return the number of regular files in an archive. Raises ArchiveError."""
    reader = TarReader(Blocks(decompressed(blocks)))
    files = 0
    while (member := reader.next_member()) is not None:
        kind = member_kind(member.typeflag, member.name, member.size)
        member_path(member.name)
        if kind is Kind.FILE:
            files += 1
        elif kind is Kind.SYMLINK:
            link_text(member.link, member.name)
        elif kind is Kind.HARD_LINK:
            member_path(member.link)
    reader.drain()
    for _ in blocks:
        pass
    return files


def _different(found: StoredBackup, size: int, sha256: str) -> str:
    """Return how an archive, of which `size` bytes were read, differs from its catalogue."""
    made = found.catalogue
    if made is None:
        return ""
    if found.size != made.bytes:
        return f"it has {found.size} bytes, and had {made.bytes} when it was made"
    if size == made.bytes and sha256 != made.sha256:
        return "its checksum is not that of the archive that was made"
    return ""


def verified_catalogue(found: StoredBackup, verified: VerifiedBackup) -> Catalogue | None:
    """Return the catalogue of a backup after it was verified.

    None where nothing tells whose it is, or where it was damaged before it had a catalogue.
    """
    now = time.time()
    if found.catalogue is not None:
        state = DAMAGED if verified.fault else COMPLETE
        return attrs.evolve(found.catalogue, state=state, checked=now, fault=verified.fault[:1000])
    if not found.server or verified.fault:
        return None
    return Catalogue(
        version=VERSION,
        backup=found.uuid,
        server=found.server,
        state=COMPLETE,
        archive=f"{found.uuid}.{found.suffix}",
        bytes=verified.bytes,
        sha256=verified.sha256,
        made=found.modified,
        files=verified.files,
        checked=now,
    )


@attrs.define(eq=False)
class Rewrite:
    """A backup that is being rewritten. `is_over` at its end, which `error` tells if it failed.

    `size` are then the bytes of the archive in its place, and `not_kept` tells what that does not
    have of the old one. With `is_unchanged` it was in that form before. The backup is the `point`,
    if there is one, and what was `found` of it is its archive as it is to be.
    """

    found: StoredBackup
    point: PointBackup | None = None
    progress: Progress = attrs.field(factory=Progress)
    is_over: bool = False
    is_unchanged: bool = False
    size: int = 0
    not_kept: str = ""
    error: WingsdError | None = None


class BackupRewrites:
    """Rewrites backups, one at a time; `lock` is that of their checks. See `Rewrite`."""

    _log = Logger()

    def __init__(self, backups: Backups, servers: Servers, lock: DeferredLock) -> None:
        self._backups = backups
        self._servers = servers
        self._lock = lock
        self._rewrites: dict[str, Rewrite] = {}

    def stop(self) -> None:
        """Cancel all."""
        for rewrite in self._rewrites.values():
            rewrite.progress.cancel()

    def last(self, backup: str) -> Rewrite:
        """Return the rewrite of a backup that is under way, or has ended last.

        Raises BackupMissing where there was none.
        """
        if backup not in self._rewrites:
            raise BackupMissing(backup)
        return self._rewrites[backup]

    async def begin(self, backup: str) -> Rewrite:
        """Begin to rewrite a backup, or join what is under way.

        Raises BackupMissing, BackupNotForWings, ServerBusy, StorageError.
        """
        if backup in self._backups.making:
            raise BackupNotForWings("it is being made: try again when it is complete")
        store = self._backups.store
        found = await self._backups.disk.run(store.find, "", backup)
        point = await self._backups.points.find("", backup)
        under_way = self._rewrites.get(backup)
        if under_way is not None and not under_way.is_over:
            return under_way
        if found is None and point is None:
            raise BackupMissing(backup)
        if point is None and self._backups.family == CALAGOPUS:
            raise BackupNotForWings("this is a node of Calagopus, whose nodes restore directories")
        if found is None and point is not None:
            suffix, name = ArchiveFormat.TAR_GZ.suffix, point.name
            place = store.place(point.server, backup, suffix)
            found = StoredBackup(backup, point.server, place, suffix, name.size, name.made)
        assert found is not None  # noqa: S101 - one of both is there
        left = await self._backups.database.left(backup)
        if any(each.state in TO_SEND for each in left):
            raise BackupNotForWings("it is on its way to the node that its server has moved to")
        self._check(found)
        rewrite = self._rewrites[backup] = Rewrite(found, point)
        while len(self._rewrites) > _KEPT and (
            over := [uuid for uuid, each in self._rewrites.items() if each.is_over]
        ):
            del self._rewrites[over[0]]
        logged = failure_logger(self._log, "backup {backup}: not rewritten", backup=backup)
        Deferred.fromCoroutine(self._run(rewrite)).addErrback(logged)
        return rewrite

    def _check(self, found: StoredBackup) -> None:
        if found.suffix != ArchiveFormat.TAR_GZ.suffix:
            raise BackupNotForWings(f"it is a {found.suffix}, and Wings knows only a tar.gz")
        for server in self._owners(found):
            server.operations.check(Operation.BACKUP)

    def _owners(self, found: StoredBackup) -> list[Server]:
        """Return the servers that may use a backup: all, where nothing tells whose it is."""
        return [each for each in self._servers.all() if found.server in ("", each.uuid)]

    def _limit(self, found: StoredBackup) -> int | None:
        """Return the bytes that the server of a backup may have: Wings restores no more."""
        if not found.server:
            return None
        limits = [each.configuration.settings.build.disk_space for each in self._owners(found)]
        return ArchiveLimits.disk_bytes(limits[0]) if limits else None

    async def _run(self, rewrite: Rewrite) -> None:
        found, cancel = rewrite.found, rewrite.progress.cancel
        try:
            with ExitStack() as stack:
                for server in self._owners(found):
                    stack.enter_context(server.operations.during(Operation.BACKUP, cancel))
                async with self._lock:
                    await self._rewrite(rewrite)
        except FileWorkCancelled:
            rewrite.error = BackupNotForWings("it was ended; run the command again")
        except WingsdError as error:
            rewrite.error = error
        except BaseException:
            rewrite.error = BackupNotForWings("an unexpected error; see the node's log")
            raise
        finally:
            rewrite.is_over = True
        if rewrite.error is not None:
            self._log.error(
                "backup {backup}: not rewritten for Wings: {error}",
                backup=found.uuid,
                error=rewrite.error,
            )

    async def _rewrite(self, rewrite: Rewrite) -> None:
        found, backups, progress = rewrite.found, self._backups, rewrite.progress
        opened = await backups.disk.run(backups.store.open, found.server, found.uuid)
        limit, point, run = self._limit(found), rewrite.point, backups.workers.run
        if opened is not None:
            new = await run(rewrite_archive, backups, *opened, progress, limit)
        elif point is not None:
            new = await run(archive_point, backups, found, point, progress, limit)
        else:
            raise BackupNotForWings("it was deleted meanwhile")
        if point is not None:  # its archive is there
            await backups.points.delete(point)
        if new is None:
            rewrite.is_unchanged, rewrite.size = True, found.size
            return
        rewrite.size, rewrite.not_kept = new
        self._log.info(
            "backup {backup} of {server}: rewritten for Wings: {not_kept}",
            backup=found.uuid,
            server=found.server or "an unknown server",
            not_kept=rewrite.not_kept or "everything is in it",
        )


def archive_point(
    backups: Backups,
    found: StoredBackup,
    point: PointBackup,
    progress: Progress,
    limit: int | None,
) -> tuple[int, str]:
    """Make the archive of a backup that is a point, in its place, on stable storage.

    As `rewrite_archive`; `found` is the archive. With Calagopus it has all that the point has.
    """
    store, terms = backups.store, backups.terms
    progress.bytes_total = found.size

    def blocks() -> Generator[bytes, None, None]:
        done = 0
        with closing(backups.points.blocks(point)) as pieces:
            for block in joined(pieces, _BLOCK):
                progress.check()
                done += len(block)
                progress.bytes_done = max(progress.bytes_done, min(done, found.size))
                yield block

    path = new_part(store, found.place)
    with storage_errors(store.directory):
        check_space(os.statvfs(store.directory), terms.reserve, found.size)
    files = RegularFiles(blocks, limit)
    new = hashlib.sha256()
    with NewArchiveFile(path, terms, progress) as part:
        is_whole = backups.family == CALAGOPUS
        packing = partial(tar_gz, blocks()) if is_whole else files.packed
        with packing(terms.compression) as pieces:
            for block in pieces:
                new.update(block)
                part.write(block)
        os.utime(path, (found.modified, found.modified))
        part.sync()
        catalogue = Catalogue(
            version=VERSION,
            backup=found.uuid,
            server=found.server,
            state=COMPLETE,
            archive=os.path.basename(found.place),
            bytes=part.size,
            sha256=new.hexdigest(),
            made=found.modified,
            files=files.files or None,
            checksum_type=terms.checksum_type,
            checksum=part.checksum.hexdigest(),
        )
        store.put_into_place(found.place, catalogue)
    return part.size, str(files.not_kept)


def rewrite_archive(
    backups: Backups, found: StoredBackup, file: OpenFile, progress: Progress, limit: int | None
) -> tuple[int, str] | None:
    """Write the other form of an open backup beside it, on stable storage, and exchange them.

    Its files have at most `limit` bytes with the copies of hard links. Return its size, and what
    it does not have of the old one; None where the old one already has that form. After an error
    nothing is left of it. Raises FileWorkCancelled, NoSpaceForBackup, StorageError, and
    BackupNotForWings where the old one is damaged, or was deleted meanwhile.
    """
    store, terms, made = backups.store, backups.terms, found.catalogue
    progress.bytes_total = found.size
    digest, new = hashlib.sha256(), hashlib.sha256()
    readings = 0

    def blocks() -> Generator[bytes, None, None]:
        """Read the archive: to look at it, to rewrite it, and for the copies of hard links."""
        nonlocal readings
        readings += 1
        at, number = 0, readings
        while block := file.read_at(at, _BLOCK):
            at += len(block)
            progress.check()
            if number <= 2:  # noqa: PLR2004 - what is read of it later is not foreseen
                progress.bytes_done = at
            if number == 2:  # noqa: PLR2004
                digest.update(block)
            yield block

    path = store.part_path(found.place)
    files = RegularFiles(blocks, limit)
    try:
        with file:
            with closing(blocks()) as looked_at:
                if has_only_files(looked_at):
                    return None
            with NewArchiveFile(path, terms, progress) as part:
                with files.packed(terms.compression) as packed:
                    for block in packed:
                        new.update(block)
                        part.write(block)
                _compare(made, digest.hexdigest())
                size = part.size
                os.utime(path, (found.modified, found.modified))
                part.sync()
            inode = os.fstat(file.fileno()).st_ino
    except ArchiveError as error:
        raise BackupNotForWings(f"it is damaged: {error.detail}") from error
    except OSError as error:
        raise StorageError.reading(f"{store.path(found.place)}: {error.strerror}") from error
    if made is not None:
        made = attrs.evolve(
            made,
            state=COMPLETE,
            bytes=size,
            sha256=new.hexdigest(),
            files=files.files,
            checksum_type=terms.checksum_type,
            checksum=part.checksum.hexdigest(),
            checked=time.time(),
            fault="",
        )
    _put_into_place(store, found, inode, made)
    return size, str(files.not_kept)


def _compare(made: Catalogue | None, sha256: str) -> None:
    if made is not None and made.sha256 != sha256:
        raise BackupNotForWings("it is damaged: its checksum is not that of the archive made")


def _put_into_place(
    store: BackupStore, found: StoredBackup, inode: int, catalogue: Catalogue | None
) -> None:
    is_replaced = False
    try:
        is_replaced = store.replace(found, inode, catalogue)
    finally:
        if not is_replaced:
            with suppress(OSError):
                os.unlink(store.part_path(found.place))
    if not is_replaced:
        raise BackupNotForWings("it was deleted meanwhile")
