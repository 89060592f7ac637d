"""`.history`: the files of a server as they were, in the file manager and by SFTP."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_twisted
from twisted.internet.defer import DeferredList, ensureDeferred
from twisted.internet.task import deferLater

from tests.daemon.test_histories import settings
from tests.daemon.test_rewinds import point_now
from tests.daemon.test_sftp import processes_of
from tests.support.reactor import reactor, until
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID
from tests.support.sftp_node import SERVER, SftpNode, has, sftp_node
from tests.support.small_disk import small_disk
from tests.support.tokens import signed_url_token

pytestmark = pytest.mark.promise("past-is-read-only")

#: Answers with a file of the past, while points are made.
ENOUGH = 30
#: Points that a history keeps then.
KEPT = 3
NAME = b"caf\xe9"


class Manager:
    """The file manager of a Panel's page."""

    def __init__(self, daemon: ReceivingNode, family: str) -> None:
        self.daemon = daemon
        #: The status of errors that Calagopus' Panel shows.
        self.shown = {400: 417, 403: 417, 409: 417} if family == "calagopus" else {}

    async def listed(self, directory: str) -> list[dict[str, Any]]:
        path = f"list-directory?directory={quote(directory)}"
        status, body = await self.daemon.fetch(f"/api/servers/{UUID}/files/{path}")
        assert status == 200, body
        found: list[dict[str, Any]] = json.loads(body)
        return found

    async def names(self, directory: str) -> list[str]:
        return [each["name"] for each in await self.listed(directory)]

    async def read(self, path: str) -> tuple[int, bytes]:
        status, body = await self.daemon.fetch(
            f"/api/servers/{UUID}/files/contents?file={quote(path)}"
        )
        return status, body

    async def post(self, path: str, method: str = "POST", /, **body: Any) -> tuple[int, Any]:
        return await self.daemon.curl(
            *("-X", method, "-H", "Content-Type: application/json", "-d", json.dumps(body)),
            token=self.daemon.node.token,
            path=f"/api/servers/{UUID}/files/{path}",
        )

    async def points(self) -> list[str]:
        """Return the points, when the server's page shows them."""
        while ".history" not in await self.names("/"):
            pass
        return sorted(await self.names("/.history"))


def fill(home: Path) -> None:
    """Make files, and what may lead out of a server."""
    (home / "world").mkdir()
    (home / "world/level.dat").write_bytes(b"first")
    (home / "world" / os.fsdecode(NAME)).write_bytes(b"bytes")
    (home / "secret.key").write_bytes(b"secret")
    os.link(home / "world/level.dat", home / "same.dat")
    (home / "here").symlink_to("world")
    (home / "out").symlink_to("../..")
    (home / "root").symlink_to("/etc")
    (home / "loop").symlink_to("loop")


@pytest.fixture
def home(daemon: ReceivingNode) -> Path:
    made = daemon.own(UUID)
    fill(made)
    return made


