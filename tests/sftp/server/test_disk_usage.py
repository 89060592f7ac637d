"""The bytes that count for a server's files, against those on the disk.

The daemon and the SFTP process each count what they do, and tell each other.
"""

from __future__ import annotations

import os
import shutil
import stat
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from threading import Semaphore, Thread
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from wingsd.config import SftpConfig
from wingsd.errors import WingsdError
from wingsd.files.changes import delete, rename
from wingsd.files.guard import Guard
from wingsd.filesystem.new_file import NewFile, NewFileOptions, PartialFile
from wingsd.filesystem.openers import directory_opener
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.usage import UsageCounter
from wingsd.sftp.messages import Granted, ServerState
from wingsd.sftp.server import packets
from wingsd.sftp.server.access import ServerUsage, SessionAccess
from wingsd.sftp.server.operations import SftpOperations

pytestmark = pytest.mark.promise("user-files-respect-the-disk-limit")

KIB = 1024
#: The type of an answer, and the flag of an attribute.
HANDLE, SIZE = 102, 1
LIMIT = 256 * KIB
WRITING = packets.READ | packets.WRITE | packets.CREATE
p = ServerPath.parse


def _raise(error: BaseException) -> None:
    raise error


class Channel:
    """One channel of SFTP, with its requests as methods."""

    def __init__(self, directory: Path, usage: ServerUsage) -> None:
        grant = Granted(0, "user", "server", str(directory), ("*",))
        server: Any = SimpleNamespace(
            opener=directory_opener("auto"),
            owner=None,
            read_only=False,
            config=SftpConfig(),
            budget=Semaphore(100),
            fault=_raise,
            usage=lambda _: usage,
            past=None,
            link=SimpleNamespace(post=lambda *_, **__: None),
        )
        operations = SftpOperations(SessionAccess(grant, server, 1), server)
        self._answer, self.close_all = operations.answer, operations.close
        self._answer(struct.pack(">BI", packets.INIT, packets.VERSION))

    def _done(self, kind: int, *fields: bytes | int) -> bytes:
        """Return the answer to a request: numbers are of 32 bits, and texts have their lengths."""
        body = [
            struct.pack(">I", each)
            if isinstance(each, int)
            else struct.pack(">I", len(each)) + each
            for each in fields
        ]
        return self._answer(struct.pack(">BI", kind, 1) + b"".join(body))

    def open(self, name: str, flags: int = WRITING) -> bytes:
        """Return a handle, nothing where it is refused."""
        answer = self._done(packets.OPEN, name.encode(), flags, 0)
        return answer[-8:] if answer[4] == HANDLE else b""

    def write(self, handle: bytes, offset: int, size: int) -> None:
        self._done(packets.WRITE_DATA, handle, 0, offset, b"x" * size)

    def cut(self, handle: bytes, size: int) -> None:
        self._done(packets.FSETSTAT, handle, SIZE, 0, size)

    def cut_path(self, name: str, size: int) -> None:
        self._done(packets.SETSTAT, name.encode(), SIZE, 0, size)

    def remove(self, name: str) -> None:
        self._done(packets.REMOVE, name.encode())

    def remove_directory(self, name: str) -> None:
        self._done(packets.RMDIR, name.encode())

    def rename(self, name: str, new_name: str) -> None:
        names = (name.encode(), new_name.encode())
        self._done(packets.EXTENDED, b"posix-rename@openssh.com", *names)

    def link(self, name: str, new_name: str) -> None:
        names = (name.encode(), new_name.encode())
        self._done(packets.EXTENDED, b"hardlink@openssh.com", *names)

    def close(self, handle: bytes) -> None:
        self._done(packets.CLOSE, handle)


