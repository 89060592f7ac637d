"""What clients can do with files by SFTP."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Awaitable
from pathlib import Path
from threading import Semaphore

import asyncssh
import pytest
from asyncssh import FXF_APPEND, FXF_CREAT, FXF_EXCL, FXF_READ, FXF_TRUNC, FXF_WRITE
from asyncssh.sftp import SFTPClient, SFTPClientFile

from tests.sftp.server.harness import SERVER, Served, connected, serving
from wingsd.config import SftpActivityConfig, SftpConfig, SftpLimits
from wingsd.filesystem.directory import Entry, OpenFile
from wingsd.filesystem.writable_file import OpenFiles
from wingsd.sftp.messages import ChangedSettings, Disconnect, ServerState, Used
from wingsd.sftp.server.operations import Handles


async def opened(sftp: SFTPClient, path: str, flags: int) -> SFTPClientFile:
    return await sftp.open(path, flags, encoding=None, block_size=0)


async def refused(action: Awaitable[object], code: int) -> str:
    """Return the text of a refusal with this status."""
    with pytest.raises(asyncssh.SFTPError) as caught:
        await action
    assert caught.value.code == code, caught.value
    return str(caught.value.reason)


async def use(served: Served, sftp: SFTPClient) -> None:
    data = os.urandom(1_000_001)
    async with sftp.open("/world/level.dat", "wb") as file:
        await file.write(data)
    async with sftp.open("/world/level.dat", "rb") as file:
        read: object = await file.read()
        assert read == data
    assert await sftp.listdir("/world") == ["level.dat"]
    assert (served.files / "world/level.dat").read_bytes() == data


@connected(sftp=SftpConfig(activity=SftpActivityConfig(log_file_reads=True)))
async def test_a_file_is_written_read_and_listed(served: Served, sftp: SFTPClient) -> None:
    await use(served, sftp)
    path = "/world/level.dat"
    assert served.daemon.events == [("create", path), ("read", path)]


@connected()
async def test_an_upload_that_broke_off_is_resumed_and_the_rest_appended(
    served: Served, sftp: SFTPClient
) -> None:
    first = await opened(sftp, "part", FXF_WRITE | FXF_CREAT | FXF_TRUNC)
    await first.write(b"abcdef", 0)
    await first.close()
    resumed = await opened(sftp, "part", FXF_WRITE | FXF_CREAT)
    await resumed.write(b"DEFG", 3)
    await resumed.close()
    appended = await opened(sftp, "part", FXF_WRITE | FXF_APPEND)
    await appended.write(b"!", 0)
    await appended.close()
    again = await opened(sftp, "part", FXF_READ)
    read: object = await again.read(100, 0)
    assert read == b"abcDEFG!"
    await again.close()


@connected()
async def test_an_existing_file_is_not_created_exclusively(
    served: Served, sftp: SFTPClient
) -> None:
    (served.files / "there").write_text("kept")
    flags = FXF_WRITE | FXF_CREAT | FXF_EXCL | FXF_TRUNC
    await refused(opened(sftp, "there", flags), asyncssh.FX_FAILURE)
    await refused(opened(sftp, "absent", FXF_WRITE), asyncssh.FX_NO_SUCH_FILE)
    assert (served.files / "there").read_text() == "kept"


@connected()
async def test_times_modes_and_sizes_are_kept(served: Served, sftp: SFTPClient) -> None:
    path = served.files / "run.sh"
    path.write_text("#!/bin/sh\n")
    (served.files / "directory").mkdir(0o700)
    await sftp.chmod("run.sh", 0o4750)
    await sftp.truncate("run.sh", 2)
    await sftp.chmod("directory", 0o700)
    found = path.stat()
    assert found.st_size == 2
    await sftp.utime("run.sh", (1_000_000, 2_000_000))
    found = path.stat()
    assert (found.st_atime, found.st_mtime) == (1_000_000, 2_000_000)
    assert stat.S_IMODE(found.st_mode) == 0o750
    await sftp.chmod("run.sh", 0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE((served.files / "directory").stat().st_mode) == 0o755


@connected()
async def test_a_rename_replaces_a_file_only_as_posix_rename(
    served: Served, sftp: SFTPClient
) -> None:
    (served.files / "one").write_text("1")
    (served.files / "two").write_text("2")
    await refused(sftp.rename("one", "two"), asyncssh.FX_FAILURE)
    await sftp.posix_rename("one", "two")
    assert (served.files / "two").read_text() == "1"
    assert served.daemon.events == [("rename", "/one", "/two")]


@pytest.mark.promise("sftp-needs-permissions")
@connected()
async def test_links_are_made_shown_and_never_lead_out(
    served: Served, sftp: SFTPClient, tmp_path: Path
) -> None:
    (tmp_path / "outside").write_text("secret")
    (served.files / "world").mkdir()
    (served.files / "world/level.dat").write_text("level")
    await sftp.link("/world/level.dat", "/copy")
    assert (served.files / "copy").stat().st_nlink == 2
    (served.files / "out").symlink_to(tmp_path / "outside")
    (served.files / "up").symlink_to("..")
    (served.files / "in").symlink_to("world")
    assert stat.S_ISLNK((await sftp.lstat("in")).permissions or 0)
    assert stat.S_ISDIR((await sftp.stat("in")).permissions or 0)
    assert stat.S_ISLNK((await sftp.stat("out")).permissions or 0)
    assert await sftp.listdir("in") == ["level.dat"]
    assert await sftp.readlink("in") == "world"
    await refused(sftp.listdir("up"), asyncssh.FX_NO_SUCH_FILE)
    await refused(opened(sftp, "out", FXF_READ), asyncssh.FX_FAILURE)
    await refused(opened(sftp, "out", FXF_WRITE | FXF_TRUNC), asyncssh.FX_FAILURE)
    await refused(opened(sftp, "up/outside", FXF_READ), asyncssh.FX_NO_SUCH_FILE)
    await refused(sftp.link("/out", "/other"), asyncssh.FX_FAILURE)
    assert await sftp.realpath("../../world/./x") == "/world/x"
    assert (tmp_path / "outside").read_text() == "secret"


@connected()
async def test_directories_are_made_and_deleted_with_all_in_them(
    served: Served, sftp: SFTPClient
) -> None:
    await sftp.mkdir("a/b/c")
    (served.files / "a/b/c/file").write_text("x")
    await refused(sftp.mkdir("a"), asyncssh.FX_FAILURE)
    await refused(sftp.remove("a"), asyncssh.FX_FAILURE)
    await refused(sftp.rmdir("/"), asyncssh.FX_FAILURE)
    await sftp.rmdir("a")
    await refused(sftp.rmdir("a"), asyncssh.FX_NO_SUCH_FILE)
    assert list(served.files.iterdir()) == []
    assert served.daemon.events == [("create-directory", "/a/b/c"), ("delete", "/a")]


async def refuses_changes(served: Served, sftp: SFTPClient) -> None:
    (served.files / "file").write_text("x")
    assert await sftp.listdir("/") == ["file"]
    denied = asyncssh.FX_PERMISSION_DENIED
    assert "file.create" in await refused(opened(sftp, "new", FXF_WRITE | FXF_CREAT), denied)
    assert "file.update" in await refused(opened(sftp, "file", FXF_WRITE), denied)
    assert "file.delete" in await refused(sftp.remove("file"), denied)
    for action in (
        sftp.rmdir("file"),
        sftp.mkdir("d"),
        sftp.rename("file", "other"),
        sftp.chmod("file", 0o600),
        sftp.symlink("file", "link"),
        sftp.link("file", "link"),
    ):
        await refused(action, denied)


@pytest.mark.promise("sftp-needs-permissions")
@connected(permissions=("file.read", "file.read-content"))
async def test_who_may_read_changes_nothing(served: Served, sftp: SFTPClient) -> None:
    await refuses_changes(served, sftp)
    await (await opened(sftp, "file", FXF_READ)).close()


@pytest.mark.promise("sftp-needs-permissions")
@connected(permissions=("files.read",))
async def test_who_may_list_reads_no_content(served: Served, sftp: SFTPClient) -> None:
    await refuses_changes(served, sftp)
    reading = opened(sftp, "file", FXF_READ)
    assert "file.read-content" in await refused(reading, asyncssh.FX_PERMISSION_DENIED)


@connected()
async def test_a_read_only_node_answers_changes_as_unsupported(
    served: Served, sftp: SFTPClient
) -> None:
    (served.files / "file").write_text("x")
    file = await opened(sftp, "file", FXF_WRITE)
    served.daemon.received(ChangedSettings(read_only=True, passwords=True))
    unsupported = asyncssh.FX_OP_UNSUPPORTED
    await refused(file.write(b"y", 0), unsupported)
    await refused(sftp.mkdir("d"), unsupported)
    await refused(sftp.remove("file"), unsupported)
    assert await sftp.listdir("/") == ["file"]
    await file.close()


@pytest.mark.promise("sftp-needs-permissions")
@connected(denied=("*.key",))
async def test_denied_files_are_neither_read_nor_changed_by_any_name(
    served: Served, sftp: SFTPClient
) -> None:
    for name in ("secret.key", "plain", "twice"):
        (served.files / name).write_text("x")
    os.link(served.files / "secret.key", served.files / "alias")
    denied = asyncssh.FX_PERMISSION_DENIED
    (served.files / "dir").mkdir()
    (served.files / "dir/secret.key").write_text("x")
    (served.files / "link").symlink_to("dir")
    for action in (
        opened(sftp, "secret.key", FXF_READ),
        opened(sftp, "link/secret.key", FXF_READ),
        opened(sftp, "new.key", FXF_WRITE | FXF_CREAT),
        opened(sftp, "alias", FXF_WRITE | FXF_TRUNC),
        sftp.truncate("alias", 0),
        sftp.rename("secret.key", "free"),
        sftp.rename("plain", "plain.key"),
        sftp.posix_rename("plain", "secret.key"),
        sftp.rename("dir", "other"),
        sftp.link("secret.key", "free"),
        sftp.remove("secret.key"),
        sftp.chmod("secret.key", 0o777),
    ):
        await refused(action, denied)
    await sftp.rmdir("dir")
    assert (served.files / "dir/secret.key").exists()


@connected(ignored=("dir/hidden",))
async def test_ignored_files_are_not_shown_also_by_a_link(
    served: Served, sftp: SFTPClient
) -> None:
    (served.files / "dir").mkdir()
    (served.files / "dir/hidden").write_text("x")
    (served.files / "dir/shown").write_text("x")
    (served.files / "link").symlink_to("dir")
    assert await sftp.listdir("dir") == ["shown"]
    assert await sftp.listdir("link") == ["shown"]
    for path in ("dir/hidden", "link/hidden"):
        await refused(sftp.lstat(path), asyncssh.FX_NO_SUCH_FILE)
        await refused(opened(sftp, path, FXF_READ), asyncssh.FX_PERMISSION_DENIED)


@pytest.mark.promise("user-files-respect-the-disk-limit")
@connected()
async def test_the_disk_limit_is_held_for_each_write_and_deletions_count(
    served: Served, sftp: SFTPClient
) -> None:
    (served.files / "old").write_bytes(b"x" * 600)
    served.daemon.received(ServerState(SERVER, 0, 600, 1000))
    file = await opened(sftp, "new", FXF_WRITE | FXF_CREAT)
    await file.write(b"y" * 400, 0)
    text = await refused(file.write(b"z", 400), 15)
    assert "disk limit" in text
    await file.write(b"Y" * 400, 0)  # in place: nothing more
    await refused(file.write(b"z", 1 << 40), 15)
    await refused(opened(sftp, "more", FXF_WRITE | FXF_CREAT), 15)
    await refused(sftp.truncate("new", 5000), 15)
    found = await sftp.statvfs("/")
    assert found.bavail == 0
    await sftp.remove("old")
    await file.write(b"z" * 100, 400)
    await file.close()
    served.server._report_usage()
    assert [(each.server, each.total) for each in served.daemon.of(Used)] == [(SERVER, -100)]


@pytest.mark.promise("user-files-respect-the-disk-limit")
@connected()
async def test_an_overwritten_file_is_not_cut_where_it_could_not_be_written(
    served: Served, sftp: SFTPClient
) -> None:
    (served.files / "config").write_bytes(b"x" * 10)
    served.daemon.received(ServerState(SERVER, 0, 5000, 1000))
    await refused(opened(sftp, "config", FXF_WRITE | FXF_CREAT | FXF_TRUNC), 15)
    assert (served.files / "config").read_bytes() == b"x" * 10


@connected()
async def test_the_daemons_figure_is_corrected_by_what_it_has_not_counted_yet(
    served: Served, sftp: SFTPClient
) -> None:
    usage = served.server.usage(SERVER)
    served.daemon.received(ServerState(SERVER, 0, 100, 1000))
    usage.add(50)
    served.daemon.received(ServerState(SERVER, 0, 100, 1000))
    assert usage.taken == 150
    served.daemon.received(ServerState(SERVER, 50, 160, 1000))
    assert usage.taken == 160


@serving(limits=SftpLimits(max_handles_per_channel=3, max_handles_total=4))
async def test_a_channel_has_no_more_open_files_than_it_may(served: Served) -> None:
    (served.files / "file").write_text("x")
    async with served.client() as one, served.client() as two:
        mine = [await opened(one, "file", FXF_READ) for _ in range(3)]
        text = await refused(opened(one, "file", FXF_READ), asyncssh.FX_FAILURE)
        assert "too many files are open" in text
        (await opened(two, "file", FXF_READ))
        await refused(opened(two, "file", FXF_READ), asyncssh.FX_FAILURE)
        await mine[0].close()
        await opened(two, "file", FXF_READ)


@serving()
async def test_what_is_under_way_is_refused_once_the_session_is_closed(served: Served) -> None:
    (served.files / "file").write_text("x")
    async with served.connection() as connection:
        async with connection.start_sftp_client() as sftp:
            file = await opened(sftp, "file", FXF_WRITE)
            served.daemon.received(Disconnect(1, "the server is suspended"))
            with pytest.raises((asyncssh.Error, ConnectionError)):
                await file.write(b"y", 0)
        await connection.wait_closed()
    assert (served.files / "file").read_text() == "x"


@connected(sftp=SftpConfig(directory_entry_limit=25, directory_entry_send_amount=4))
async def test_a_listing_has_a_limit_and_comes_in_several_answers(
    served: Served, sftp: SFTPClient
) -> None:
    for number in range(30):
        (served.files / f"{number:0200}").touch()
    assert len(await sftp.listdir("/")) == 25


@connected()
async def test_names_that_are_not_utf8_and_names_too_long_are_handled(
    served: Served, sftp: SFTPClient
) -> None:
    async with sftp.open(b"\xff\xfe name ", "wb") as file:
        await file.write(b"x")
    assert [each.filename async for each in sftp.scandir(b"/")] == [b"\xff\xfe name "]
    await refused(sftp.mkdir("x" * 256), asyncssh.FX_FAILURE)
    await refused(sftp.stat(b"a\0b"), asyncssh.FX_FAILURE)


@serving(permissions=("file.read", "file.update"))
async def test_a_file_that_is_open_for_writing_is_read_with_the_permission_only(
    served: Served,
) -> None:
    (served.files / "settings").write_text("password: secret")
    async with (
        served.client() as sftp,
        sftp.open("/settings", asyncssh.FXF_WRITE, encoding=None) as file,
    ):
        with pytest.raises(asyncssh.SFTPPermissionDenied):
            await file.read(100, 0)


@serving()
async def test_a_write_of_nothing_behind_the_end_takes_no_disk(served: Served) -> None:
    async with served.client() as sftp, sftp.open("/file", "wb", encoding=None) as file:
        await file.write(b"", 1 << 40)
    assert [usage.total for usage in served.server.usages.values()] == [0]


def test_a_file_that_cannot_be_closed_keeps_no_other_one_open(tmp_path: Path) -> None:
    class Broken(OpenFile):
        def close(self) -> None:
            super().close()
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    budget = Semaphore(2)
    handles = Handles(SftpConfig(), budget, OpenFiles())
    entry = Entry.of(b"x", os.stat(tmp_path))
    files = [kind(os.open(tmp_path, os.O_PATH), entry) for kind in (Broken, OpenFile)]
    for file in files:
        handles.add(file)
    handles.close_all()
    assert [file.fileno() for file in files] == [-1, -1]
    assert all(budget.acquire(blocking=False) for _ in range(2)), "one is still counted"
