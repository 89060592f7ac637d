"""SFTP with the clients that users have, and a whole daemon."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncssh
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.support.node_process import reactor
from tests.support.receiving_node import ReceivingNode
from tests.support.sftp_node import PASSWORD, SftpNode, has, sftp_node

#: Names that clients must bring there and back: alphabets, quotes, and what a shell or a
#: pattern would use.
NAMES = [
    "łódź",
    "日本語.yml",
    "русский",
    "ελληνικά",
    "עברית",
    "العربية",
    "🎮",
    "nai\u0308ve",
    "two words",
    " 'quoted' \"twice\"",
    "$HOME;`id`&|<>",
    "-rf",
    "[a]*?{b}",
    "back\\slash",
    "x" * 255,
]
#: Names that are no text, or that a terminal would obey.
ODD_NAMES = [b"\xff\xfe.dat", b"latin\xe9", b"new\nline", b"\x1b[2J"]
TIME = 1_600_000_000


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SftpNode]:
    directory = tmp_path_factory.mktemp("sftp")
    daemon = ReceivingNode(directory / "node")
    try:
        yield pytest_twisted.blockon(Deferred.fromCoroutine(sftp_node(daemon, directory)))
    finally:
        pytest_twisted.blockon(Deferred.fromCoroutine(daemon.close()))


def tree(directory: Path) -> dict[bytes, bytes]:
    """Return the files below a directory, by their names."""
    top = os.fsencode(directory)
    return {
        os.path.relpath(os.path.join(base, name), top): open_bytes(os.path.join(base, name))
        for base, _, names in os.walk(top)
        for name in names
    }


def open_bytes(path: bytes) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def make_tree(directory: Path, odd: list[bytes]) -> dict[bytes, bytes]:
    """Make files of all names, each with another content; return them."""
    (directory / "łódź dir" / "empty").mkdir(parents=True)
    for name in [*map(os.fsencode, NAMES), *odd]:
        for base in (directory, directory / "łódź dir"):
            with open(os.path.join(os.fsencode(base), name), "wb") as file:
                file.write(name * 3)
    (directory / "łódź dir" / "big").write_bytes(os.urandom(1_000_001))
    (directory / "none").write_bytes(b"")
    return tree(directory)


def connected(node: SftpNode) -> Any:
    """Return a connection of asyncssh that is to be awaited or entered."""
    return asyncssh.connect(
        "127.0.0.1",
        node.port,
        username=node.name,
        client_keys=[str(node.key)],
        known_hosts=None,
        config=None,
    )


openssh = pytest.mark.skipif(not has("sftp"), reason="there is no sftp on this machine")


@openssh
@pytest.mark.parametrize("password", [False, True])
async def test_openssh_logs_in_by_key_and_by_password(node: SftpNode, password: bool) -> None:
    status, output = await node.sftp("pwd", password=password)
    assert (status, "Remote working directory: /" in output) == (0, True), output


@openssh
async def test_openssh_refused_says_that_permission_is_denied(node: SftpNode) -> None:
    (node.home / "askpass").write_text("#!/bin/sh\necho wrong\n")
    try:
        status, output = await node.sftp("pwd", password=True)
    finally:
        (node.home / "askpass").write_text(f"#!/bin/sh\necho '{PASSWORD}'\n")
    assert status == 255
    assert "Permission denied (" in output


@openssh
async def test_openssh_uploads_and_downloads_trees_with_names_of_all_kinds(
    node: SftpNode, tmp_path: Path
) -> None:
    expected = make_tree(tmp_path / "up", ODD_NAMES)
    status, output = await node.sftp(
        f"put -r {tmp_path}/up /openssh", f"get -r /openssh {tmp_path}/back"
    )
    assert status == 0, output
    assert tree(node.files / "openssh") == expected
    assert tree(tmp_path / "back") == expected
    assert (node.files / "openssh/łódź dir/empty").is_dir()


@openssh
async def test_openssh_resumes_in_both_directions_and_keeps_times(
    node: SftpNode, tmp_path: Path
) -> None:
    data = os.urandom(600_000)
    local, half = tmp_path / "local", tmp_path / "half"
    local.write_bytes(data)
    os.utime(local, (TIME, TIME))
    half.write_bytes(data[:250_000])
    (node.files / "resumed").write_bytes(data[:300_000])
    status, output = await node.sftp(
        f"reput {local} /resumed",
        f"reget /resumed {half}",
        f"put -p {local} /kept",
        f"get -p /kept {tmp_path}/back",
    )
    assert status == 0, output
    assert (node.files / "resumed").read_bytes() == half.read_bytes() == data
    assert (node.files / "kept").stat().st_mtime == TIME
    assert (tmp_path / "back").stat().st_mtime == TIME


@openssh
async def test_openssh_renames_links_and_deletes(node: SftpNode, tmp_path: Path) -> None:
    home = node.files / "changes"
    (home / "deep/er").mkdir(parents=True)
    for name in ("a", "b", "c", "deep/er/d"):
        (home / name).write_text(name)
    status, output = await node.sftp(
        "cd /changes",
        "rename a b",  # by posix-rename: the target is replaced
        "ln b hard",
        "ln -s b soft",
        "ln -s /nowhere dangling",
        "chmod 600 c",
        "rmdir deep",  # with all that is in it
        "ls -la",
        "df -h",
        "mkdir made",
        "rm hard",
    )
    assert status == 0, output
    assert "soft" in output
    assert "dangling" in output
    assert (home / "b").read_text() == (home / "soft").read_text() == "a"
    assert sorted(path.name for path in home.iterdir()) == ["b", "c", "dangling", "made", "soft"]
    assert (home / "c").stat().st_mode & 0o777 == 0o600


@openssh
async def test_scp_copies_both_ways_and_its_old_protocol_is_refused_with_a_sentence(
    node: SftpNode, tmp_path: Path
) -> None:
    expected = make_tree(tmp_path / "up", ODD_NAMES)
    there = f"{node.name}@127.0.0.1"
    options = [*node.options(), "-q", "-r", "-p"]
    status, output = await node.run("scp", *options, f"{tmp_path}/up", f"{there}:/scp")
    assert status == 0, output
    status, output = await node.run("scp", *options, f"{there}:/scp", f"{tmp_path}/back")
    assert status == 0, output
    assert tree(node.files / "scp") == tree(tmp_path / "back") == expected
    for words in ([f"{tmp_path}/up/none", f"{there}:/old"], [f"{there}:/scp/none", "/dev/null"]):
        status, output = await node.run("scp", "-O", *options, *words)
        assert status == 1
        assert "This node runs no commands: use an SFTP client" in output
    assert not (node.files / "old").exists()


@openssh
@pytest.mark.parametrize("command", [(), ("id",)])
async def test_a_shell_and_commands_are_refused_with_a_sentence(
    node: SftpNode, command: tuple[str, ...]
) -> None:
    words = [*node.options(), "-T", f"{node.name}@127.0.0.1", *command]
    status, output = await node.run("ssh", *words)
    assert status == 1
    assert "use an SFTP client" in output


@pytest.mark.skipif(not has("rclone"), reason="there is no rclone on this machine")
@pytest.mark.parametrize("password", [False, True])
async def test_rclone_copies_checks_and_purges(
    node: SftpNode, tmp_path: Path, password: bool
) -> None:
    expected = make_tree(tmp_path / "up", [])
    login = {"RCLONE_SFTP_KEY_FILE": str(node.key)}
    if password:
        _, hidden = await node.run("rclone", "obscure", PASSWORD)
        login = {"RCLONE_SFTP_PASS": hidden.strip()}
    login |= {"RCLONE_SFTP_HOST": "127.0.0.1", "RCLONE_SFTP_PORT": str(node.port)}
    login |= {"RCLONE_SFTP_USER": node.name, "RCLONE_CONFIG": str(node.home / "rclone.conf")}
    os.utime(tmp_path / "up/none", (TIME, TIME))
    place = f":sftp:/rclone-{password}"
    for words in (
        ["copy", f"{tmp_path}/up", place],
        ["check", "--download", f"{tmp_path}/up", place],
        ["copy", place, f"{tmp_path}/back"],
    ):
        status, output = await node.run("rclone", *words, variables=login)
        assert status == 0, output
    there = node.files / f"rclone-{password}"
    assert tree(there) == tree(tmp_path / "back") == expected
    assert (there / "none").stat().st_mtime == TIME
    status, output = await node.run("rclone", "purge", place, variables=login)
    assert (status, there.exists()) == (0, False), output


@pytest.mark.promise("sftp-connection-limits-wait")
@openssh
async def test_a_user_with_too_many_connections_waits_for_the_end_of_one(node: SftpNode) -> None:
    """OpenSSH's client, and connections of a program in Python that end while it waits."""

    async def talk(places: asyncio.Event, over: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            for _ in range(32):
                connection = await stack.enter_async_context(connected(node))
                await stack.enter_async_context(connection.start_sftp_client())
            places.set()
            await over.wait()

    loop = asyncio.new_event_loop()
    places, over = asyncio.Event(), asyncio.Event()
    talking = deferToThread(loop.run_until_complete, talk(places, over))
    try:
        while not places.is_set():
            await deferLater(reactor, 0.05)
        waiting = ensureDeferred(node.sftp("pwd"))
        loop.call_soon_threadsafe(over.set)
        status, output = await waiting
        assert status == 0, output
    finally:
        loop.call_soon_threadsafe(over.set)
        await talking
        loop.close()


@pytest.mark.skipif(not has("lftp"), reason="there is no lftp on this machine")
async def test_lftp_mirrors_both_ways_and_resumes(node: SftpNode, tmp_path: Path) -> None:
    expected = make_tree(tmp_path / "up", [])
    data = os.urandom(500_000)
    (tmp_path / "whole").write_bytes(data)
    (node.files / "begun").write_bytes(data[:200_000])
    connect = f"ssh -a -x -F/dev/null -oUserKnownHostsFile={node.home}/known-lftp"
    script = [
        f"set sftp:connect-program '{connect} -oStrictHostKeyChecking=accept-new'",
        "set sftp:auto-confirm yes",
        "set net:max-retries 1",
        "set cmd:fail-exit yes",
        f"open -u {node.name},'{PASSWORD}' sftp://127.0.0.1:{node.port}",
        f"mirror -R {tmp_path}/up /lftp",
        f"mirror /lftp {tmp_path}/back",
        f"put -c {tmp_path}/whole -o /begun",
        "rm -r /lftp",
    ]
    status, output = await node.run("lftp", "-c", "; ".join(script))
    assert status == 0, output
    assert tree(tmp_path / "back") == expected
    assert (node.files / "begun").read_bytes() == data
    assert not (node.files / "lftp").exists()


async def test_a_program_in_python_appends_and_sees_links_and_space(node: SftpNode) -> None:
    async def talk() -> None:
        async with connected(node) as connection, connection.start_sftp_client() as sftp:
            await sftp.makedirs("/python/deep")
            async with sftp.open("/python/log", "wb") as file:
                await file.write(b"one,")
            async with sftp.open("/python/log", "ab") as file:
                await file.write(b"two")
            (node.files / "python/link").symlink_to("log")
            assert await sftp.readlink("/python/link") == "log"
            assert (await sftp.lstat("/python/link")).type == asyncssh.FILEXFER_TYPE_SYMLINK
            await sftp.utime("/python/log", (TIME, TIME))
            assert (await sftp.stat("/python/log")).mtime == TIME
            assert (await sftp.statvfs("/")).blocks > 0
            await sftp.link("/python/log", "/python/other")
            await sftp.posix_rename("/python/other", "/python/link")
            assert sorted(await sftp.listdir("/python")) == ["deep", "link", "log"]
            await sftp.rmtree("/python/deep")

    await deferToThread(lambda: asyncio.run(talk()))
    assert (node.files / "python/log").read_bytes() == b"one,two"