class Counted:
    """A server's directory, with the counts of the daemon and of the SFTP process."""

    def __init__(self, top: Path) -> None:
        self.home = top / "home"
        self.home.mkdir()
        self.daemon = UsageCounter(used=0, limit=LIMIT)
        self.sftp = ServerUsage()
        self.channel = Channel(self.home, self.sftp)
        self.root = ServerRoot(str(self.home), directory_opener("auto"), None, self.daemon)
        self._acknowledged = 0
        self.exchange()

    def exchange(self) -> None:
        """Let both count what the other has done."""
        self.daemon.free(self._acknowledged - self.sftp.total)
        self._acknowledged = self.sftp.total
        self.sftp.correct(ServerState("", self._acknowledged, self.daemon.used, LIMIT))
        self.sftp.files.look()

    @property
    def used(self) -> int:
        self.exchange()
        return self.sftp.taken or 0

    def on_disk(self) -> int:
        """Return the bytes of all files, also of those that are only open."""
        found = {}
        for top, _, names in os.walk(self.home):
            for each in (os.lstat(os.path.join(top, name)) for name in names):
                found[each.st_ino] = each
        for fd in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                if os.readlink(f"/proc/self/fd/{fd}").startswith(f"{self.home}/"):
                    each = os.stat(f"/proc/self/fd/{fd}")
                    found[each.st_ino] = each
        return sum(each.st_size for each in found.values() if stat.S_ISREG(each.st_mode))


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[Counted]:
    counted = Counted(tmp_path)
    with counted.root:
        yield counted
        counted.channel.close_all()


