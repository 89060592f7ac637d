"""The calls that change files, over HTTP, as each family's Panel makes them."""

from __future__ import annotations

import os
import re
import socket
import stat
import struct
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any
from urllib.parse import quote

import pytest
from twisted.internet.defer import Deferred

from tests.api.file_node import FILES, FileNode, Make
from tests.api.node import TOKEN, UUID
from tests.support.owner import OWNER
from tests.support.reactor import until
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL
from wingsd.files import archives, tasks
from wingsd.filesystem import root as roots
from wingsd.filesystem.root import copy_data
from wingsd.servers.operations import Hold, Operation

PHP = [PTERODACTYL, PELICAN]
ALL = [*PHP, CALAGOPUS]


CALLS = [
    ("rename", "PUT", {"root": "/", "files": [{"from": "a", "to": "x/b"}]}, {"renamed": 1}),
    ("delete", "POST", {"root": "/", "files": ["a", "d"]}, {"deleted": 2}),
    ("chmod", "POST", {"root": "/", "files": [{"file": "a", "mode": "600"}]}, {"updated": 1}),
    ("create-directory", "POST", {"name": "n/m", "path": "/d"}, {}),
]


@pytest.mark.parametrize("family", PHP)
@pytest.mark.parametrize(("call", "method", "body", "_"), CALLS)
async def test_php_panels_get_an_empty_answer(
    make: Make, family: str, call: str, method: str, body: Any, _: Any
) -> None:
    node = make(family)
    node.plant("a", "d/e")
    reply = await node.post(call, body, method)
    assert (reply.status, reply.content) == (204, b"")
    expected = {
        "rename": ["d", "d/e", "x", "x/b"],
        "delete": [],
        "chmod": ["a", "d", "d/e"],
        "create-directory": ["a", "d", "d/e", "d/n", "d/n/m"],
    }
    assert node.names() == expected[call]


@pytest.mark.parametrize(("call", "method", "body", "answer"), CALLS)
async def test_calagopus_panel_gets_numbers_in_its_format(
    make: Make, call: str, method: str, body: dict[str, Any], answer: Any
) -> None:
    node = make(CALAGOPUS)
    node.plant("a", "d/e")
    if call == "create-directory":
        body = {"root": body["path"], "name": body["name"]}
    assert await node.packed(call, body, method) == (200, answer)


@pytest.mark.parametrize(
    ("call", "method", "text"),
    [
        ("rename", "PUT", "No files to move or rename were provided."),
        ("delete", "POST", "No files were specified for deletion."),
        ("chmod", "POST", "No files to chmod were provided."),
        ("compress", "POST", "No files were passed through to be compressed."),
    ],
)
async def test_a_call_without_files_is_refused_with_wings_text(
    make: Make, call: str, method: str, text: str
) -> None:
    node = make()
    bodies: tuple[dict[str, Any], ...] = ({"root": "/"}, {"files": []}, {"files": None})
    for body in bodies:
        reply = await node.post(call, body, method)
        assert (reply.status, reply.json["error"]) == (422, text)


@pytest.mark.parametrize(("family", "status"), [(PTERODACTYL, 204), (PELICAN, 404)])
async def test_deleting_what_is_missing_is_an_error_for_pelican(
    make: Make, family: str, status: int
) -> None:
    node = make(family)
    assert (await node.post("delete", {"root": "/", "files": ["x"]})).status == status


@pytest.mark.parametrize("family", PHP)
async def test_a_copy_of_the_php_panels_is_beside_the_file(make: Make, family: str) -> None:
    node = make(family)
    node.plant("d/a.txt")
    reply = await node.post("copy", {"location": "/d/a.txt"})
    assert (reply.status, reply.content) == (204, b"")
    assert node.names() == ["d", "d/a copy.txt", "d/a.txt"]
    for location, status in (("/d", 404), ("/gone", 404), ("", 404)):
        assert (await node.post("copy", {"location": location})).status == status


