"""Disks that are full or cannot be written to: real ones, small and mounted for each test."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from attrs import evolve

from tests.archive.hostile.case import directory
from tests.archive.packing import packed
from tests.support.archives import END, header, in_blocks, member
from wingsd.archive.extract import extract
from wingsd.archive.quota import DEFAULT, ArchiveLimits
from wingsd.errors import BadRequest, StorageError, WingsdError
from wingsd.filesystem import walk
from wingsd.filesystem.walk import ENTRY_SIZE, measure
from wingsd.transfers.storage.staging import Staging

pytestmark = pytest.mark.root

MIB = 1 << 20
UUID = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"
OWNER = (1234, 1235)
WORDS = "There is not enough disk space available to perform that action."
NO_RESERVE = evolve(DEFAULT, reserve=0, inode_reserve=0)
RANDOM = random.Random("disks")
Mount = Callable[..., Path]


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.fail(
            f"{' '.join(command)}: {done.stderr.decode().strip()}\n"
            "These tests mount small file systems. Run them as root, in a container with "
            "--privileged: without them nothing says what a full disk does.",
            pytrace=False,
        )
    return done.stdout.decode().strip()


class DiskReceiver:
    """A node's staging on a disk, in which one server is received, to its end."""

    def __init__(self, disk: Path) -> None:
        self.disk = disk
        self.staging = Staging(str(disk / "volumes"), OWNER, durable=True)
        self.staging.prepare()
        self.before = self.state()

    def state(self) -> tuple[list[str], int]:
        """Return every name on the disk, and its inodes in use."""
        names = sorted(str(path.relative_to(self.disk)) for path in self.disk.rglob("*"))
        found = os.statvfs(self.disk)
        return names, found.f_files - found.f_ffree

    def close(self) -> None:
        self.staging.close()

    def refuses(
        self,
        archive: bytes | Iterator[bytes],
        kind: type[WingsdError],
        words: str,
        limits: ArchiveLimits = NO_RESERVE,
    ) -> WingsdError:
        """Check that an archive is refused with these words, and leaves nothing."""
        blocks = in_blocks(archive) if isinstance(archive, bytes) else archive
        with pytest.raises(kind, match=words) as caught:
            self.receive(blocks, limits)
        assert self.state() == self.before
        return caught.value

    def receive(self, archive: Iterator[bytes], limits: ArchiveLimits = NO_RESERVE) -> None:
        """Extract as a transfer does, and undo as it does."""
        directory = self.staging.create(UUID)
        try:
            extract(archive, directory, OWNER, print, limits=limits)
        finally:
            self.staging.withdraw(UUID)
            self.staging.discard(UUID)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Return what mounts a file system and says where; all are unmounted at the end."""
    mounted: list[Path] = []

    def mount(*arguments: str) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        run("mount", *arguments, str(place))
        mounted.append(place)
        return place

    yield mount
    try:
        for place in mounted:
            run("umount", str(place))
    finally:
        for place in filter(os.path.ismount, mounted):
            run("umount", "--lazy", str(place))


@pytest.fixture
def tmpfs(mount: Mount) -> Path:
    """Return a tmpfs of 8 MiB and 300 inodes."""
    return mount("-t", "tmpfs", "-o", "size=8m,nr_inodes=300", "tmpfs")


@pytest.fixture
def ext4(mount: Mount, tmp_path: Path) -> Iterator[Path]:
    """Return an ext4 image of 16 MiB, mounted by a loop device."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(16 * MIB)
    run("mkfs.ext4", "-q", "-m", "0", str(image))
    device = run("losetup", "--find", "--show", str(image))
    try:
        yield mount(device)
    finally:
        run("losetup", "--detach", device)  # when it is unmounted


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest) -> Path:
    place: Path = request.getfixturevalue(request.param)
    return place


@pytest.fixture
def receiver(disk: Path) -> Iterator[DiskReceiver]:
    with closing(DiskReceiver(disk)) as receiver:
        yield receiver


def noise(size: int) -> bytes:
    return RANDOM.randbytes(size)