@pytest.mark.parametrize("way", ["delete", "rename over", "write"])
def test_two_names_that_go_at_once_free_their_file_once(
    counted: Counted, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    root, other = counted.root, counted.channel
    root.write(p("a"), [b"x" * KIB])
    root.write(p("new"), [b"y" * KIB])
    root.link(p("a"), p("b"))
    counted.exchange()
    threads: list[Thread] = []
    call: Any = os.unlink if way == "delete" else os.rename

    def interrupted(*arguments: Any, **named: Any) -> None:
        """Have the other name deleted by the SFTP process right after this one."""
        monkeypatch.undo()
        call(*arguments, **named)
        threads.append(Thread(target=other.remove, args=("b",)))
        threads[0].start()
        threads[0].join(0.2)  # It waits for this one to end.

    monkeypatch.setattr(os, call.__name__, interrupted)
    if way == "delete":
        root.remove(p("a"))
    elif way == "rename over":
        root.rename(p("new"), p("a"), replace=True)
    else:
        root.write(p("a"), [b"z" * KIB])
    threads[0].join()
    assert counted.used == counted.on_disk()


def test_a_file_that_grows_while_it_is_deleted_is_freed_as_it_was_counted(
    counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = counted.channel.open("a")
    counted.channel.write(handle, 0, KIB)
    counted.root.write(p("kept"), [b"x" * 4 * KIB])
    counted.exchange()
    writing = Thread(target=counted.channel.write, args=(handle, KIB, KIB))
    call = os.unlink

    def interrupted(*arguments: Any, **named: Any) -> None:
        monkeypatch.undo()
        call(*arguments, **named)
        writing.start()
        writing.join(0.2)  # It waits for what deletes the file.

    monkeypatch.setattr(os, "unlink", interrupted)
    counted.root.remove(p("a"))
    writing.join()
    assert counted.used == counted.on_disk() == 6 * KIB
    counted.channel.close(handle)
    assert counted.used == counted.on_disk() == 4 * KIB


#: The name of what a user has uploaded of "a".
PART = f".wingsd-{sha256(b'user' + bytes(1) + b'a').hexdigest()[:32]}.upload"
names = st.sampled_from(("a", "b", "d/a", "d/b"))
all_names = st.sampled_from(("a", "b", "d/a", "d/b", PART, "d/" + PART))
sizes = st.integers(0, 20).map(lambda size: size * 4 * KIB)
which = st.integers(0, 7)


class Usage(RuleBasedStateMachine):
    """Operations of users by SFTP and by the file manager, in any order, on a few files."""

    def __init__(self) -> None:
        super().__init__()
        self.top = Path(tempfile.mkdtemp(dir="/dev/shm"))
        self.counted = Counted(self.top)
        self.handles: list[bytes] = []
        self.files: list[NewFile] = []
        self.parts: list[PartialFile] = []
        self.has_parts = False

    def teardown(self) -> None:
        """Close all: what counts is what is there, and uploads that nobody had open."""
        self.counted.channel.close_all()
        for file in self.files:
            file.close()
        for part in self.parts:
            part.close()
        if not self.has_parts:
            assert self.counted.used == self.counted.on_disk()
        self.counted.root.close()
        shutil.rmtree(self.top)

    @invariant()
    def all_counts(self) -> None:
        assert self.counted.used >= self.counted.on_disk()

    def try_to(self, work: Callable[[ServerRoot], object]) -> None:
        with suppress(WingsdError):
            work(self.counted.root)

    # By SFTP

    @rule(name=all_names, flags=st.sampled_from((0, packets.TRUNCATE, packets.APPEND)))
    def open(self, name: str, flags: int) -> None:
        self.handles += filter(None, [self.counted.channel.open(name, WRITING | flags)])

    @rule(name=all_names)
    def read(self, name: str) -> None:
        self.handles += filter(None, [self.counted.channel.open(name, packets.READ)])

    @rule(at=which, offset=sizes, size=sizes)
    def write(self, at: int, offset: int, size: int) -> None:
        if self.handles:
            self.counted.channel.write(self.handles[at % len(self.handles)], offset, size)

    @rule(at=which, size=sizes)
    def cut(self, at: int, size: int) -> None:
        if self.handles:
            self.counted.channel.cut(self.handles[at % len(self.handles)], size)

    @rule(name=all_names, size=sizes)
    def cut_path(self, name: str, size: int) -> None:
        self.counted.channel.cut_path(name, size)

    @rule(name=all_names)
    def remove(self, name: str) -> None:
        self.counted.channel.remove(name)

    @rule()
    def remove_directory(self) -> None:
        self.counted.channel.remove_directory("d")

    @rule(name=all_names, new_name=names)
    def rename_over(self, name: str, new_name: str) -> None:
        self.counted.channel.rename(name, new_name)

    @rule(name=all_names, new_name=names)
    def link(self, name: str, new_name: str) -> None:
        self.counted.channel.link(name, new_name)

    @rule(at=which)
    def close_handle(self, at: int) -> None:
        if self.handles:
            self.counted.channel.close(self.handles.pop(at % len(self.handles)))

    # By the file manager

    @rule(name=names, size=sizes)
    def write_whole(self, name: str, size: int) -> None:
        self.try_to(lambda root: root.write(p(name), [b"x" * size]))

    @rule(name=names, size=sizes)
    def begin(self, name: str, size: int) -> None:
        self.try_to(
            lambda root: self.files.append(root.new_file(p(name), NewFileOptions(size=size)))
        )

    @rule(at=which, size=sizes)
    def go_on(self, at: int, size: int) -> None:
        if self.files:
            self.try_to(lambda _: self.files[at % len(self.files)].write(b"x" * size))

    @rule(at=which, whole=st.booleans())
    def end(self, at: int, whole: bool) -> None:
        if self.files:
            with self.files.pop(at % len(self.files)) as file:
                self.try_to(lambda _: whole and file.commit())

    @rule(name=names)
    def begin_part(self, name: str) -> None:
        self.has_parts = True
        self.try_to(lambda root: self.parts.append(root.partial_file(p(name), "user")))

    @rule(at=which, size=sizes)
    def go_on_with_part(self, at: int, size: int) -> None:
        if self.parts:
            self.try_to(lambda _: self.parts[at % len(self.parts)].write(b"x" * size))

    @rule(at=which, way=st.sampled_from((PartialFile.commit, PartialFile.discard, None)))
    def end_part(self, at: int, way: Callable[[PartialFile], None] | None) -> None:
        if self.parts:
            with self.parts.pop(at % len(self.parts)) as part:
                self.try_to(lambda _: way and way(part))

    @rule(name=names, new_name=names)
    def copy(self, name: str, new_name: str) -> None:
        self.try_to(lambda root: root.copy(p(name), p(new_name)))

    @rule(name=names, new_name=names)
    def rename(self, name: str, new_name: str) -> None:
        files = [(p(name), p(new_name))]
        self.try_to(lambda root: rename(Guard(root), files))

    @rule(name=st.sampled_from(("a", "b", "d/a", "d/b", "d", PART)))
    def delete(self, name: str) -> None:
        self.try_to(lambda root: delete(Guard(root), [p(name)]))

    # By the server's program

    @rule(name=names, new_name=names)
    def link_by_program(self, name: str, new_name: str) -> None:
        with suppress(OSError):
            os.link(self.counted.home / name, self.counted.home / new_name)


class TestUsage(Usage.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