@pytest.mark.parametrize("family", ["pelican", "calagopus"])
async def test_a_file_of_yesterday_is_listed_read_and_restored(
    daemon: ReceivingNode, home: Path, family: str
) -> None:
    await daemon.start_loaded(system=settings(daemon, every="1h"), family=family)
    manager = Manager(daemon, family)
    await point_now(daemon)
    (home / "world/level.dat").unlink()
    (home / "new.dat").write_bytes(b"new")
    await point_now(daemon)
    first, second = await manager.points()
    (entry,) = [each for each in await manager.listed("/") if each["name"] == ".history"]
    assert (entry["directory"], entry["mode"]) == (True, "dr-xr-xr-x")
    assert entry["virtual"]
    past = f"/.history/{first}"
    at_root = ["world", "here", "loop", "out", "root", "same.dat", "secret.key"]
    assert await manager.names(past) == at_root
    assert "new.dat" in await manager.names(f"/.history/{second}")
    assert len(await manager.names(f"{past}/world")) == 2
    assert await manager.read(f"{past}/world/level.dat") == (200, b"first")
    assert await manager.read(f"{past}/here/level.dat") == (200, b"first")
    assert await manager.read(f"{past}/same.dat") == (200, b"first")
    assert await manager.read(f"{past}/world/caf\U0010fee9") == (200, b"bytes")
    (status, _) = await manager.read(f"/.history/{second}/world/level.dat")
    assert status == 404
    query = f"search?directory={quote(f'.history/{first}')}&pattern=level"
    status, found = await daemon.fetch(f"/api/servers/{UUID}/files/{query}")
    names = [each["name"] for each in json.loads(found)]
    assert (status, names) == (200, [f".history/{first}/world/level.dat"])
    field = "path" if family == "calagopus" else "location"
    for _ in range(2):
        status, answer = await manager.post("copy", **{field: f"{past}/world/level.dat"})
        assert status in (200, 204), answer
    assert (home / "world/level.dat").read_bytes() == b"first"
    assert (home / "world/level copy.dat").read_bytes() == b"first"
    assert sorted(await manager.points()) == [first, second]
    assert not (home / ".history").exists()


@pytest.mark.parametrize("family", ["pterodactyl", "calagopus"])
async def test_nothing_of_the_past_is_changed_and_nothing_leads_out(
    daemon: ReceivingNode, home: Path, family: str
) -> None:
    await daemon.start_loaded(system=settings(daemon, every="1h"), family=family)
    manager = Manager(daemon, family)
    await point_now(daemon)
    (point,) = await manager.points()
    past = f".history/{point}"
    refused = manager.shown.get(403, 403)
    names = {"from": f"{past}/same.dat", "to": "moved"}
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("PUT", "rename", {"root": "/", "files": [names]}),
        ("PUT", "rename", {"root": "/", "files": [{"from": "same.dat", "to": f"{past}/x"}]}),
        ("POST", "delete", {"root": "/", "files": [f"{past}/same.dat"]}),
        ("POST", "delete", {"root": "/", "files": [".history"]}),
        ("POST", "create-directory", {"path": past, "root": past, "name": "x"}),
        ("POST", "create-directory", {"path": "/", "root": "/", "name": ".history"}),
        ("POST", "chmod", {"root": past, "files": [{"file": "same.dat", "mode": "600"}]}),
        ("POST", "compress", {"root": past, "files": ["same.dat"]}),
        ("POST", "decompress", {"root": past, "file": "same.dat"}),
    ]
    for method, path, body in calls:
        status, answer = await manager.post(path, method, **body)
        assert (status, ".history is the server's past" in answer["error"]) == (refused, True), (
            path
        )
    for path in (past, ".history"):
        url = f"/api/servers/{UUID}/files/write?file={quote(path)}"
        status, _ = await daemon.curl("-d", "x", token=daemon.node.token, path=url)
        assert status == refused
    status, answer = await manager.post("delete", root="/", files=[".history", "loop"])
    assert (status, os.path.lexists(home / "loop")) == (200 if answer else 204, False)
    for path in (
        "out/volumes",
        "root/passwd",
        "loop",
        "loop/x",
        "../x",
        "none",
    ):
        status, _ = await manager.read(f"{past}/{path}")
        assert status in (manager.shown.get(400, 400), 404), path
    assert (await manager.read(f"{past}/secret.key"))[0] == refused
    assert (await manager.read(".history/2000-01-01 00.00 (1)/same.dat"))[0] == 404
    # A directory of the server itself comes first.
    (home / ".history").mkdir()
    (home / ".history/own").write_bytes(b"own")
    assert await manager.names("/.history") == ["own"]
    assert await manager.read(".history/own") == (200, b"own")
    assert (await manager.read(f"{past}/same.dat"))[0] == 404


def has_no_copies(pid: int) -> bool:
    """Return whether a process has neither copies of files of the past nor listings open."""
    opened = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            opened.append(os.readlink(each))
    return not any("/incoming/" in each or "memfd:past" in each for each in opened)


