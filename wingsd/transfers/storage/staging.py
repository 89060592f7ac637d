"""The staging area: where the files of arriving servers are kept until they are put into place.

It is a directory beside `system.data`, on the same filesystem, so that one rename puts a server's
files into place; where none can be there, one in `system.data`. What is found in a server's place
and is not a server of this node is set aside, neither merged into nor deleted.

Partial copies of moves are there, too. One that is received has the server's directory, its ledger
and a directory of files without a name, all beside each other. One that is kept for a later
transfer of the server is in a directory of its own below `KEPT`, with what is known of it.

Between the two places the three are moved one by one, the ledger last. So where a daemon has died
meanwhile, the others belong to where the ledger is: they are put back there before anything else
is done with copies of that server.

Installation logs are sent with servers, and kept for operators to read. One that was received is
staged beside the server's files and put into place when the transfer is over, which does not fail
because of it.

Blocking: run it in a thread. Every method raises `StorageError` when the disk fails.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Lock, RLock

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.archive.quota import ArchiveLimits, require_free_space
from wingsd.backups.received import QUARANTINE, write_file
from wingsd.errors import StorageError
from wingsd.filesystem.attributes import AttributesKept, supported_attributes
from wingsd.filesystem.removal import remove_tree
from wingsd.filesystem.syscalls import syncfs
from wingsd.moves.recording import record_directory
from wingsd.util.durable import move, replace_file, storage_errors, time_stamp

#: The directory of what was kept of failed moves.
KEPT = ".kept"
#: The suffix of the names in it; before it are the server's UUID and a time stamp.
PARTIAL = ".partial"
_LOCK = ".lock"
#: The directory of what an earlier daemon has left, until it is deleted.
_CLEARED = ".cleared"
_DISCARDED = ".discarded"
#: Errors that say that nothing may be made beside `system.data`: its parent directory belongs to
#: another user, or a service's sandbox forbids it.
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@attrs.define(eq=False, repr=False, slots=False)
class Staging:
    """The staging area of one `system.data` directory.

    `owner` is the user and group id of every server's directory. `node` is the node's name, where
    others have the same directory: each then has a staging area of its own, and clears no other's.
    `prepare_directory` is called with a server and its new directory.
    """

    _data: Path = attrs.field(converter=Path)
    _owner: tuple[int, int]
    _durable: bool = attrs.field(kw_only=True)
    _node: str = attrs.field(default="", kw_only=True)
    _prepare_directory: Callable[[str, str], object] = attrs.field(
        default=lambda server, path: None, kw_only=True
    )

    def __attrs_post_init__(self) -> None:
        self._name = f"staging.{self._node}" if self._node else "staging"
        self._root = self._data.with_name(f".{self._data.name}.{self._name}")
        #: The servers that are received, and how many flushes had failed when each was begun, or
        #: was flushed last.
        self._open: dict[str, int] = {}
        self._lock = -1
        # syncfs(2) only reports errors since its descriptor was opened, each once. This one is as
        # old as the first byte of all servers, and each failure is counted for all of them.
        self._flush_fd = -1
        self._failures = 0
        #: Held during a flush; how many have begun, and the last one that has ended.
        self._flushing = Lock()
        self._begun = self._ended = 0

    # At the daemon's start and end

    def prepare(self) -> None:
        """Make the directories, and lock them against other daemons.

        Raises `StorageError` when the node cannot store servers here, or when another daemon
        does: two would clear each other's work away.
        """
        with storage_errors(f"{self._data} cannot be used as system.data"):
            self._data.mkdir(parents=True, exist_ok=True)
            if not self._claim_beside():
                self._root = self._data / f".{self._name}"
                self._claim()

    @property
    def path(self) -> str:
        """The staging area; its place is known after `prepare`."""
        return str(self._root)

    def attributes_kept(self) -> AttributesKept:
        """Return which extended attributes its file system keeps."""
        return supported_attributes(self.path)

    @property
    def owner(self) -> tuple[int, int]:
        """The user and group id of every server's directory."""
        return self._owner

    @property
    def quarantine(self) -> Path:
        """The directory of files in quarantine, which need not exist."""
        return self._root / QUARANTINE

    def clear(self, keep: Collection[str] = (), moving: Collection[str] = ()) -> list[str]:
        """Put away what an earlier daemon has left, for `delete_cleared`; return the names.

        The servers in `keep`, or other names, are whole and durable, and stay. So do those in
        `moving`, with all that has their names.
        """
        logs = (self.log(server).name for server in keep)
        stay = {_LOCK, QUARANTINE, KEPT, _CLEARED, *keep, *logs}
        with storage_errors(f"{self._data} cannot be used as system.data"):
            names = sorted(entry.name for entry in self._root.iterdir())
            leftovers = [
                name for name in names if name not in stay and name.partition(".")[0] not in moving
            ]
            if leftovers:
                (self._root / _CLEARED).mkdir(exist_ok=True)
            for name in leftovers:
                (self._root / name).rename(self._root / _CLEARED / f"{name}.{time_stamp()}")
        return leftovers

    def delete_cleared(self) -> None:
        """Delete what was put away, which takes long where that is much."""
        path = self._root / _CLEARED
        with storage_errors(f"{path} cannot be removed"):
            if path.exists():
                remove_tree(str(path))

    def kept_servers(self) -> set[str]:
        """Return the servers of which a copy is kept; see `PartialCopies`."""
        try:
            return {name.partition(".")[0] for name in os.listdir(self._root / KEPT)}
        except OSError:
            return set()

    def close(self) -> None:
        """Unlock the directory for other daemons. No thread may be at work here any more."""
        for server in tuple(self._open):
            self.finish(server)
        for descriptor in (self._flush_fd, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._flush_fd = self._lock = -1

    def _claim_beside(self) -> bool:
        """Return False where the staging area must be in `system.data`."""
        try:
            self._claim()
        except OSError as error:
            if error.errno in _FORBIDDEN:
                return False
            raise
        if self._is_same_filesystem():
            return True
        # `system.data` is a mount of its own: nothing beside it is on its filesystem.
        self._release()
        return False

    def _claim(self) -> None:
        self._root.mkdir(mode=0o700, exist_ok=True)
        self._lock = os.open(self._root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Held as long as the process lives, however it ends.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._flush_fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except BlockingIOError as error:
            self.close()
            raise StorageError(
                f"another wingsd is running with {self._data} as its system.data; "
                "end it first, or give this one a directory of its own"
            ) from error

    def _release(self) -> None:
        self.close()
        (self._root / _LOCK).unlink()
        with suppress(OSError):
            self._root.rmdir()

    def _is_same_filesystem(self) -> bool:
        # Only a rename shows it: two mounts of one device have the same device number.
        probe, target = self._root / ".probe", self._data / f".{self._name}-probe"
        probe.mkdir(exist_ok=True)
        try:
            probe.rename(target)
        except OSError as error:
            probe.rmdir()
            if error.errno != errno.EXDEV:
                raise
            return False
        target.rmdir()
        return True

    # Receiving

    def create(self, server: str) -> str:
        """Return the path of a new, empty directory for the server's files.

        Clears what a transfer has left that could not be rolled back. The caller makes sure that
        there is one transfer for each server.
        """
        self.withdraw(server)
        self.discard(server)
        path = self._root / server
        with storage_errors(f"{path} cannot be made"):
            path.mkdir(mode=0o755)
            os.chown(path, *self._owner)
            # Now: what is extracted into it then belongs to the same project.
            self._prepare_directory(server, str(path))
        self._open[server] = self._failures
        return str(path)

    def reopen(self, server: str) -> str:
        """Go on with the directory that is staged of a server; return its path."""
        path = self._root / server
        with storage_errors(f"{path} cannot be opened"):
            path.stat()
        self._open[server] = self._failures
        return str(path)

    def sync(self, server: str) -> None:
        """Return when everything received is on stable storage, also if `durable` is off.

        Those who wait for a flush that is under way share the next one. Raises `StorageError` also
        where one has failed since the server's last: it may have lost something of this server.
        """
        due = self._begun + 1
        with self._flushing, storage_errors(f"{self._root} could not be synced"):
            known = self._open.get(server)
            if known is None:
                raise StorageError(f"{server} is not being received any more")
            if self._ended < due:
                self._begun += 1
                try:
                    syncfs(self._flush_fd)
                except OSError:
                    self._failures += 1
                    self._open[server] = self._failures
                    raise
                finally:
                    self._ended = self._begun
            self._open[server] = self._failures
            if known != self._failures:
                raise StorageError("what has arrived could not be written to the disk")

    def log(self, server: str) -> Path:
        """Return where the server's installation log is staged, beside its files."""
        return self._root / f"{server}.log"

    def log_part(self, server: str) -> Path:
        """Return where a part of the server's installation log is staged."""
        return self._root / f"{server}.log.part"

    def write_back(self) -> None:
        """Write what has been received so far to stable storage, to leave little to `flush`.

        Errors are left to `flush`: the kernel reports each once to every open descriptor, and this
        is not the descriptor that `flush` asks.
        """
        if self._durable:
            with suppress(OSError):
                syncfs(self._lock)

    def flush(self, server: str) -> None:
        """Return when everything received is on stable storage (one syncfs(2))."""
        if self._durable:
            self.sync(server)

    def holds(self, server: str) -> bool:
        """Return whether the server's files are still staged, and not in place."""
        return (self._root / server).is_dir()

    def inode(self, server: str) -> int:
        """Return that of the staged directory, which it keeps when it is put into place."""
        path = self._root / server
        with storage_errors(f"{path} cannot be inspected"):
            return path.lstat().st_ino

    # Into place, and back

    def in_place(self, server: str, inode: int | None = None) -> Path | None:
        """Return the server's place if anything is there; with `inode`, only that directory."""
        place = self._data / server
        if not os.path.lexists(place):
            return None
        return place if inode is None or self.is_in_place(server, inode) else None

    def is_in_place(self, server: str, inode: int | None = None) -> bool:
        """Return whether a directory is in the server's place; with `inode`, that directory."""
        place = self._data / server
        return place.is_dir() and inode in (None, place.lstat().st_ino)

    def set_aside(self, server: str) -> str | None:
        """Rename what is in the server's place; return its new path, None if nothing was there."""
        place = self.in_place(server)
        if place is None:
            return None
        aside = self._data / f"{server}.set-aside-{time_stamp()}"
        self._move(place, aside)
        return str(aside)

    def restore(self, server: str, aside: str) -> None:
        """Undo `set_aside`."""
        self._move(Path(aside), self._data / server)

    def swap(self, server: str) -> None:
        """Put the received files into place: all of them or, when it fails, none."""
        self._move(self._root / server, self._data / server)

    def undo_swap(self, server: str) -> None:
        """Move the files out of their place again, back to where `withdraw` finds them."""
        self._move(self._data / server, self._root / server)

    def finish(self, server: str) -> None:
        """Receive nothing of the server any more: its files stay, or are withdrawn."""
        self._open.pop(server, None)

    def withdraw(self, server: str) -> None:
        """Take the staged files out of use, at once; `discard` deletes them."""
        self.finish(server)
        path = self._root / server
        if path.exists():
            self.discard(server)
            self._move(path, self._root / f"{server}{_DISCARDED}")

    def discard(self, server: str) -> None:
        """Delete what was withdrawn, if anything was, and the server's log."""
        path = self._root / f"{server}{_DISCARDED}"
        with storage_errors(f"{path} cannot be removed"):
            self.log(server).unlink(missing_ok=True)
            if path.exists():
                remove_tree(str(path))

    def _move(self, source: Path, target: Path) -> None:
        move(source, target, durable=self._durable)


_LEDGER = ".ledger"
_ASIDE = ".aside"
#: The suffix of the file that has the pair of a copy that was taken out of those kept.
_PAIR = ".pair"
_TREE = "tree"
_KEPT_LEDGER, _KEPT_ASIDE = "ledger", "aside"
_ABOUT = "about.json"
#: The prefix of a directory in which a copy is made of a directory, until that is recorded.
_RECORDED = ".recorded."
#: Bytes that count of each file, directory and symlink of a copy by a pair.
LEAST_FILE = 4 << 10
#: Bytes of `st_blocks`, whatever the block size of the file system; stat(2).
_BLOCK = 512


@attrs.frozen(repr=False)
class CopyPaths:
    """The paths of a copy: the server's files, the ledger, and files that have no name yet.

    `is_read` is whether this daemon has read all of it back from the disk since it last changed.
    `pair` is the pair that has brought it first; empty without one.
    """

    tree: Path
    ledger: Path
    aside: Path
    is_read: bool = False
    pair: str = ""


@attrs.frozen(repr=False)
class KeptCopy:
    """A copy that is kept: its server, how many bytes it has, and since when (since the epoch).

    `pair` is the pair that has brought it first; empty without one.
    """

    name: str
    server: str
    bytes: int
    since: float
    pair: str = ""


class PartialCopies:
    """The partial copies in `staging`. `most_bytes` is for those beside the newest, 0 for a tenth.

    A copy without a ledger is worth nothing, and is removed. `limits` has the disk's reserves.
    """

    _log = Logger()

    def __init__(self, staging: Staging, most_bytes: int, limits: ArchiveLimits) -> None:
        self.staging = staging
        self.limits = limits
        self._most_bytes = most_bytes
        #: Held while copies are kept, taken or removed: one that is half kept looks like no copy.
        self._turn = RLock()
        #: The names of kept copies that were read back from the disk.
        self._read_back: set[str] = set()
        #: Returns how many bytes and files are still to come of each server that arrives.
        self._arriving: dict[str, Callable[[], tuple[int, int]]] = {}

    # The room for those that arrive

    def admit(self, server: str, to_come: Callable[[], tuple[int, int]]) -> None:
        """Count what is still to come of a server, as `arrives`.

        Raise `StorageError` where that does not fit beside what others bring, and the reserves.
        Copies that are kept count as free.
        """
        with self._turn:
            more, files = to_come()
            others = [each() for name, each in self._arriving.items() if name != server]
            taken, entries = (sum(each[i] for each in others) for i in (0, 1))
            if more or files:
                found = os.statvfs(self.staging.path)
                require_free_space(
                    found,
                    self.limits.reserve,
                    "the server",
                    more,
                    self.limits.inode_reserve,
                    files + entries,
                    others=taken,
                    freed=self.kept_bytes(),
                )
            self.arrives(server, to_come)

    def free(self) -> tuple[int, int]:
        """Return the size of the file system, and what is free beside the reserve and arrivals.

        Copies that are kept count as free.
        """
        with self._turn:
            found = os.statvfs(self.staging.path)
            taken = self.limits.reserve + sum(each()[0] for each in self._arriving.values())
            free = found.f_bavail * found.f_frsize - taken + self.kept_bytes()
            return found.f_blocks * found.f_frsize, max(free, 0)

    def arrives(self, server: str, to_come: Callable[[], tuple[int, int]]) -> None:
        """Count what is still to come of a server, bytes and files, until it has `left`."""
        self._arriving[server] = to_come

    def left(self, server: str) -> None:
        """Note that nothing of the server arrives any more."""
        self._arriving.pop(server, None)

    # One that is received

    def create(self, server: str, why: Exception | None = None) -> CopyPaths:
        """Make a new, empty copy; log `why`, if it is in place of one that cannot be used."""
        if why is not None:
            self._log.warn(
                "{server}: the received data of its move is removed, and sent again: {error}",
                server=server,
                error=why,
            )
        self.discard(server)
        self.staging.create(server)
        return self._made(server)

    def reopen(self, server: str) -> CopyPaths | None:
        """Return the copy that an earlier daemon has left, None where there is none.

        Its pair is known if it was kept before that.
        """
        paths = self._paths(server)
        if not _is_whole(paths):
            self.kept()  # that daemon may have died while it kept or took it
        if not (paths.ledger.exists() and self.staging.holds(server)):
            return None
        self.staging.reopen(server)
        return attrs.evolve(self._made(server), pair=self._pair_of(server))

    def finish(self, server: str) -> None:
        """Remove what belongs to the copy beside the server's files."""
        paths = self._paths(server)
        with storage_errors(f"{paths.ledger} cannot be removed"):
            for path in (paths.ledger, paths.ledger.with_name(f"{paths.ledger.name}.new")):
                path.unlink(missing_ok=True)
            self.staging.log_part(server).unlink(missing_ok=True)
            self._pair_file(server).unlink(missing_ok=True)
            if paths.aside.exists():
                remove_tree(str(paths.aside))

    def discard(self, server: str) -> None:
        """Remove the copy as a whole."""
        self.staging.withdraw(server)
        self.staging.discard(server)
        self.finish(server)

    # Those that are kept

    def keep(
        self,
        server: str,
        size: int | None,
        now: float,
        *,
        is_read: bool = False,
        pair: str = "",
    ) -> bool:
        """Keep the copy of a failed move; return whether one of the server is kept.

        `size` is how many bytes have arrived; with None they are measured, and without any nothing
        is kept. `now` is in seconds since the epoch; `is_read` and `pair` as of `CopyPaths`.
        """
        with self._turn:
            paths = self._paths(server)
            kept = [] if _is_whole(paths) else self.kept()  # as in `reopen`
            is_whole = paths.ledger.exists() and self.staging.holds(server)
            if is_whole and size is None:
                size = _allocated(paths.tree)
                is_whole = size > 0
            if not is_whole:
                self.discard(server)
                return any(each.server == server for each in kept)
            self.staging.finish(server)
            home = self._kept / f"{server}.{time_stamp()}{PARTIAL}"
            with storage_errors(f"{home} cannot be made"):
                self._kept.mkdir(mode=0o700, exist_ok=True)
                home.mkdir(mode=0o700)
                about = {"server": server, "bytes": size, "since": now}
                about["pair"] = pair or self._pair_of(server)
                replace_file(home / _ABOUT, json.dumps(about).encode(), mode=0o600)
            move(paths.aside, home / _KEPT_ASIDE, durable=True)
            move(paths.tree, home / _TREE, durable=True)
            # Last: see above.
            move(paths.ledger, home / _KEPT_LEDGER, durable=True)
            self._pair_file(server).unlink(missing_ok=True)
            if is_read:
                self._read_back.add(home.name)
            self._limit(home.name)
            return True

    def keep_directory(
        self,
        server: str,
        directory: Path,
        now: float,
        is_stopped: Callable[[], bool],
        *,
        pair: str,
    ) -> None:
        """Make a directory with files of a server a copy that is kept for a pair.

        It is read for that, and stays where it is until then. `now` as of `keep`.
        """
        made = Path(self.staging.path) / f"{_RECORDED}{server}"
        with storage_errors(f"{made} cannot be made"):
            remove_tree(str(made))
            made.mkdir(mode=0o700)
            (made / _KEPT_ASIDE).mkdir(mode=0o700)
        owner = self.staging.owner
        size, names = record_directory(directory, made / _KEPT_LEDGER, owner, is_stopped)
        about = {"server": server, "bytes": size + LEAST_FILE * names, "since": now, "pair": pair}
        with storage_errors(f"{made} cannot be written"):
            replace_file(made / _ABOUT, json.dumps(about).encode(), mode=0o600)
            self._kept.mkdir(mode=0o700, exist_ok=True)
        home = self._kept / f"{server}.{time_stamp()}{PARTIAL}"
        with self._turn:
            move(made, home, durable=True)
            # Last: without it the others are nothing, and are removed.
            move(directory, home / _TREE, durable=True)
            self._read_back.add(home.name)

    def adopt(self, server: str, pair: str = "") -> CopyPaths | None:
        """Take the newest copy of the server out of those that are kept, None without any.

        With a `pair` only one that it has brought.
        """
        with self._turn:
            found = [
                each for each in self.kept() if each.server == server and pair in ("", each.pair)
            ]
            if not found:
                return None
            self.discard(server)
            home, paths = self._kept / found[-1].name, self._paths(server)
            if found[-1].pair:  # else a restart would lose it
                replace_file(self._pair_file(server), found[-1].pair.encode(), mode=0o600)
            move(home / _KEPT_ASIDE, paths.aside, durable=True)
            move(home / _TREE, paths.tree, durable=True)
            move(home / _KEPT_LEDGER, paths.ledger, durable=True)
            with suppress(OSError):
                remove_tree(str(home))
            self.staging.reopen(server)
            is_read = found[-1].name in self._read_back
            self._read_back.discard(found[-1].name)
            return attrs.evolve(paths, is_read=is_read, pair=found[-1].pair)

    def kept(self) -> list[KeptCopy]:
        """Return the copies that are kept, oldest first; remove what is not whole."""
        with self._turn:
            names: list[str] = []
            with storage_errors(f"{self._kept} cannot be read"), suppress(FileNotFoundError):
                names = os.listdir(self._kept)
            names.sort(key=lambda name: name.split(".", 1)[1:])
            return [copy for name in names if (copy := self._read(name)) is not None]

    def forget(self, server: str = "", pair: str = "") -> int:
        """Remove all kept copies of the server, or that a pair has brought; return how many."""
        with self._turn:
            found = [
                each
                for each in self.kept()
                if (pair and each.pair == pair) or each.server == server
            ]
            for each in found:
                self._remove(each)
        return len(found)

    def delete(self, name: str) -> bool:
        """Remove the kept copy of that name; return False where a move has taken it.

        It is out of the reach of a move at once; others do not wait for its deletion.
        """
        home, away = self._kept / name, Path(self.staging.path) / f".deleted.{name}"
        with self._turn:
            if not home.exists():
                return False
            self._read_back.discard(name)
            move(home, away, durable=True)
        with storage_errors(f"{away} cannot be removed"):
            remove_tree(str(away))
        return True

    def make_room(self, more: int, files: int) -> None:
        """Remove kept copies, oldest first, until `more` bytes and `files` leave the reserves.

        Raises `StorageError` where that is not enough.
        """
        reserve, inodes = self.limits.reserve, self.limits.inode_reserve
        while True:
            found = os.statvfs(self.staging.path)
            try:
                require_free_space(found, reserve, "the server", more, inodes, files)
            except StorageError:
                if not self.remove_oldest():
                    raise
            else:
                return

    def remove_oldest(self) -> bool:
        """Remove the oldest copy that is kept, for the room; return whether there was one.

        Several threads may need room at once.
        """
        with self._turn:
            oldest = next(iter(self.kept()), None)
            if oldest is None:
                return False
            self._remove(oldest)
        self._log.warn(
            "{server}: the kept copy of its failed move is removed: a transfer needs the space",
            server=oldest.server,
        )
        return True

    def kept_bytes(self) -> int:
        """Return how many bytes are kept in all."""
        return sum(each.bytes for each in self.kept())

    @property
    def _kept(self) -> Path:
        return Path(self.staging.path) / KEPT

    def _limit(self, newest: str) -> None:
        others = [each for each in self.kept() if each.name != newest]
        found = os.statvfs(self.staging.path)
        most = self._most_bytes or found.f_blocks * found.f_frsize // 10
        while others and sum(each.bytes for each in others) > most:
            self._remove(others.pop(0))

    def _read(self, name: str) -> KeptCopy | None:
        home = self._kept / name
        try:
            about = json.loads((home / _ABOUT).read_bytes())
            copy = KeptCopy(
                name,
                str(about["server"]),
                int(about["bytes"]),
                float(about["since"]),
                str(about.get("pair", "")),
            )
        except (OSError, ValueError, KeyError, TypeError):
            copy = None
        kept = CopyPaths(home / _TREE, home / _KEPT_LEDGER, home / _KEPT_ASIDE)
        if copy is not None and _is_whole(kept):
            return copy
        received = self._paths(name.partition(".")[0])
        if kept.ledger.exists():
            self._put_back(received, kept)
            if copy is not None and _is_whole(kept):
                return copy
        elif received.ledger.exists():
            self._put_back(kept, received)
        with suppress(OSError):
            remove_tree(str(home))
        return None

    def _put_back(self, source: CopyPaths, target: CopyPaths) -> None:
        """Move to the ledger in `target` what had been moved away, as far as it is that."""
        if target.aside.exists() or not source.aside.exists():
            return  # the first that is moved away
        if source.tree.exists() and not target.tree.exists():
            move(source.tree, target.tree, durable=True)
        if target.tree.exists():
            move(source.aside, target.aside, durable=True)

    def _remove(self, copy: KeptCopy) -> None:
        home = self._kept / copy.name
        self._read_back.discard(copy.name)
        with storage_errors(f"{home} cannot be removed"):
            (home / _KEPT_LEDGER).unlink(missing_ok=True)
            remove_tree(str(home))

    def _paths(self, server: str) -> CopyPaths:
        root = Path(self.staging.path)
        return CopyPaths(root / server, root / f"{server}{_LEDGER}", root / f"{server}{_ASIDE}")

    def _pair_of(self, server: str) -> str:
        """Return the pair of a copy that was taken out of those kept; empty without one."""
        try:
            return self._pair_file(server).read_text()
        except FileNotFoundError:
            return ""

    def _pair_file(self, server: str) -> Path:
        return self._paths(server).ledger.with_name(f"{server}{_PAIR}")

    def _made(self, server: str) -> CopyPaths:
        paths = self._paths(server)
        with storage_errors(f"{paths.aside} cannot be made"):
            paths.aside.mkdir(mode=0o700, exist_ok=True)
        return paths


def _is_whole(paths: CopyPaths) -> bool:
    return all(path.exists() for path in (paths.tree, paths.ledger, paths.aside))


def _allocated(directory: Path) -> int:
    """Return the bytes that the files below a directory take on the disk."""
    size = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                size += os.lstat(os.path.join(parent, name)).st_blocks * _BLOCK
    return size


#: Bytes of an installation log that are kept, and sent.
LOG_LIMIT = 64 << 20
_LOG_PIECE = 240 << 10
#: Seconds from the end of one write-back to the next.
WRITE_BACK_EVERY = 0.5


class WriteBack:
    """Calls `write_back` again and again while servers arrive. It must not fail.

    Without this the kernel waits for half a minute, or for gigabytes, and `Staging.flush` takes as
    much longer. Measured on an ext4 by the seconds until all is durable, with writing back every
    64 MiB and without: 4.4 against 6.2 for 2 GiB in 16 files, 3.0 against 3.3 for 50,000 small
    files; by syncfs(2), which also covers small files and directories, and slows the writing less
    than posix_fadvise(2) or sync_file_range(2) for each file.
    """

    def __init__(self, write_back: Callable[[], Deferred[None]], reactor: IReactorTime) -> None:
        self._write_back = write_back
        self._reactor = reactor
        self._arriving = 0
        self._running = False

    @contextmanager
    def during(self) -> Iterator[None]:
        """Write back in this context, which may be entered by several at a time."""
        self._arriving += 1
        if not self._running:
            self._running = True
            Deferred.fromCoroutine(self._run())
        try:
            yield
        finally:
            self._arriving -= 1

    async def _run(self) -> None:
        while await deferLater(self._reactor, WRITE_BACK_EVERY, lambda: self._arriving):
            await self._write_back()
        self._running = False


class InstallLogs:
    """The logs in `install` of `system.log_directory`, where Go nodes keep them.

    Every method raises `StorageError`.
    """

    def __init__(self, log_directory: str, staging: Staging, *, reserve: int) -> None:
        self._directory = Path(log_directory) / "install"
        self._staging = staging
        self._reserve = reserve

    def store(self, server: str, blocks: Iterable[bytes]) -> None:
        """Stage the first `LOG_LIMIT` bytes of the server's log; take all of `blocks`."""
        path = self._staging.log(server)
        write_file(path, _beginning(blocks), reserve=self._reserve, durable=False)

    # One that arrives in pieces

    def part(self, server: str) -> Path:
        """Return where a log is written until it is whole."""
        return self._staging.log_part(server)

    def whole(self, server: str) -> Path | None:
        """Return the file of a log that is staged whole, None where it is not."""
        staged = self._staging.log(server)
        return staged if staged.exists() else None

    def complete(self, server: str, *, sha256: str) -> None:
        """Stage the part of a log, which is whole and has that SHA-256."""
        staged = self._staging.log(server)
        with storage_errors(f"{staged} cannot be written"):
            self.part(server).rename(staged)

    def drop(self, server: str) -> None:
        """Delete what is staged."""
        staged = self._staging.log(server)
        with storage_errors(f"{staged} cannot be removed"):
            for path in (self.part(server), staged):
                path.unlink(missing_ok=True)

    def retain(self, server: str, size: int | None) -> None:
        """Delete what is staged if it has more than `size` bytes; with None in any case."""
        for path in (self.part(server), self._staging.log(server)):
            with storage_errors(f"{path} cannot be removed"):
                if path.exists() and (size is None or path.stat().st_size > size):
                    path.unlink()

    # Those of servers of this node

    def open(self, server: str) -> OpenLog | None:
        """Return the log of a server of this node, opened; None where there is none."""
        path = self._place(server)
        # Without O_NONBLOCK, opening a FIFO would block.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unread(path, error.strerror) from error
        log = OpenLog(str(path), descriptor)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            log.close()
            raise _unread(path, "it is not a file")
        return log

    def measure(self, server: str) -> tuple[str, int] | None:
        """Return the path and the bytes of the server's log, at most `LOG_LIMIT`; or None."""
        log = self.open(server)
        if log is None:
            return None
        with closing(log):
            return log.path, min(log.size, LOG_LIMIT)

    def publish(self, server: str) -> str | None:
        """Put the staged log into place, over an older one; return its path, None without any."""
        staged = self._staging.log(server)
        if not staged.exists():
            return None
        place = self._place(server)
        # It may be another filesystem, and a reader must not see half a log.
        growing = self._directory / f".{server}.log.part"
        with storage_errors(f"the installation log {place} cannot be written"):
            self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            growing.unlink(missing_ok=True)
            shutil.copyfile(staged, growing)
            growing.chmod(0o600)
            growing.replace(place)
            staged.unlink()
        return str(place)

    def _place(self, server: str) -> Path:
        return self._directory / f"{server}.log"


@attrs.frozen(eq=False, repr=False)
class OpenLog:
    """A log that is being read. Close it."""

    path: str
    _descriptor: int

    @property
    def size(self) -> int:
        """Its bytes."""
        return os.fstat(self._descriptor).st_size

    def blocks(self) -> Iterator[bytes]:
        """Yield its first `LOG_LIMIT` bytes. Raises `StorageError`."""
        left = LOG_LIMIT
        try:
            while left and (block := os.read(self._descriptor, min(_LOG_PIECE, left))):
                left -= len(block)
                yield block
        except OSError as error:
            raise _unread(self.path, error.strerror) from error

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _unread(path: Path | str, why: object) -> StorageError:
    return StorageError(f"the server is sent without its installation log {path}: {why}")


def _beginning(blocks: Iterable[bytes]) -> Iterator[bytes]:
    left = LOG_LIMIT
    for block in blocks:
        yield block[:left]
        left = max(0, left - len(block))