@pytest.mark.parametrize("field", ["path", "location"])
async def test_a_copy_of_calagopus_has_a_name_and_may_be_a_directory(
    make: Make, field: str
) -> None:
    node = make(CALAGOPUS)
    node.plant("d/a.txt")
    status, entry = await node.packed("copy", {field: "d/a.txt", "name": "x/b.txt"})
    assert (status, entry["name"], entry["mime"]) == (200, "b.txt", "text/plain; charset=utf-8")
    status, entry = await node.packed("copy", {field: "d"})
    assert (status, entry["name"], entry["directory"]) == (200, "d copy", True)
    copied = ["d copy", "d copy/a.txt", "d copy/x", "d copy/x/b.txt"]
    assert node.names()[1:5] == copied
    status, _ = await node.packed("copy", {field: "d/a.txt", "name": "x/b.txt", "overwrite": True})
    assert status == 200


async def test_several_copies_pass_over_what_is_in_the_way(make: Make) -> None:
    node = make(CALAGOPUS)
    node.plant("a", "b", "c")
    files = [{"from": "a", "to": "x/a"}, {"from": "b", "to": "c"}, {"from": "gone", "to": "y"}]
    status, data = await node.packed("copy-many", {"root": "/", "files": files})
    assert (status, data["copied"]) == (200, 1)
    assert [entry["name"] for entry in data["skipped"]] == ["c"]
    assert node.names() == ["a", "b", "c", "x", "x/a"]


async def test_a_symlink_leads_to_a_file_of_the_server_only(make: Make) -> None:
    node = make(CALAGOPUS)
    node.plant("d/a", "e/f", "secret")
    node.files.deny("secret")
    for target, text in (("/e/f", "../e/f"), ("a", "a"), ("../../../e/f", "../e/f")):
        body = {"root": "/d", "link": "link", "target": target}
        assert await node.packed("create-symlink", body) == (200, {})
        assert os.readlink(node.home / "d/link") == text
        (node.home / "d/link").unlink()
    refused = [
        ({"link": "x", "target": "/etc/passwd"}, 404),
        ({"link": "x", "target": "gone"}, 404),
        ({"link": "x", "target": "/secret"}, 417),
        ({"link": "a", "target": "/e/f"}, 417),
        ({"link": "secret/x", "target": "/e/f"}, 417),
    ]
    for body, expected in refused:
        status, _ = await node.packed("create-symlink", {"root": "/d", **body})
        assert status == expected
    assert node.names() == ["d", "d/a", "e", "e/f", "secret"]


async def test_a_user_of_calagopus_does_not_touch_what_is_hidden_from_them(make: Make) -> None:
    node = make(CALAGOPUS)
    node.plant("a", "hidden")
    body = {"files": ["hidden", "a"], "ignored": ["hid*"]}
    assert await node.packed("delete", body) == (200, {"deleted": 1})
    assert node.names() == ["hidden"]


async def test_no_name_means_the_directory_it_is_in(make: Make) -> None:
    node = make(PELICAN)
    node.plant("d/e/f", "a")
    for root, name in product(["/", "d", "d/e"], ["", "/", ".", "..", "d/..", "../d/../../"]):
        reply = await node.post("delete", {"root": root, "files": [name]})
        assert (reply.status, reply.json["code"]) == (400, "file-path-invalid")
        files = [{"file": name, "mode": "000"}]
        assert (await node.post("chmod", {"root": root, "files": files})).status == 400
    assert node.names() == ["a", "d", "d/e", "d/e/f"]