async def test_readers_have_whole_files_while_points_are_made_and_removed(
    daemon: ReceivingNode, home: Path
) -> None:
    """Each file is one that was written, and that of a point is never another one."""
    system = settings(daemon, every="1s", keep={"3s": KEPT})
    await daemon.start_loaded(system=system)
    manager = Manager(daemon, "pterodactyl")
    seen: dict[str, bytes] = {}
    answers: Counter[int] = Counter()
    is_over = False

    async def write() -> None:
        number = 0
        while not is_over:
            number += 1
            content = b"%08d" % number * 20_000
            (home / "world.new").write_bytes(content)
            (home / "world.new").rename(home / "world.dat")
            with (home / "in place").open("r+b" if number > 1 else "wb") as file:
                file.seek(number * 4096 % 200_000)
                file.write(b"%08d" % number * 512)
            await deferLater(reactor, 0.5)

    async def read() -> None:
        while answers[200] < ENOUGH or len(seen) <= KEPT:
            for point in await manager.names("/.history"):
                status, content = await manager.read(f".history/{point}/world.dat")
                answers[status] += 1
                assert status in (200, 404, 409), content
                if status == 200:
                    assert content == content[:8] * 20_000
                    assert seen.setdefault(point, content) == content
            # One that goes before its answer.
            aborted = ("--max-time", "0.05", "-o", "/dev/null")
            url = f"/api/servers/{UUID}/files/contents?file="
            with suppress(AssertionError):
                await daemon.fetch(f"{url}{quote(f'.history/{point}/in place')}", *aborted)

    writing = ensureDeferred(write())
    await manager.points()
    await DeferredList([ensureDeferred(read()) for _ in range(3)], fireOnOneErrback=True)
    is_over = True
    await writing
    await until(partial(has_no_copies, daemon.pid))


async def test_a_file_is_downloaded_by_a_signed_url(daemon: ReceivingNode, home: Path) -> None:
    content = os.urandom(8 << 20)
    (home / "region.mca").write_bytes(content)
    await daemon.start_loaded(system=settings(daemon, every="1h"))
    manager = Manager(daemon, "pterodactyl")
    await point_now(daemon)
    (home / "region.mca").write_bytes(content[: 4 << 20])
    await point_now(daemon)
    first, _ = await manager.points()
    token = signed_url_token(
        daemon.node.token,
        UUID,
        "file-download",
        file_path=f"/.history/{first}/region.mca",
    )
    url = f"/download/file?token={token}"
    # A copy of what is damaged could not be made, and none is for the headers.
    copy = daemon.directory / "history" / UUID / "tree/region.mca"
    copy.write_bytes(bytes(4 << 20))
    status, headers = await daemon.fetch(url, "--head")
    assert (status, b"content-length: 8388608" in headers.lower()) == (200, True)
    path = f"contents?max_size=100&file={quote(f'/.history/{first}/region.mca')}"
    assert (await daemon.fetch(f"/api/servers/{UUID}/files/{path}"))[0] == 413
    beyond = ("-H", "Range: bytes=8388608-")
    for asked in (url, f"/api/servers/{UUID}/files/{path.replace('max_size=100&', '')}"):
        status, body = await daemon.fetch(asked, *beyond)
        assert status == 416, (asked, body)
    assert (await daemon.fetch(url))[0] == 409
    copy.write_bytes(content[: 4 << 20])
    assert await daemon.fetch(url) == (200, content)
    copy.write_bytes(bytes(4 << 20))
    assert (await daemon.fetch(url))[0] == 404  # it was used


