"""Real processes that parse archives: what programs make, what each may take, how it ends."""

from __future__ import annotations

import bz2
import errno
import gzip
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import brotli
import pytest

from tests.support.archives import END, header, member
from tests.support.parsers import TRIES, lives, open_secret, program
from tests.support.user_archives import (
    ZipMember,
    rar4,
    rar5,
    snappy_framed,
    zip_of_dictionary,
    zipped,
)
from wingsd.user_archives.frames import (
    ArchiveMember,
    ArchivePlan,
    ArchiveRefused,
    MemberKind,
    ParsedArchive,
    Reason,
)
from wingsd.user_archives.kinds import BROTLI, name_hint
from wingsd.user_archives.process import BOUNDS, ArchiveProcess, ParserBounds, ParserFailed

__all__ = ["open_secret"]

pytestmark = pytest.mark.promise("user-archive-stays-inside")

MIB = 1 << 20
TEXT = b"text" * 100_000


def never() -> None:
    """Nothing cancels it."""


def process(
    path: Path,
    most: int | None = None,
    bounds: ParserBounds = BOUNDS,
    check: Callable[[], None] = never,
    fd: int = -1,
) -> ArchiveProcess:
    size = path.stat().st_size
    return ArchiveProcess(fd, size, name_hint(os.fsencode(path.name)), most, check, bounds)


def whole(found: Iterator[ParsedArchive]) -> list[ParsedArchive | ArchiveRefused]:
    """Return what an archive holds, with the refusal at its end."""
    parts: list[ParsedArchive | ArchiveRefused] = []
    try:
        parts += found
    except ArchiveRefused as error:
        parts.append(error)
    return parts


def contents(path: Path, **options: object) -> list[ParsedArchive | ArchiveRefused]:
    with path.open("rb") as file:
        return whole(process(path, fd=file.fileno(), **options).contents())  # type: ignore[arg-type]


def files(parts: Sequence[ParsedArchive | ArchiveRefused]) -> dict[str, bytes]:
    """Return the data by the names of files."""
    found: dict[str, bytes] = {}
    name = ""
    for part in parts:
        if isinstance(part, ArchiveMember) and part.kind is MemberKind.FILE:
            name = os.fsdecode(part.name)
            found[name] = b""
        elif isinstance(part, bytes):
            found[name] += part
        else:
            assert not isinstance(part, ArchiveRefused), part
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    (made / "d/empty").mkdir(parents=True)
    (made / "d/text").write_bytes(TEXT)
    (made / "ü 日").write_bytes(b"name")
    return made