@pytest.mark.parametrize(
    ("operation", "text"),
    [
        (Operation.INSTALL, "server is currently installing"),
        (Operation.TRANSFER_OUT, "server is currently being transferred"),
        (Operation.TRANSFER_IN, "server is currently being transferred"),
        (Operation.DELETE, "server is currently being deleted"),
        (Operation.MOVED, "server has moved to another node"),
    ],
)
async def test_nothing_is_changed_while_another_operation_excludes_it(
    make: Make, operation: Operation, text: str
) -> None:
    node = make()
    node.plant("a")
    node.files.operations.hold = Hold(operation, "why")
    bodies: list[tuple[str, str, Any]] = [(call, method, body) for call, method, body, _ in CALLS]
    bodies += [
        ("copy", "POST", {"location": "a"}),
        ("compress", "POST", {"files": ["a"]}),
        ("copy-many", "POST", {"files": [{"from": "a", "to": "b"}]}),
        ("create-symlink", "POST", {"link": "x", "target": "a"}),
        ("pull", "POST", {"root": "/", "url": "http://127.0.0.1:1/a"}),
        ("write?file=a", "POST", {}),
    ]
    for call, method, body in bodies:
        reply = await node.post(call, body, method)
        assert (reply.status, reply.json["error"]) == (409, text)
    assert node.names() == ["a"]
    assert (node.home / "a").read_text() == "a"