async def test_calagopus_restores_a_directory(daemon: ReceivingNode, home: Path) -> None:
    await daemon.start_loaded(system=settings(daemon, every="1h"), family="calagopus")
    manager = Manager(daemon, "calagopus")
    (home / "world/inner").mkdir()
    (home / "world/inner/denied.key").write_bytes(b"secret")
    (home / "world/inner/link").symlink_to("../level.dat")
    (home / "world/inner/file").write_bytes(b"1" * 10_000)
    await point_now(daemon)
    for each in sorted((home / "world").rglob("*"), reverse=True):
        each.rmdir() if each.is_dir() and not each.is_symlink() else each.unlink()
    (home / "world").rmdir()
    (point,) = await manager.points()
    status, answer = await manager.post("copy", path=f".history/{point}/world", name="world")
    assert (status, answer["name"]) == (200, "world")
    assert (home / "world/inner/file").read_bytes() == b"1" * 10_000
    assert (home / "world/level.dat").read_bytes() == b"first"
    assert (home / "world" / os.fsdecode(NAME)).read_bytes() == b"bytes"
    assert os.readlink(home / "world/inner/link") == "../level.dat"
    assert not (home / "world/inner/denied.key").exists()
    status, page = await daemon.fetch(
        f"/api/servers/{UUID}/files/list?directory={quote(f'.history/{point}')}"
    )
    assert "secret.key" not in [each["name"] for each in json.loads(page)["entries"]]
    search: dict[str, Any] = {"root": f".history/{point}", "path_filter": {"include": ["*.dat"]}}
    status, found = await manager.post("search", **search)
    assert {each["name"] for each in found["results"]} == {"same.dat", "world/level.dat"}
    search["content_filter"] = {"query": "first", "max_search_size": 100}
    status, found = await manager.post("search", **search)
    assert (status, "not searched" in found["error"]) == (417, True)


async def test_a_damaged_file_says_so_and_others_are_read(
    daemon: ReceivingNode, home: Path
) -> None:
    await daemon.start_loaded(system=settings(daemon, every="1h"))
    manager = Manager(daemon, "pterodactyl")
    await point_now(daemon)
    (point,) = await manager.points()
    copy = daemon.directory / "history" / UUID / "tree/same.dat"
    copy.write_bytes(b"other")
    status, body = await manager.read(f".history/{point}/same.dat")
    assert (status, b"is damaged" in body) == (409, True)
    assert await manager.read(f".history/{point}/world/caf\U0010fee9") == (200, b"bytes")


async def test_histories_that_end_are_not_shown_any_more(
    daemon: ReceivingNode, home: Path
) -> None:
    await daemon.start_loaded(system=settings(daemon, every="1h"))
    manager = Manager(daemon, "pterodactyl")
    await point_now(daemon)
    (point,) = await manager.points()
    await daemon.kill()
    await daemon.start_loaded(system=settings(daemon, every="1h"))
    assert await manager.points() == [point]
    ran = await daemon.wingsctl("history", "delete", UUID, "--all", "--yes")
    assert ran.status == 0, ran.err
    assert ".history" not in await manager.names("/")
    assert (await manager.read(f".history/{point}/same.dat"))[0] == 404
    status, _ = await manager.post("create-directory", path="/", name=".history")
    assert status == 204


class Past:
    """A node with SFTP, whose server has one point."""

    def __init__(self, daemon: ReceivingNode, node: SftpNode, point: str) -> None:
        self.daemon, self.node, self.point = daemon, node, point

    @property
    def path(self) -> str:
        return f"/.history/{self.point}"


@pytest_twisted.async_yield_fixture
async def past(daemon: ReceivingNode, tmp_path: Path) -> AsyncIterator[Past]:
    node = await sftp_node(daemon, tmp_path, **settings(daemon, every="1h"))
    fill(node.files)
    ran = await daemon.wingsctl("history", "make", SERVER)
    assert ran.status == 0, ran.err
    (node.files / "world/level.dat").write_bytes(b"second")
    found: list[str] = []

    async def points() -> bool:
        status, listed = await node.sftp("ls -1 /.history")
        found[:] = [each for each in listed.splitlines() if each.startswith("/.history/")]
        return status == 0 and bool(found)

    while not await points():
        pass
    yield Past(daemon, node, found[0].removeprefix("/.history/"))


