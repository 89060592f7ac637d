"""The checks of backups at rest: when an operator asks for one, or regularly."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.archive.decompress import decompressed
from wingsd.archive.pipeline import Blocks
from wingsd.archive.policy import Kind, link_text, member_kind, member_path
from wingsd.archive.tar_reader import TarReader
from wingsd.backups.catalogue import COMPLETE, DAMAGED, VERSION, Catalogue
from wingsd.backups.making import keep_pace
from wingsd.backups.store import BackupStore, StoredBackup
from wingsd.errors import ArchiveError, BackupMissing, FileWorkCancelled, StorageError
from wingsd.files.progress import Progress
from wingsd.filesystem.directory import OpenFile
from wingsd.threadio import Workers
from wingsd.util.text import reading_advice

#: Seconds between two looks for a backup that is due.
HOUR = 3600.0
_DAY = 24 * HOUR
#: The suffixes of formats of which only the checksum is verified here.
UNREAD = ("tar.lz", "zip", "7z")
_BLOCK = 240 << 10
#: Checks that have ended and are kept in memory.
_KEPT = 100


@attrs.frozen
class VerifiedBackup:
    """The result of a check: the archive's bytes, SHA-256 and regular files, and its `fault`.

    `files` is None where the members were not read. An empty `fault` is none: the archive can be
    extracted, and is what its catalogue says, if there is one.
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


@attrs.frozen
class CheckSchedule:
    """How often each backup is checked by itself, in `days` (0: never), and how fast.

    `limit` are the bytes a second that such a check reads.
    """

    days: int
    limit: int


class BackupChecks:
    """Checks backups, one at a time, in a thread of `workers`. `now` is Unix time."""

    _log = Logger()

    def __init__(
        self,
        store: BackupStore,
        schedule: CheckSchedule,
        workers: Workers,
        disk: Workers,
        reactor: IReactorTime,
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._schedule = schedule
        self._workers = workers
        self._disk = disk
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
        self._regular = LoopingCall(self._look)
        self._regular.clock = reactor

    def start(self) -> None:
        """Begin to check backups by themselves, if that is configured."""
        if self._schedule.days:
            self._regular.start(HOUR)

    def stop(self) -> None:
        """Cancel all checks."""
        if self._regular.running:
            self._regular.stop()
        for check in self._checks.values():
            check.progress.cancel()

    async def begin(self, backup: str) -> BackupCheck:
        """Begin to check a backup, or join the check that is under way.

        Raises BackupMissing, StorageError.
        """
        if backup in self._checks:
            return self._checks[backup]
        found = await self._disk.run(self._store.find, "", backup)
        if found is None:
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
        opened = await self._disk.run(self._store.open, check.found.server, check.found.uuid)
        if opened is None:
            check.result = VerifiedBackup(0, "", None, "it was deleted meanwhile")
            return
        check.result = await self._workers.run(self._verify, *opened, check.progress, limit)
        self.count += 1
        self._note(check.found, check.result)

    def _verify(
        self, found: StoredBackup, file: OpenFile, progress: Progress, limit: int
    ) -> VerifiedBackup:
        with file:
            verified = verify_archive(found, file, progress, limit)
        catalogue = verified_catalogue(found, verified)
        if catalogue is not None and self._store.at(found.place) is not None:
            self._store.write_catalogue(found.place, catalogue)
        return verified

    def _note(self, found: StoredBackup, result: VerifiedBackup) -> None:
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
            path=self._store.path(found.place),
        )

    def _failed(self, failure: Failure, backup: str) -> None:
        if failure.check(StorageError):
            self._log.error(
                "backup {backup}: not verified: {error}", backup=backup, error=failure.value
            )
        elif not failure.check(FileWorkCancelled, CancelledError):
            self._log.failure("backup {backup}: its check failed", failure, backup=backup)

    # By themselves

    def _look(self) -> Deferred[None]:
        """Check the backups that are due; an error must not end the loop."""
        looking = Deferred.fromCoroutine(self._check_due())
        return looking.addErrback(self._failed, "")

    async def _check_due(self) -> None:
        found = await self._disk.run(self._store.all)
        made = [each for each in found if each.catalogue is not None]
        self.damaged = {
            each.uuid for each in made if each.catalogue and each.catalogue.state == DAMAGED
        }
        for each in sorted(made, key=self._last):
            if self._now() - self._last(each) < self._schedule.days * _DAY:
                return
            if each.uuid not in self._checks:
                check = self._checks[each.uuid] = BackupCheck(each)
                try:
                    await self._run(check, self._schedule.limit)
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
