"""Backups are made, shown, ended and reported; what they leave out."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.archive.packing import packed, unpacked
from tests.backups.conftest import Make
from tests.backups.harness import (
    BACKUP,
    OTHER,
    SERVER,
    BackupNode,
    inode,
    record_flushes,
)
from tests.callbacks.queue_harness import DOWN
from tests.support.reactor import until
from wingsd.archive.compress import ArchiveFormat
from wingsd.archive.policy import MAX_DEPTH
from wingsd.backups.catalogue import COMPLETE
from wingsd.backups.creation import MAX_IGNORE_FILE, check_space, ignore_lines
from wingsd.backups.points import IgnoreList
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL
from wingsd.errors import (
    AdapterUnknown,
    BackupExists,
    MemberRefused,
    NoSpaceForBackup,
    ServerBusy,
    StorageError,
    TreeTooLarge,
)
from wingsd.filesystem.directory import OpenFile, open_regular
from wingsd.filesystem.openers import directory_opener
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.walk import opened, walk
from wingsd.servers.operations import Hold, Operation
from wingsd.statedb import Outcome

FAILED = {"checksum": "", "checksum_type": "sha1", "size": 0, "successful": False, "parts": None}
PLACE = f"{BACKUP}.tar.gz"


def members(node: BackupNode, place: str = PLACE) -> set[str]:
    with tarfile.open(node.backups / place) as archive:
        return {member.name for member in archive}


async def test_a_backup_is_reported_with_its_catalogue_beside_it(node: BackupNode) -> None:
    (node.home / "world").write_bytes(os.urandom(100_000))
    told = await node.make()
    data = (node.backups / PLACE).read_bytes()
    assert told["checksum"] == hashlib.sha1(data, usedforsecurity=False).hexdigest()
    assert (told["size"], told["successful"], told["parts"]) == (len(data), True, None)
    made = node.catalogue()
    assert (made.server, made.state, made.files) == (SERVER, COMPLETE, 1)
    assert (made.bytes, made.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (made.checksum_type, made.checksum) == ("sha1", told["checksum"])
    assert node.records() == []


async def test_an_archive_is_on_stable_storage_when_it_is_reported(
    node: BackupNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = record_flushes(monkeypatch)
    (node.home / "world").write_bytes(b"world")
    await node.make()
    assert {inode(node.backups / PLACE), inode(node.backups)} <= flushed


async def test_the_page_of_go_panels_gets_both_names_of_the_end(node: BackupNode) -> None:
    told = await node.make()
    named, bare = node.server.events
    assert (named[0], bare[0]) == (f"backup completed:{BACKUP}", "backup completed")
    assert (
        json.loads(named[1])
        == json.loads(bare[1])
        == {
            "uuid": BACKUP,
            "is_successful": True,
            "checksum": told["checksum"],
            "checksum_type": "sha1",
            "file_size": told["size"],
        }
    )
    assert node.server.said[0] == "A backup of the server is being made."
    assert node.server.said[-1].startswith("The backup is complete: ")


async def test_the_page_of_calagopus_gets_its_events(make_node: Make) -> None:
    node = make_node(CALAGOPUS)
    (node.home / "a").write_bytes(bytes(1000))
    told = await node.make()
    names = [name for name, *_ in node.server.events]
    assert names[0] == "backup started"
    assert set(names[1:-1]) == {"backup progress"}
    assert names[-1] == "backup completed"
    assert {event[1] for event in node.server.events} == {BACKUP}
    progress = json.loads(node.server.events[1][2])
    assert set(progress) == {"progress", "total"}
    end = json.loads(node.server.events[-1][2])
    assert end == {key: value for key, value in told.items() if key != "parts"}
    assert (end["checksum_type"], end["files"], end["browsable"]) == ("sha256", 1, False)


@pytest.mark.parametrize("family", [PTERODACTYL, PELICAN])
async def test_the_console_of_the_others_tells_now_and_then_how_far_it_is(
    make_node: Make, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setattr("wingsd.backups.creation._MESSAGE_EVERY", 0.01)
    node = make_node(family, write_limit=1)
    (node.home / "a").write_bytes(os.urandom(2_000_000))
    await node.begin()
    told = "The backup is being made: "
    await until(lambda: any(line.startswith(told) for line in node.server.said))
    assert node.server.said[1].startswith(told)
    assert await node.made.cancel(BACKUP)
    await node.over()
    assert node.server.said[-1] == f"The backup {BACKUP} was cancelled."


@pytest.mark.parametrize("form", [*ArchiveFormat])
async def test_each_format_of_calagopus_is_made(make_node: Make, form: ArchiveFormat) -> None:
    node = make_node(CALAGOPUS, form=form)
    (node.home / "a").write_bytes(b"content")
    await node.make()
    assert node.stored().suffix == form.suffix


async def test_what_the_lists_name_is_left_out(make_node: Make) -> None:
    node = make_node(CALAGOPUS)
    for name in ("kept", "a.log", "b.tmp", "c.key"):
        (node.home / name).write_text(name)
    (node.home / ".pteroignore").write_text("*.log\n")
    (node.home / ".pelicanignore").write_text("*.tmp\n")
    node.server.deny("*.key")
    await node.make()
    assert members(node) == {".", "kept", ".pteroignore", ".pelicanignore"}
    await node.make(OTHER, "kept")
    kept = {".", "a.log", "b.tmp", ".pteroignore", ".pelicanignore"}
    assert members(node, f"{OTHER}.tar.gz") == kept


async def test_a_denylist_does_not_count_for_go_panels(make_node: Make) -> None:
    node = make_node(PELICAN)
    (node.home / "c.key").write_text("key")
    node.server.deny("*.key")
    await node.make()
    assert "c.key" in members(node, f"{SERVER}/{PLACE}")
    assert (node.backups / SERVER).stat().st_mode & 0o777 == 0o700


@pytest.mark.promise("unrestorable-backup-is-refused")
async def test_a_list_that_leaves_nothing_fails_with_advice(node: BackupNode) -> None:
    (node.home / "world").mkdir()
    (node.home / "world/level.dat").write_text("x")
    assert await node.make(ignore="*\n!world/") == FAILED
    assert "leaves nothing of the server" in node.server.said[-1]
    assert node.left() == []
    assert (await node.make(OTHER, "/*\n!/world/"))["successful"]
    assert members(node, f"{OTHER}.tar.gz") == {".", "world", "world/level.dat"}


async def test_an_empty_server_has_an_empty_backup(node: BackupNode) -> None:
    assert (await node.make(ignore="*"))["successful"]
    assert members(node) == {"."}


@pytest.mark.promise("damaged-backup-is-found")
async def test_an_archive_that_cannot_be_opened_blocks_no_other(
    node: BackupNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(parent: int, name: bytes) -> OpenFile:
        if name.decode() == f"{OTHER}.tar.gz":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return open_regular(parent, name)

    monkeypatch.setattr("wingsd.backups.store.open_regular", refused)
    node.backups.mkdir()
    (node.backups / f"{OTHER}.tar.gz").write_bytes(b"by wings")
    assert (await node.make())["successful"]


@pytest.mark.promise("bad-ignore-file-is-skipped")
async def test_a_list_that_is_a_link_is_not_read_and_the_backup_is_made(
    node: BackupNode, tmp_path: Path
) -> None:
    (tmp_path / "outside").write_text("world\n")
    (node.home / "world").write_text("x")
    (node.home / ".pteroignore").symlink_to(tmp_path / "outside")
    assert (await node.make())["successful"]
    assert members(node) == {".", "world", ".pteroignore"}
    (said,) = [line for line in node.server.said if ".pteroignore" in line]
    assert "not a regular file" in said


# Refused


async def test_what_cannot_begin_is_refused_and_leaves_nothing(node: BackupNode) -> None:
    with pytest.raises(AdapterUnknown, match="wings"):
        await node.begin(adapter="restic")
    node.server.operations.hold = Hold(Operation.INSTALL, "it is being installed")
    with pytest.raises(ServerBusy, match="installing"):
        await node.begin()
    assert (node.left(), node.records(), node.panel.calls) == ([], [], [])


@pytest.mark.parametrize(
    "operation",
    [Operation.INSTALL, Operation.RESTORE, Operation.TRANSFER_OUT, Operation.TRANSFER_IN],
)
async def test_while_a_backup_is_made_others_are_refused(
    node: BackupNode, operation: Operation
) -> None:
    await node.begin_slowly()
    with pytest.raises(ServerBusy, match="a backup of the server is being made"):
        node.server.operations.place_hold(operation, "a reason")
    for allowed in (Operation.START, Operation.KILL, Operation.CHANGE_FILES, Operation.BACKUP):
        node.server.operations.check(allowed)
    assert await node.made.cancel(BACKUP)


async def test_the_same_backup_is_made_once(node: BackupNode) -> None:
    first = Deferred.fromCoroutine(node.begin())
    with pytest.raises(BackupExists):
        await node.begin()
    await first
    await node.over()
    with pytest.raises(BackupExists):
        await node.begin()
    assert len(node.panel.calls) == 1


# Several at a time


async def test_as_many_are_made_at_a_time_as_configured(make_node: Make) -> None:
    node = make_node(concurrent=1, write_limit=1)
    (node.home / "a").write_bytes(os.urandom(100_000))
    await node.begin()
    await node.begin(OTHER)
    assert set(node.made.making) == {BACKUP, OTHER}
    assert node.server.said == ["A backup of the server is being made."]
    await node.made.cancel(BACKUP)
    await until(lambda: node.server.said.count("A backup of the server is being made.") == 2)
    await node.made.cancel(OTHER)
    assert node.left() == []


# Ended early


async def test_a_cancelled_backup_is_reported_as_failed(node: BackupNode) -> None:
    await node.begin_slowly()
    assert await node.made.cancel(BACKUP)
    assert not await node.made.cancel(BACKUP)
    assert node.panel.bodies == [FAILED]
    assert (node.left(), node.records()) == ([], [])
    assert json.loads(node.server.events[0][1])["is_successful"] is False


@pytest.mark.promise("deletion-cancels-a-backup")
async def test_a_deleted_server_ends_its_backup(node: BackupNode) -> None:
    await node.begin_slowly()
    node.server.operations.hold = Hold(Operation.DELETE, "it is being deleted")
    await node.over()
    assert (node.left(), node.panel.bodies) == ([], [FAILED])


async def test_a_server_that_is_deleted_before_its_backup_begins_ends_it(
    node: BackupNode,
) -> None:
    record = node.database.begin_backup

    def recorded(*arguments: Any) -> Any:
        node.server.operations.hold = Hold(Operation.DELETE, "it is being deleted")
        return record(*arguments)

    database: Any = node.database
    database.begin_backup = recorded
    assert await node.make() == FAILED
    assert node.left() == []


async def test_a_full_disk_fails_the_backup_with_its_reason(
    node: BackupNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    (node.home / "a").write_bytes(os.urandom(3 << 20))
    written: Callable[[int, Any], int] = os.write

    def full(fd: int, data: Any) -> int:
        if len(data) > 100_000:
            raise OSError(28, "No space left on device")
        return written(fd, data)

    monkeypatch.setattr("wingsd.backups.creation.os.write", full)
    assert await node.make() == FAILED
    assert "the disk is full" in node.server.said[-1]
    assert "send the server" not in node.server.said[-1]
    assert (node.left(), node.records()) == ([], [])


@pytest.mark.promise("full-backup-disk-is-refused")
async def test_a_disk_without_the_reserve_refuses_and_ends_backups(
    make_node: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make_node(reserve=1)
    (node.home / "a").write_bytes(os.urandom(20 << 20))
    checks = []

    def free(found: object, reserve: int, needed: int) -> None:
        checks.append(needed)
        if len(checks) > allowed:
            raise NoSpaceForBackup(5 << 20, needed, reserve)

    monkeypatch.setattr("wingsd.backups.creation.check_space", free)
    allowed = 0
    with pytest.raises(NoSpaceForBackup):
        await node.begin()
    assert node.records() == []
    allowed = 3
    assert await node.make() == FAILED
    assert "not enough disk space" in node.server.said[-1]
    assert node.left() == []


def test_the_reserve_is_kept_free() -> None:
    found = os.statvfs_result((4096, 4096, 100_000, 50_000, 50_000, 0, 0, 0, 0, 255))
    free = 50_000 * 4096
    check_space(found, 0, free * 2)
    check_space(found, 1 << 20, free - (1 << 20))
    with pytest.raises(NoSpaceForBackup, match="195 MiB are free"):
        check_space(found, 1 << 20, free)


@pytest.mark.root
async def test_a_file_that_cannot_be_read_fails_the_backup(node: BackupNode) -> None:
    (node.home / "a").write_text("a")
    os.link(node.home / "a", node.home / "b")
    os.chown(node.home / "a", 1, 1)
    if os.geteuid() == 0:
        assert await node.make() == FAILED
        assert "belongs to user 1" in node.server.said[-1]
        assert node.left() == []


async def test_an_unforeseen_error_is_reported_as_a_failure(
    node: BackupNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(place: str, catalogue: object) -> None:
        os.unlink(node.store.part_path(place))
        raise StorageError("its store is gone", "the backup could not be kept")

    monkeypatch.setattr(node.store, "put_into_place", broken)
    assert await node.make() == FAILED
    assert "its store is gone" in node.server.said[-1]


# Reports and restarts


async def test_an_archive_stays_however_long_its_report_is_not_heard(node: BackupNode) -> None:
    node.panel.answers[BACKUP] = [DOWN] * 5
    await node.begin()
    await until(lambda: node.panel.calls != [])
    assert PLACE in node.left()
    assert node.records() == []
    assert [report.backup for report in node.database_store.unsettled()] == [BACKUP]


async def test_what_was_being_made_has_failed_after_a_restart(node: BackupNode) -> None:
    node.database_store.begin_backup(1.0, BACKUP, SERVER, "wings", PLACE)
    node.backups.mkdir()
    (node.backups / f".{PLACE}.part").write_bytes(b"half")
    await node.restart()
    assert node.panel.bodies == [FAILED]
    assert (node.left(), node.records()) == ([], [])


async def test_what_was_complete_is_a_success_after_a_restart(node: BackupNode) -> None:
    told = await node.make()
    node.database_store.begin_backup(1.0, BACKUP, SERVER, "wings", PLACE)
    before = node.left()
    await node.restart()
    assert node.panel.bodies == [told, told]
    assert node.left() == before


async def test_a_catalogue_without_its_archive_is_removed_after_a_restart(
    node: BackupNode,
) -> None:
    await node.make()
    (node.backups / PLACE).rename(node.backups / f".{PLACE}.part")
    node.database_store.begin_backup(1.0, BACKUP, SERVER, "wings", PLACE)
    await node.restart()
    assert node.panel.bodies[-1] == FAILED
    assert node.left() == []


async def test_an_uploaded_archive_goes_with_its_report_though_another_part_stays(
    node: BackupNode,
) -> None:
    answer: Deferred[bool] = Deferred()
    node.panel.answers[OTHER] = [answer]
    await node.callbacks.add_backup(SERVER, OTHER, Outcome.SUCCESS, {})
    stays, goes = f".{PLACE}.part", f".{OTHER}.tar.gz.part"
    (node.backups / stays).mkdir(parents=True)  # cannot be unlinked
    (node.backups / goes).write_bytes(b"archive")
    await node.restart()
    assert goes in node.left()
    answer.callback(True)
    await until(lambda: goes not in node.left())
    assert node.left() == [stays]


async def test_a_stopped_node_leaves_the_report_to_the_next(node: BackupNode) -> None:
    await node.begin_slowly()
    node.made.stop()
    await node.over()
    assert (node.left(), node.panel.calls, node.records()) == ([], [], [BACKUP])
    with pytest.raises(BackupExists):
        await node.begin(OTHER)
    await node.restart()
    assert node.panel.bodies == [FAILED]


FILES = (
    "server.jar",
    "logs/latest.log",
    "logs/old/2024.log.gz",
    "world/level.dat",
    "world/region/r.0.0.mca",
    "world/playerdata/a.dat",
    "world_nether/level.dat",
    "plugins/a.jar",
    "plugins/A/config.yml",
    "plugins/A/cache/x.tmp",
    "deep/a/b/c/d.txt",
    "cache",
    "a b.txt",
    " leading.txt",
    "#hash",
    "!bang",
    "日本/名前.txt",
    ".hidden/file",
    "back\\slash",
)
#: Lists, with what the documents of git and the eggs of Panels have.
LISTS = (
    "*.log",
    "logs/",
    "logs",
    "/logs",
    "logs/*",
    "*.jar\n!server.jar",
    "/*\n!/world/",
    "*\n!world/",
    "*\n!*/\n!*.dat",
    "/*\n!/plugins/\n/plugins/*\n!/plugins/A/",
    "**/cache",
    "**/cache/",
    "cache",
    "cache/",
    "deep/**/d.txt",
    "deep/**",
    "deep/*/c",
    "world*",
    "world?nether",
    "[a-c]*",
    "[!w]*",
    "# a comment\n\n*.gz   \n",
    "\\#hash",
    "\\!bang",
    "a\\ b.txt",
    "a b.txt",
    " leading.txt",
    "日本",
    "名前.txt",
    "*.txt\n!名前.txt",
    ".hidden",
    "world/\n!world/level.dat",
    "world/*\n!world/level.dat",
    "*.mca\r\n*.dat\r",
    "/world/region",
    "region/",
    "b/c",
    "!*.log\n*.log",
    "/",
    "*/",
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("tree")
    subprocess.run(["git", "init", "-q", str(home)], check=True)
    for name in FILES:
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return home


def kept(home: Path, text: str) -> list[str]:
    """Return the files that a backup with this list has."""
    ignore = IgnoreList(text.splitlines())
    found = []
    with opened(str(home)) as root:
        for listing in walk(root, lambda name, why: None, ignore.select):
            found += [os.fsdecode(listing.prefix + name) for name in listing.files]
    return sorted(name for name in found if not name.startswith(".git/"))


@pytest.mark.parametrize("text", LISTS)
def test_a_list_means_what_it_means_to_git(tree: Path, text: str) -> None:
    (tree / ".git/info/exclude").write_text("\n".join(text.splitlines()) + "\n")
    command = ["git", "-C", str(tree), "check-ignore", "--no-index", "-z", "--stdin"]
    given = "\0".join(FILES).encode()
    found = subprocess.run(command, input=given, capture_output=True, check=False)
    assert found.returncode in (0, 1), found.stderr
    ignored = {os.fsdecode(name) for name in found.stdout.split(b"\0") if name}
    assert kept(tree, text) == sorted(set(FILES) - ignored)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[ServerRoot]:
    with ServerRoot(str(tmp_path), directory_opener("auto")) as made:
        yield made


def test_the_list_of_the_panel_comes_before_the_servers_own(
    root: ServerRoot, tmp_path: Path
) -> None:
    (tmp_path / ".pteroignore").write_text("own\n")
    assert ignore_lines(root, "a\nb", PTERODACTYL, pytest.fail) == ("a", "b")
    assert ignore_lines(root, " \n", PTERODACTYL, pytest.fail) == ("own",)


@pytest.mark.parametrize(
    ("family", "expected"),
    [(PTERODACTYL, ("p",)), (PELICAN, ("pe",)), (CALAGOPUS, ("p", "pe"))],
)
def test_each_family_has_its_own_file(
    root: ServerRoot, tmp_path: Path, family: str, expected: tuple[str, ...]
) -> None:
    assert ignore_lines(root, "", family, pytest.fail) == ()
    (tmp_path / ".pteroignore").write_text("p\n")
    (tmp_path / ".pelicanignore").write_text("pe")
    assert ignore_lines(root, "", family, pytest.fail) == expected


@pytest.mark.promise("bad-ignore-file-is-skipped")
def test_a_file_that_cannot_be_a_list_is_not_read_and_named(
    root: ServerRoot, tmp_path: Path
) -> None:
    ignore = tmp_path / ".pteroignore"
    (tmp_path / ".pelicanignore").write_text("pe")
    for make in (
        lambda: ignore.symlink_to("/etc/passwd"),
        ignore.mkdir,
        lambda: os.mkfifo(ignore),
        lambda: ignore.write_bytes(bytes(MAX_IGNORE_FILE + 1)),
        lambda: ignore.write_bytes(bytes(10 << 20)),
    ):
        make()
        unused: list[str] = []
        assert ignore_lines(root, "", CALAGOPUS, unused.append) == ("pe",)
        (line,) = unused
        assert line.startswith(".pteroignore ")
        ignore.rmdir() if ignore.is_dir() and not ignore.is_symlink() else ignore.unlink()
    ignore.write_bytes(b"a\n".ljust(MAX_IGNORE_FILE, b"#"))
    assert len(ignore_lines(root, "", PTERODACTYL, pytest.fail)) == 2


def test_files_that_are_being_uploaded_are_left_out(tmp_path: Path) -> None:
    (tmp_path / f".wingsd-{'0' * 32}.part").write_text("half")
    (tmp_path / "whole").write_text("whole")
    assert kept(tmp_path, "") == ["whole"]


def test_what_is_left_out_is_counted(tree: Path) -> None:
    ignore = IgnoreList(["/world/", "*.jar"], ["*.gz"])
    with opened(str(tree)) as root:
        for _ in walk(root, lambda name, why: None, ignore.select):
            pass
    assert ignore.dropped == 4


@pytest.mark.promise("unrestorable-backup-is-refused")
def test_what_is_so_deep_that_it_could_not_be_restored_is_refused_unless_it_is_ignored(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    deepest = home.joinpath("top", *["d"] * (MAX_DEPTH - 2))
    deepest.mkdir(parents=True)
    (deepest / "file").write_text("deep")
    assert len(kept(home, "")) == 1
    unpacked(packed(home), tmp_path / "restored")
    (deepest / "d").mkdir()
    (deepest / "d/file").write_text("deeper")
    with pytest.raises(MemberRefused):
        unpacked(packed(home), tmp_path / "refused")
    with pytest.raises(TreeTooLarge, match=f"more than {MAX_DEPTH} directories"):
        kept(home, "")
    assert kept(home, "/top/") == []