@pytest.mark.skipif(not has("sftp"), reason="needs OpenSSH's sftp")
async def test_the_past_is_read_by_sftp(past: Past, tmp_path: Path) -> None:
    node, target = past.node, tmp_path / "got"
    status, listed = await node.sftp("ls -1a /", f"ls -la '{past.path}'")
    assert status == 0, listed
    # Clients that fetch a whole server would fetch each point.
    assert "/.history\n" not in listed.replace(past.path, "")
    assert listed.count("same.dat") == 2
    status, out = await node.sftp(
        f"cd '{past.path}/here'",
        "ls -1",
        "lcd /",
        f"get -p '{past.path}/world/level.dat' {target}",
        f"get '{past.path}/same.dat' {target}.same",
        f"get -R '{past.path}/world' {target}.tree",
    )
    assert status == 0, out
    assert "level.dat" in out.splitlines()
    for pid in (past.daemon.pid, *processes_of(past.daemon)):
        await until(partial(has_no_copies, pid))
    assert target.read_bytes() == b"first"
    assert (tmp_path / "got.same").read_bytes() == b"first"
    assert (tmp_path / "got.tree" / os.fsdecode(NAME)).read_bytes() == b"bytes"


@pytest.mark.root
@pytest.mark.skipif(not has("sftp"), reason="needs OpenSSH's sftp")
async def test_copies_that_were_closed_by_sftp_do_not_count(
    daemon: ReceivingNode, tmp_path: Path
) -> None:
    with small_disk(daemon.directory / "history", 32):
        node = await sftp_node(daemon, tmp_path, **settings(daemon, every="1h"))
        (node.files / "large").write_bytes(os.urandom(6 << 20))
        ran = await daemon.wingsctl("history", "make", SERVER)
        assert ran.status == 0, ran.err
        listed = ""
        while "(" not in listed:
            _, listed = await node.sftp("ls -1 /.history")
        point = next(each for each in listed.splitlines() if each.startswith("/.history/"))
        status, out = await node.sftp(*[f"get '{point}/large' {tmp_path}/got"] * 4)
        assert status == 0, out
        assert (tmp_path / "got").read_bytes() == (node.files / "large").read_bytes()


#: What a client prints, whose server says why.
REFUSALS = ("past", "ermission denied", "Failure")


@pytest.mark.skipif(not has("sftp"), reason="needs OpenSSH's sftp")
async def test_the_past_is_not_changed_by_sftp(past: Past) -> None:
    commands = [
        "put /etc/hostname '{past}/x'",
        "put /etc/hostname /.history",
        "rm '{past}/same.dat'",
        "rmdir '{past}/world'",
        "mkdir '{past}/x'",
        "mkdir /.history/x",
        "rename '{past}/same.dat' /moved",
        "rename /same.dat '{past}/x'",
        "symlink same.dat '{past}/x'",
        "ln '{past}/same.dat' /linked",
        "chmod 600 '{past}/same.dat'",
        "rmdir /.history",
    ]
    before = sorted(past.node.files.iterdir())
    for command in commands:
        status, out = await past.node.sftp(command.format(past=past.path))
        assert (status, any(each in out for each in REFUSALS)) == (1, True), (command, out)
    _, out = await past.node.sftp(f"ls -1 '{past.path}'", f"ls -1 '{past.path}/world'")
    assert len(out.splitlines()) == len(before) + 2 + 2
    assert sorted(past.node.files.iterdir()) == before
    # Nor does a link of the past lead out.
    for path in ("out/x", "root/passwd", "loop/x", "none", "../2000/x"):
        status, out = await past.node.sftp(f"get '{past.path}/{path}' /dev/null")
        assert (status, "not found" in out) == (1, True), out
    # What the egg denies today.
    status, out = await past.node.sftp(f"get '{past.path}/secret.key' /dev/null")
    assert (status, "ermission denied" in out or "denylist" in out) == (1, True), out