class Stuck:
    """Has copies wait in their thread, until `let` or until they are cancelled."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered = threading.Event()
        self.may_go = threading.Event()
        monkeypatch.setattr(roots, "copy_data", self._copy)

    def _copy(self, source: int, target: int, size: int, cancelled: Callable[[], bool]) -> None:
        self.entered.set()
        while not (self.may_go.wait(0.005) or cancelled()):
            pass
        copy_data(source, target, size, cancelled)


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stuck]:
    made = Stuck(monkeypatch)
    yield made
    made.may_go.set()


async def test_a_change_that_takes_longer_goes_on_and_its_end_is_told(
    make: Make, stuck: Stuck
) -> None:
    node = make(patience=0.01)
    node.plant("a")
    reply = await node.post("copy", {"location": "a"})
    assert (reply.status, reply.content) == (202, b"")
    assert node.files.said == []
    stuck.may_go.set()
    await until(lambda: node.files.said)
    assert node.files.said == ["Copying a is complete."]
    assert (node.home / "a copy").read_text() == "a"


async def test_the_failure_of_a_change_that_goes_on_is_told(make: Make, stuck: Stuck) -> None:
    node = make(CALAGOPUS, patience=0.01)
    node.plant("a")
    status, data = await node.packed("copy", {"path": "a", "name": "b"})
    assert status == 202
    node.plant("b")
    stuck.may_go.set()
    await until(lambda: node.files.said)
    assert node.files.said[0].startswith("Copying a failed: Cannot move or rename file")
    last = node.files.events[-1]
    assert last[:2] == ("operation error", data["identifier"])
    assert last[2].startswith("Cannot move or rename file")


async def test_calagopus_page_is_told_the_progress_of_work_in_the_background(
    make: Make, stuck: Stuck
) -> None:
    node = make(CALAGOPUS)
    node.plant("d/a")
    status, data = await node.packed("copy", {"path": "d/a", "foreground": False})
    assert (status, list(data)) == (202, ["identifier"])
    await until(stuck.entered.is_set)
    reply = await node.call("GET", f"{FILES}/operations")
    (listed,) = reply.json["operations"]
    assert listed == {
        "identifier": data["identifier"],
        "type": "copy",
        "path": "/d/a",
        "destination_path": "",
        "start_time": "1970-01-01T00:00:00Z",
        "bytes_processed": 0,
        "bytes_total": 3,
        "files_processed": 0,
    }
    stuck.may_go.set()
    await until(lambda: "operation completed" in node.event_names())
    assert node.event_names()[0] == "operation progress"
    assert node.files.events[-1] == ("operation completed", data["identifier"])
    assert node.progress()[0]["path"] == "/d/a"
    assert (await node.call("GET", f"{FILES}/operations")).json == {"operations": []}


async def test_work_in_the_background_is_cancelled(make: Make, stuck: Stuck) -> None:
    node = make(CALAGOPUS)
    node.plant("a")
    _, data = await node.packed("copy", {"path": "a", "foreground": False})
    await until(stuck.entered.is_set)
    path = f"{FILES}/operations/{data['identifier']}"
    other = FILES.replace(UUID, "0c4c5e1c-6e2b-4c43-9d57-8d2f5a147f10")
    assert (await node.call("DELETE", path.replace(FILES, other))).status == 404
    assert (await node.call("DELETE", path)).status == 200
    await until(lambda: node.files.said)
    assert node.files.events[-1] == ("operation aborted", data["identifier"])
    assert node.names() == ["a"]
    reply = await node.call("DELETE", path)
    assert (reply.status, reply.json["error"]) == (404, "operation not found")


@pytest.mark.promise("file-changes-give-way")
@pytest.mark.parametrize("operation", [Operation.TRANSFER_OUT, Operation.INSTALL])
async def test_what_takes_the_server_ends_a_change_and_can_wait_for_that(
    make: Make, stuck: Stuck, operation: Operation
) -> None:
    node = make()
    node.plant("a")
    reply = Deferred.fromCoroutine(node.post("copy", {"location": "a"}))
    await until(stuck.entered.is_set)
    operations = node.files.operations
    ended = operations.ended(Operation.CHANGE_FILES)
    assert not ended.called
    operations.place_hold(operation, "why")
    await ended
    assert node.names() == ["a"]
    answer = await reply
    assert (answer.status, answer.json["code"]) == (409, "file-work-cancelled")


async def test_the_changes_of_a_server_are_bounded(
    make: Make, stuck: Stuck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "MAX_TASKS", 3)
    node = make(CALAGOPUS, threads=1)
    node.plant("a")
    body = {"path": "a", "foreground": False}
    found = [(await node.packed("copy", body))[0] for _ in range(4)]
    assert found == [202, 202, 202, 417]
    stuck.may_go.set()
    await until(lambda: node.event_names().count("operation completed") == 3)
    assert len(node.names()) == 4


DEFAULT = re.compile(r"archive-\d{4}-\d\d-\d\dT\d{6}(Z|[+-]\d{4})\.tar\.gz")


async def test_pterodactyls_archive_is_a_tar_gz_with_the_time(make: Make) -> None:
    node = make(PTERODACTYL)
    node.plant("d/a", "d/b/c", "x")
    reply = await node.post("compress", {"root": "/d", "files": ["a", "b"]})
    assert reply.status == 200
    name = reply.json["name"]
    assert DEFAULT.fullmatch(name)
    assert (reply.json["mime"], reply.json["mode_bits"]) == ("application/tar+gzip", "644")
    with tarfile.open(node.home / "d" / name) as found:
        assert found.getnames() == ["a", "b", "b/c"]


@pytest.mark.parametrize(
    ("extension", "suffix", "mime"),
    [
        ("zip", "zip", "application/zip"),
        ("", "tar.gz", "application/gzip"),
    ],
)
async def test_pelicans_archive_has_a_name_and_an_extension(
    make: Make, extension: str, suffix: str, mime: str
) -> None:
    node = make(PELICAN)
    node.plant("a")
    names = []
    for _ in range(3):
        body = {"root": "/", "files": ["a"], "name": "my", "extension": extension}
        reply = await node.post("compress", body)
        assert (reply.status, reply.json["mime"]) == (200, mime)
        names.append(reply.json["name"])
    assert names == [f"my.{suffix}", f"my copy.{suffix}", f"my copy 1.{suffix}"]
    path = node.home / names[0]
    assert path.stat().st_size == reply.json["size"]
    if suffix == "zip":
        assert zipfile.ZipFile(path).namelist() == ["a"]
    else:
        with tarfile.open(path) as found:
            assert found.getnames() == ["a"]


async def test_calagopus_archive_has_a_format(make: Make) -> None:
    node = make(CALAGOPUS)
    node.plant("d/a", "my")
    body = {"root": "/", "files": ["d", "gone"], "name": "my", "format": "tar_zstd"}
    status, entry = await node.packed("compress", body)
    assert (status, entry["name"]) == (200, "my")
    assert (node.home / "my").read_bytes() != b"my"
    status, entry = await node.packed("compress", {"files": ["d"], "format": "zip"})
    assert (status, entry["mime"]) == (200, "application/zip")
    status, data = await node.packed("compress", {"files": ["d"], "format": "rar"})
    assert (status, data["code"]) == (417, "archive-format-unsupported")


async def test_an_archive_that_takes_longer_is_described_as_it_is_so_far(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make(PELICAN, patience=0.05)
    node.plant("a")
    may_go = threading.Event()
    real = archives._pack

    def pack(*given: Any) -> None:
        may_go.wait(20)
        real(*given)

    monkeypatch.setattr(archives, "_pack", pack)
    reply = await node.post("compress", {"files": ["a"], "name": "my", "extension": "zip"})
    may_go.set()
    assert reply.status == 202
    assert {"name": "my.zip", "size": 0, "mime": "application/zip"}.items() <= reply.json.items()
    await until(lambda: node.files.said)
    assert zipfile.ZipFile(node.home / "my.zip").namelist() == ["a"]


async def test_a_server_above_its_limit_makes_no_archive(make: Make) -> None:
    node = make()
    (node.home / "a").write_bytes(os.urandom(100_000))
    usage = node.files.files.usage
    usage.used, usage.limit = 100_000, 99_999
    reply = await node.post("compress", {"files": ["a"]})
    text = (
        "This server does not have enough available disk space to generate a compressed archive."
    )
    assert (reply.status, reply.json["error"]) == (409, text)
    usage.limit = 150_000
    reply = await node.post("compress", {"files": ["a"]})
    text = "There is not enough disk space available to perform that action."
    assert (reply.status, reply.json["error"]) == (400, text)
    assert (node.names(), usage.used) == (["a"], 100_000)
    # Deleting works above it, and counts at once.
    assert (await node.post("delete", {"files": ["a"]})).status == 204
    assert usage.used == 0
    reply = await node.call("GET", f"{FILES}/list-directory")
    assert (reply.status, reply.json) == (200, [])


OLD, NEW = b"old content", b"new content, which is longer"


async def write(node: FileNode, path: str, data: bytes, **headers: str) -> tuple[int, object]:
    reply = await node.call("POST", f"{FILES}/write?file={quote(path)}", data, **headers)
    return reply.status, reply.json


def head(length: int | None, path: str = "a", *more: str) -> bytes:
    lines = [
        f"POST /api/{FILES}/write?file={path} HTTP/1.1",
        "Host: node",
        f"Authorization: Bearer {TOKEN}",
        *([] if length is None else [f"Content-Length: {length}"]),
        *more,
    ]
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


def connected(node: FileNode) -> socket.socket:
    return socket.create_connection(("127.0.0.1", node.port))


async def halfway(node: FileNode) -> socket.socket:
    """Return the connection that writes a million bytes in place of "a", after 600,000 of them."""
    (node.home / "a").write_bytes(OLD)
    client = connected(node)
    client.sendall(head(1_000_000) + b"x" * 600_000)
    await until(lambda: temporary(node))
    return client


def temporary(node: FileNode) -> list[str]:
    return [name for name in node.names() if name.startswith(".wingsd-")]


async def answer(client: socket.socket) -> bytes:
    """Return the beginning of an answer, as far as its error; the reactor goes on meanwhile."""
    client.setblocking(False)
    received = bytearray()

    def answered() -> bool:
        try:
            received.extend(client.recv(65536))
        except BlockingIOError:
            return False
        return b'"error"' in received

    await until(answered)
    return bytes(received)


@pytest.mark.parametrize("family", [PTERODACTYL, PELICAN])
async def test_a_file_is_written_with_its_directories_and_owner(make: Make, family: str) -> None:
    node = make(family)
    assert await write(node, "/x/y/ a\u00fc.txt", NEW) == (204, None)
    path = node.home / "x/y/ a\u00fc.txt"
    found = path.stat()
    assert (path.read_bytes(), stat.S_IMODE(found.st_mode)) == (NEW, 0o644)
    assert (found.st_uid, found.st_gid) == OWNER
    assert node.files.disk_bytes == len(NEW)


async def test_calagopus_panel_gets_no_revision(make: Make) -> None:
    node = make(CALAGOPUS)
    reply = await node.call("POST", f"{FILES}/write?file=a&user=x", NEW)
    assert (reply.status, reply.json) == (200, {"revision_id": None})


async def test_the_body_is_the_content_whatever_it_is(make: Make) -> None:
    node = make()
    for kind in ("application/json", "text/plain", "application/msgpack", ""):
        for data in (b"", b"{", b"\0\xff", b"a" * 1_100_000):
            reply = await node.call("POST", f"{FILES}/write?file=a", data, Content_Type=kind)
            assert reply.status in (200, 204)
            assert (node.home / "a").read_bytes() == data


@pytest.mark.promise("files-are-old-or-new")
@pytest.mark.parametrize("how", ["closes", "resets"])
async def test_a_client_that_breaks_off_leaves_the_old_file(make: Make, how: str) -> None:
    node = make()
    client = await halfway(node)
    if how == "resets":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    await until(lambda: node.names() == ["a"])
    assert (node.home / "a").read_bytes() == OLD
    await until(lambda: not node.files.operations.runs(Operation.CHANGE_FILES))
    assert node.files.disk_bytes == 0


async def test_a_body_without_its_length_is_refused(make: Make) -> None:
    node = make()
    with connected(node) as client:
        client.sendall(head(None, "a", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n")
        received = await answer(client)
    assert received.startswith(b"HTTP/1.1 400")
    assert b"Missing Content-Length" in received
    assert node.names() == []


async def test_a_file_above_the_limit_is_refused_before_its_first_byte(make: Make) -> None:
    node = make()
    node.files.files.usage.limit = 1000
    (node.home / "a").write_bytes(OLD)
    with connected(node) as client:
        client.sendall(head(10**12, "a", "Expect: 100-continue"))
        received = await answer(client)
    assert received.startswith(b"HTTP/1.1 400")
    assert b"not enough disk space" in received
    assert b"100 Continue" not in received
    assert (node.names(), node.files.disk_bytes) == (["a"], 0)


async def test_what_cannot_be_written_is_refused(make: Make) -> None:
    node = make()
    node.files.deny("*.key", "/hidden/")
    (node.home / "d").mkdir()
    (node.home / "hidden").mkdir()
    (node.home / "link").symlink_to("/etc/passwd")
    (node.home / "way").symlink_to("hidden")
    os.mkfifo(node.home / "fifo")
    (node.home / "file").write_bytes(OLD)
    before = node.names()
    conflict = "Cannot write file, name conflicts with an existing directory by the same name."
    expected = {
        "d": (400, conflict),
        "": (400, conflict),
        "/": (400, conflict),
        "a.key": (403, "This file cannot be modified: present in egg denylist."),
        "way/x": (403, "This file cannot be modified: present in egg denylist."),
        "link": (400, "Cannot open files of this type."),
        "fifo": (400, "Cannot open files of this type."),
        "file/x": (400, "Part of the path being created is not a directory (ENOTDIR)."),
        "n" * 256: (400, "Cannot perform that action: file name is too long."),
    }
    for path, answer in expected.items():
        status, data = await write(node, path, NEW)
        assert isinstance(data, dict)
        assert (status, data["error"]) == answer
    assert node.names() == before
    assert node.files.disk_bytes == 0


async def test_a_write_ends_when_the_server_is_taken(make: Make) -> None:
    node = make()
    with await halfway(node) as client:
        operations = node.files.operations
        operations.place_hold(Operation.TRANSFER_OUT, "why")
        await operations.ended(Operation.CHANGE_FILES)
        assert node.names() == ["a"]
        assert (await answer(client)).startswith(b"HTTP/1.1 409")
    assert (node.home / "a").read_bytes() == OLD


async def test_an_unauthorized_body_is_not_read(make: Make) -> None:
    node = make()
    reply = await node.call(
        "POST", f"{FILES}/write?file=a", b"x" * 2_000_000, Authorization="Bearer x"
    )
    assert (reply.status, node.names()) == (403, [])