def bomb(size: int) -> bytes:
    pack = zlib.compressobj(9, wbits=31)
    parts = [pack.compress(header(b"world/bomb", size=size))]
    parts += [pack.compress(bytes(MIB)) for _ in range(size // MIB)]
    return b"".join([*parts, pack.compress(END), pack.flush()])


@pytest.mark.promise("full-disk-leaves-nothing")
def test_one_file_fills_the_disk(receiver: DiskReceiver) -> None:
    archive = member(b"world/r.0.0.mca", noise(20 * MIB)) + END
    words = r'"world/r.0.0.mca" could not be .*the disk is full; fr'
    receiver.refuses(archive, StorageError, words)


@pytest.mark.promise("full-disk-leaves-nothing")
def test_directories_use_up_the_inodes(tmpfs: Path) -> None:
    archive = b"".join(directory(b"d%d/" % n) for n in range(400)) + END
    words = r'"d\d+" could not be written: the disk is full'
    with closing(DiskReceiver(tmpfs)) as receiver:
        receiver.refuses(archive, StorageError, words)


@pytest.mark.promise("archive-respects-the-disk-limit")
def test_a_bomb_stops_at_the_reserve(receiver: DiskReceiver) -> None:
    words = r'"world/bomb" takes \d+ MiB more, \d+ MiB are free'
    receiver.refuses(bomb(32 * MIB), StorageError, words, DEFAULT)


@pytest.mark.promise("archive-respects-the-disk-limit")
def test_a_bomb_stops_at_the_servers_limit(receiver: DiskReceiver) -> None:
    # what comes after the header is never asked for
    taken = []

    def archive() -> Iterator[bytes]:
        yield member(b"first", b"x") + header(b"world/bomb", size=4 * MIB)
        for _ in range(4):
            taken.append(1)
            yield bytes(MIB)
        yield END

    words = "5 MiB, its disk limit is 3 MiB"
    error = receiver.refuses(archive(), BadRequest, words, DEFAULT.for_server(3))
    assert (error.status, error.message) == (400, WORDS)


@pytest.mark.promise("archive-respects-the-disk-limit")
def test_implied_directories_count_against_the_servers_limit(
    receiver: DiskReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "FREE_ENTRIES", 50)
    few = b"".join(member(b"%d/" % n + b"d/" * 40 + b"f", b"") for n in range(3)) + END
    limits = evolve(NO_RESERVE, disk=72 * ENTRY_SIZE)
    receiver.refuses(few, BadRequest, "of its 123 directories and links", limits)
    receiver.receive(in_blocks(few), evolve(NO_RESERVE, disk=73 * ENTRY_SIZE))


@pytest.mark.promise("full-disk-leaves-nothing")
def test_directories_leave_inodes_to_others(mount: Mount) -> None:
    small = mount("-t", "tmpfs", "-o", "size=64m,nr_inodes=6400", "tmpfs")
    archive = b"".join(directory(b"d%d/" % n) for n in range(6_400)) + END
    with closing(DiskReceiver(small)) as receiver:
        place = receiver.staging.create(UUID)
        with pytest.raises(StorageError, match=r"320 must stay free .*inode_reserve"):
            extract(in_blocks(archive), place, OWNER, print, limits=DEFAULT)
        assert os.statvfs(small).f_favail > 90
        receiver.staging.withdraw(UUID)
        receiver.staging.discard(UUID)
        assert receiver.state() == receiver.before


@pytest.mark.promise("size-is-counted-alike")
def test_what_is_sent_counts_as_much_as_what_is_received(
    receiver: DiskReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "FREE_ENTRIES", 4)
    tree = tmp_path / "tree"
    (tree / "a/b/c").mkdir(parents=True)
    (tree / "f").write_bytes(b"x" * 5000)
    for number in range(5):
        os.link(tree / "f", tree / f"a/{number}")
        (tree / f"s{number}").symlink_to("f")
    size = measure(str(tree))
    assert size == 5000 + (3 + 5 + 5 - 4) * ENTRY_SIZE
    archive = bytes(packed(tree).archive)
    receiver.receive(in_blocks(archive), evolve(NO_RESERVE, disk=size))
    receiver.refuses(archive, BadRequest, "limit", evolve(NO_RESERVE, disk=size - 1))


def remount(disk: Path, how: str) -> None:
    run("mount", "-o", f"remount,{how}", str(disk))


@pytest.mark.promise("full-disk-leaves-nothing")
def test_a_disk_that_becomes_read_only(disk: Path) -> None:
    place = disk / "volumes"
    place.mkdir()

    def archive() -> Iterator[bytes]:
        for n in range(10):
            if n == 5:
                remount(disk, "ro")
            yield member(b"d/%d" % n, b"x" * 512)
        yield END

    with pytest.raises(
        StorageError, match=r'"d/5" could not be written: the file system is read-o'
    ):
        # in one thread, so that no file is open for writing when the next block is asked for
        extract(archive(), str(place), OWNER, print, limits=NO_RESERVE, threads=False)
    remount(disk, "rw")
    assert sorted(os.listdir(place / "d")) == ["0", "1", "2", "3", "4"]


@pytest.mark.promise("full-disk-leaves-nothing")
def test_a_disk_that_fails(ext4: Path) -> None:
    """As ext4 does where it finds itself damaged: no more is written, whoever asks."""
    remount(ext4, "errors=remount-ro")
    device = device_of(ext4)

    def archive() -> Iterator[bytes]:
        for n in range(200):
            if n == 100:
                fault = Path("/sys/fs/ext4") / Path(device).name / "trigger_fs_error"
                fault.write_text("a test")
            yield member(b"d/%d" % n, noise(1000))
        yield END

    with closing(DiskReceiver(ext4)) as receiver:
        place = receiver.staging.create(UUID)
        with pytest.raises(StorageError) as caught:
            extract(archive(), place, OWNER, print, limits=NO_RESERVE)
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.__cause__.errno in (errno.EROFS, errno.EIO)
        assert "see this node's kernel log" in caught.value.detail
        with pytest.raises(StorageError, match="kernel log"):
            receiver.staging.withdraw(UUID)
        receiver.staging.finish(UUID)
    run("umount", str(ext4))
    # when it is repaired, the node's next start finds what could not be undone and removes it
    # (by the device: what the kernel keeps of it in memory would not see a change of the image)
    repaired = subprocess.run(["fsck.ext4", "-fy", device], capture_output=True, check=False)
    assert repaired.returncode in (0, 1)
    run("mount", device, str(ext4))
    with closing(DiskReceiver(ext4)) as again:
        assert not [name for name in again.before[0] if UUID in name]
        again.receive(in_blocks(member(b"f", b"x") + END))


def device_of(disk: Path) -> str:
    """Return the device that is mounted there."""
    for line in Path("/proc/mounts").read_text().splitlines():
        device, place, *_ = line.split()
        if place == str(disk):
            return device
    pytest.fail(f"{disk} is not mounted")