SEVEN = ("7z", "a", "-bd", "-bso0")
PROGRAMS = {
    "lzma.7z": (*SEVEN, "OUT", "."),
    "solid.7z": (*SEVEN, "-ms=on", "-m0=lzma2:d=64m", "OUT", "."),
    "ppmd.7z": (*SEVEN, "-m0=PPMd", "OUT", "."),
    "filters.7z": (*SEVEN, "-m0=BCJ", "-m1=LZMA", "OUT", "."),
    "deflate.zip": (*SEVEN, "-tzip", "OUT", "."),
    "deflate64.zip": (*SEVEN, "-tzip", "-mm=Deflate64", "OUT", "."),
    "lzma.zip": (*SEVEN, "-tzip", "-mm=LZMA", "OUT", "."),
    "bzip2.zip": (*SEVEN, "-tzip", "-mm=BZip2", "OUT", "."),
    "xz.tar.xz": ("tar", "-cJf", "OUT", "."),
    "bzip2.tbz2": ("tar", "-cjf", "OUT", "."),
    "zstd.tar.zst": ("bsdtar", "-c", "--zstd", "-f", "OUT", "."),
    "lz4.tar.lz4": ("bsdtar", "-c", "--lz4", "-f", "OUT", "."),
    "lzip.tar.lz": ("tar", "--lzip", "-cf", "OUT", "."),
    "pax.tgz": ("tar", "--format=pax", "-czf", "OUT", "."),
    "plain.tar": ("tar", "--format=v7", "-cf", "OUT", "d"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_programs_make_is_parsed(tree: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    command = [str(path) if part == "OUT" else part for part in PROGRAMS[name]]
    subprocess.run(command, cwd=tree, check=True, env=os.environ | {"LC_ALL": "C.UTF-8"})
    parts = contents(path)
    found = {name.removeprefix("./"): data for name, data in files(parts).items()}
    expected = {"d/text": TEXT} if name == "plain.tar" else {"d/text": TEXT, "ü 日": b"name"}
    assert found == expected
    names = [part.name for part in parts if isinstance(part, ArchiveMember)]
    assert any(each.strip(b"./").endswith(b"d/empty") for each in names)
    assert isinstance(parts[0], ArchivePlan)
    assert parts[0].size == sum(map(len, expected.values()))


TAR = member(b"f", TEXT) + END
MADE = {
    "a.rar": rar5((b"f", TEXT)),
    "b.rar": rar4((b"f", TEXT)),
    "a.tar.br": brotli.compress(TAR),
    "a.tar.sz": snappy_framed(TAR),
    "a.br": brotli.compress(TEXT),
    "a.sz": snappy_framed(TEXT),
    "a.gz": gzip.compress(TEXT[:9]) + gzip.compress(TEXT[9:]),
    "self-extracting.zip": b"#!/bin/sh\n" + zipped(ZipMember(b"f", TEXT)),
    # Renamed by users: the content counts.
    "a-tar.zip": TAR,
    "a-tar.gz.jar": gzip.compress(TAR),
    "a-zip.tar.gz": zipped(ZipMember(b"f", TEXT)),
}


@pytest.mark.parametrize("name", MADE)
def test_what_no_program_of_debian_makes_is_parsed(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(MADE[name])
    assert list(files(contents(path)).values()) == [TEXT]


def test_a_list_is_read_no_further_than_its_files_may_be_large(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(zipped(*(ZipMember(b"%d" % n, bytes(100)) for n in range(9))))
    with path.open("rb") as file:
        found = process(path, most=450, fd=file.fileno()).contents()
        assert next(found) == ArchivePlan(500, 5)
        with pytest.raises(ParserFailed):
            next(found)


def test_an_encrypted_7z_is_refused_by_its_list(tree: Path, tmp_path: Path) -> None:
    for option in ("-mhe=on", "-mhe=off"):
        path = tmp_path / f"{option}.7z"
        subprocess.run([*SEVEN, "-psecret", option, path, "."], cwd=tree, check=True)
        (refusal,) = contents(path)
        assert isinstance(refusal, ArchiveRefused)
        assert refusal.reason is Reason.ENCRYPTED


@pytest.mark.promise("user-archive-stays-inside")
@pytest.mark.parametrize("size", [900, 1_000_000])
def test_a_7z_with_a_changed_byte_is_damaged(tmp_path: Path, size: int) -> None:
    made = tmp_path / "made"
    made.write_bytes(b"x" * size)
    path = tmp_path / "a.7z"
    subprocess.run([*SEVEN, "-mx0", path, made], check=True)
    data = bytearray(path.read_bytes())
    data[data.index(b"xxxx")] ^= 1
    path.write_bytes(data)
    refusal = contents(path)[-1]
    assert isinstance(refusal, ArchiveRefused)
    assert (refusal.reason, "CRC" in refusal.detail) == (Reason.DAMAGED, True)


@pytest.mark.promise("user-archive-process-is-confined")
def test_a_dictionary_that_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(zip_of_dictionary(TEXT, 1 << 30))
    refusal = contents(path)[-1]
    assert isinstance(refusal, ArchiveRefused)
    assert refusal.reason is Reason.EXCESSIVE, refusal


def test_much_output_of_brotli_is_not_copied_again_and_again() -> None:
    made = brotli.Compressor(quality=5)
    size, block = 128 * MIB, bytes(16 * MIB)
    packed = b"".join(made.process(block) for _ in range(8)) + made.finish()
    begun = time.process_time()
    assert len(brotli.decompress(packed)) == size
    least = time.process_time() - begun
    assert sum(map(len, BROTLI.plain(iter([packed])))) == size
    assert time.process_time() - begun - least < 4 * least + 0.5


@pytest.mark.promise("user-archive-process-is-confined")
def test_an_archive_that_takes_too_much_time_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.bz2"
    head = header(b"f", size=b"77777777777")
    path.write_bytes(bz2.compress(head) + bz2.compress(bytes(8 * MIB)) * 500)
    (refusal,) = contents(path, bounds=attrs.evolve(BOUNDS, cpu_seconds=1))
    assert isinstance(refusal, ArchiveRefused)
    assert refusal.reason is Reason.EXCESSIVE


@pytest.mark.promise("user-archive-process-is-confined")
@pytest.mark.parametrize(
    ("code", "why", "bounds"),
    [
        ("os.kill(os.getpid(), 11)", r"its parser ended by signal 11 \(Segmentation fault\)", {}),
        ("os._exit(3)", "its parser ended by its exit with status 3", {}),
        ("out(b'P')", "its parser ended by its exit with status 0", {}),
        ("out(b'?0000')", "the process that parsed it sent an unknown frame", {}),
        ("out(b'D' + bytes(3) + bytes([1, 1]))", "the process that parsed it sent no plan", {}),
        ("out(b'M' + bytes([255] * 4))", "the process that parsed it sent too long a frame", {}),
        (
            "out(b'P' + bytes([0, 0, 0, 16]) + bytes(8) + bytes([1] * 8))",
            "the process that parsed it sent a plan without sense",
            {},
        ),
        ("import time; time.sleep(600)", "its parser did nothing for 0.3 s", {"silence": 0.3}),
        ("while True: out(b'T' + bytes(4))", "its parser had no end after 1 s", {"total": 1}),
    ],
)
def test_a_process_that_breaks_is_no_fault_of_the_archive(
    tmp_path: Path, code: str, why: str, bounds: dict[str, Any]
) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(zipped())
    started = process(path, bounds=attrs.evolve(BOUNDS, **bounds))
    started.program = program(code)
    with path.open("rb") as file:
        started.archive = file.fileno()
        with pytest.raises(ParserFailed, match=why):
            list(started.contents())


@pytest.mark.promise("user-archive-stays-inside")
def test_an_archive_that_grows_while_it_is_read_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    first = b"".join(member(b"%d" % n, bytes(MIB)) for n in range(4))
    path.write_bytes(first + END)
    with path.open("rb+") as file:
        found = process(path, fd=file.fileno()).contents()
        assert next(found) == ArchivePlan(4 * MIB, 4)
        os.pwrite(file.fileno(), member(b"more", b"") + END, len(first))
        refusal = whole(found)[-1]
    assert isinstance(refusal, ArchiveRefused)
    assert refusal.reason is Reason.DAMAGED


class Cancelled(Exception):
    """It is cancelled."""


def test_a_process_ends_when_it_is_cancelled_or_its_contents_are_closed(tmp_path: Path) -> None:
    path = tmp_path / "f.gz"
    path.write_bytes(gzip.compress(bytes(1 << 22)))
    pids: list[int] = []

    def check() -> None:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        pids.extend(int(pid) for pid in children if is_parser(int(pid)))
        if pids:
            raise Cancelled

    with pytest.raises(Cancelled):
        contents(path, check=check)
    assert not lives(pids[0])


def is_parser(pid: int) -> bool:
    process, command = Path(f"/proc/{pid}"), b""
    # It is empty for a moment after the start, and when a process has ended.
    while not command and ") Z " not in (process / "stat").read_text():
        command = (process / "cmdline").read_bytes()
    return b"user_archives.child" in command


# What it sees and may do, told by what stands in the place of the parser.
SPY = """
import wingsd.user_archives.child as child

class Spy(child.ArchiveParser):
    def prepare(self):
        super().prepare()
        self.fds = descriptors()
        self.environment = open("/proc/self/environ").read()
        self.files = [open(f"/proc/self/{name}") for name in ("status", "limits")]

    def run(self):
        status, limits = (file.read() for file in self.files)
        found = {
            "fds": self.fds, "environment": self.environment,
            "tried": [tried(open, "/etc/passwd"), tried(socket.socket), tried(os.fork),
                      tried(os.mkdir, "/tmp/made"), tried(os.stat, "/"), tried(os.fchmod, 0, 511),
                      tried(os.kill, os.getppid(), 0), tried(os.listdir, "/proc/self")],
            "status": [field(status, name)[0] for name in ("CapEff", "CapPrm", "CapAmb", "Seccomp",
                                                           "NoNewPrivs", "Uid")],
            "limits": [limit(limits, name) for name in ("file size", "processes", "open files",
                                                        "address space")],
        }
        self._write(child.ArchivePlan(-1, 1).encode())
        member = child.ArchiveMember(child.MemberKind.FILE, b"", 0o644, None, -1)
        self._write(member.encode())
        self._data(json.dumps(found).encode())
        self._write(child.frame(child.FrameKind.MEMBER_END) + child.frame(child.FrameKind.END))

child.ArchiveParser = Spy
child.main(*map(int, sys.argv[2:]))
"""


def spied(path: Path) -> dict[str, object]:
    started = process(path)
    *start, _code, modules, cpu, memory, most, hint = started.program
    started.program = [*start, TRIES + SPY, modules, cpu, memory, most, hint]
    with path.open("rb") as file:
        started.archive = file.fileno()
        (data,) = files(list(started.contents())).values()
    return dict(json.loads(data))


@pytest.mark.promise("user-archive-process-is-confined")
def test_the_process_has_the_archive_and_a_pipe_and_nothing_else(
    tmp_path: Path, open_secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WINGSD_TOKEN", "hunter2")
    path = tmp_path / "a.zip"
    path.write_bytes(zipped())
    seen = spied(path)
    fds = seen["fds"]
    assert isinstance(fds, dict)
    assert fds.pop("1").startswith("pipe:")
    assert fds == {"0": str(path), "2": "/dev/null"}
    assert seen["environment"] == ""
    assert seen["tried"] == [errno.EPERM] * 8
    user = "65534" if os.geteuid() == 0 else str(os.geteuid())
    assert seen["status"] == [*["0" * 16] * 3, "2", "1", user]
    memory = str(BOUNDS.memory)
    assert seen["limits"] == [["0", "0"], ["0", "0"], ["3", "3"], [memory, memory]]


def test_the_process_of_a_large_archive_may_take_more_time(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with path.open("wb") as file:
        file.truncate(100 * MIB)
    assert process(path).program[-4] == str(BOUNDS.cpu_seconds + 100)
