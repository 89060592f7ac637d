"""The calls that list, read and search a server's files, over HTTP, on the disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
import msgpack
import pytest
from twisted.internet.defer import Deferred

from tests.api.file_node import FILES, FileNode
from tests.api.node import UUID
from tests.support.reactor import until
from wingsd.config import PELICAN
from wingsd.files.entries import FileEntry
from wingsd.files.tasks import Lane
from wingsd.servers.operations import Operation

pytestmark = pytest.mark.promise("files-stay-inside-the-server")


TEXT = "text/plain; charset=utf-8"


@pytest.fixture
def node(closing: Callable[[FileNode], FileNode], home: Path) -> FileNode:
    return closing(FileNode(home, waiting=8))


async def test_a_directory_is_listed(node: FileNode, home: Path) -> None:
    (home / "world").mkdir()
    (home / "server.properties").write_text("motd=x")
    reply = await node.get("list-directory?directory=/")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert [entry["name"] for entry in reply.json] == ["world", "server.properties"]
    world, properties = reply.json
    assert set(world) == set(attrs.fields_dict(FileEntry))
    assert (world["mode"][0], world["mime"]) == ("d", "inode/directory")
    assert (properties["size"], properties["mime"]) == (6, TEXT)


@pytest.mark.promise("server-files-are-bounded")
@pytest.mark.parametrize("call", ["list-directory", "list"])
async def test_a_large_directory_waits_for_its_turn_and_a_small_one_does_not(
    node: FileNode, home: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr("wingsd.files.entries.SMALL", 2)
    for name in ("small/1", "small/2", "large/1", "large/2", "large/3"):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).touch()
    work = node.file_work
    work.large = Lane(work.large.workers, each=1, waiting=4)
    async with work.large.turn(UUID):
        waiting = Deferred.fromCoroutine(node.get(f"{call}?directory=large"))
        await until(lambda: work.large._turns[UUID].waiting)
        assert (await node.get(f"{call}?directory=small")).status == 200
        assert not waiting.called
    reply = await waiting
    found = reply.json if call == "list-directory" else reply.json["entries"]
    assert [entry["name"] for entry in found] == ["1", "2", "3"]


async def test_an_empty_directory_is_an_empty_list(node: FileNode) -> None:
    assert (await node.get("list-directory")).json == []
    assert (await node.get("list")).json["entries"] == []


async def test_an_answer_is_in_messagepack_where_it_is_asked_for(
    node: FileNode, home: Path
) -> None:
    (home / "caf\udce9").touch()
    for path in ("list-directory", "list", "search?pattern=caf", "fingerprints?algorithm=md5"):
        reply = await node.get(path, Accept="application/msgpack")
        assert (reply.status, reply.headers["content-type"]) == (200, "application/msgpack")
        plain = await node.get(path)
        assert msgpack.unpackb(reply.content) == plain.json


async def test_a_page_of_a_directory_is_listed(node: FileNode, home: Path) -> None:
    for number in range(5):
        (home / f"{number}.txt").touch()
    (home / "secret").touch()
    query = "list?directory=/&per_page=2&page=2&sort=name_desc&ignored=secret&ignored[]=0.*"
    reply = await node.get(query)
    assert reply.status == 200
    entries = reply.json.pop("entries")
    assert [entry["name"] for entry in entries] == ["2.txt", "1.txt"]
    assert reply.json["total"] == 4
    assert reply.json["filesystem_primary"] is True


async def test_the_egg_hides_files_in_pages_and_shows_them_in_whole_directories(
    node: FileNode, home: Path
) -> None:
    (home / "a.key").touch()
    node.files.deny("*.key")
    assert len((await node.get("list-directory")).json) == 1
    assert (await node.get("list")).json["total"] == 0


@pytest.mark.parametrize(
    "query", ["per_page=x", "page=-1", "per_page=1e3", "sort=colour", f"page={'9' * 100}"]
)
async def test_an_invalid_page_is_refused(node: FileNode, query: str) -> None:
    reply = await node.get(f"list?{query}")
    assert (reply.status, reply.json["code"]) == (400, "bad-request")


async def test_contents_are_sent(node: FileNode, home: Path) -> None:
    (home / "config").mkdir()
    (home / "config/a.txt").write_text("héllo")
    reply = await node.get("contents?file=/config/a.txt")
    assert (reply.status, reply.text) == (200, "héllo")
    assert reply.headers["x-mime-type"] == reply.headers["content-type"] == TEXT
    assert "content-disposition" not in reply.headers
    part = await node.get("contents?file=config/a.txt", Range="bytes=-2")
    assert (part.status, part.text) == (206, "lo")


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("a b.txt", "a b.txt"),
        ('q"u\\o%.txt', "q_u_o_.txt"),
        ("größe.txt", "gr__e.txt"),
        ("файл", "____"),
        ("new\nline", "new_line"),
    ],
)
async def test_a_download_has_its_name_in_every_alphabet(
    node: FileNode, home: Path, name: str, plain: str
) -> None:
    (home / name).write_bytes(b"x")
    reply = await node.get(f"contents?file={quote(name)}&download=1")
    assert (reply.status, reply.text) == (200, "x")
    assert reply.headers["content-type"] == "application/octet-stream"
    assert reply.headers["content-disposition"] == (
        f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
    )


async def test_a_file_larger_than_the_panel_wants_is_refused(node: FileNode, home: Path) -> None:
    (home / "a").write_text("12345")
    assert (await node.get("contents?file=a&max_size=5")).text == "12345"
    reply = await node.get("contents?file=a&max_size=4")
    assert (reply.status, reply.json["code"]) == (413, "file-too-large")


async def test_the_head_of_a_file_has_its_size(node: FileNode, home: Path) -> None:
    (home / "a").write_text("12345")
    reply = await node.call("HEAD", f"{FILES}/contents?file=a")
    assert (reply.status, reply.content) == (200, b"")
    assert reply.headers["content-length"] == "5"
    assert (await node.call("HEAD", f"{FILES}/list")).status == 405


LONG = "x" * 256


BAD_FILES = [
    ("missing", 404, "file-missing"),
    ("a/below", 404, "file-missing"),
    ("", 400, "file-is-directory"),
    ("/", 400, "file-is-directory"),
    ("directory", 400, "file-is-directory"),
    ("/etc/passwd", 404, "file-missing"),
    ("%2e%2e%2fsecret", 404, "file-missing"),
    ("a%00b", 400, "file-path-invalid"),
    (LONG, 400, "file-name-too-long"),
    ("/".join(["x" * 200] * 30), 400, "file-name-too-long"),
    ("%ff%fe", 404, "file-missing"),
    ("link", 400, "file-type-refused"),
    ("out/secret", 404, "file-missing"),
    ("fifo", 400, "file-type-refused"),
]


async def test_contents_of_what_is_no_file_are_refused(
    node: FileNode, home: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("secret")
    (home / "a").write_text("x")
    (home / "directory").mkdir()
    (home / "directory/a").write_text("x")
    (home / "link").symlink_to(tmp_path / "secret")
    (home / "out").symlink_to(tmp_path)
    (home / "inside").symlink_to("directory")
    os.mkfifo(home / "fifo")
    assert (await node.get("contents?file=inside/a")).text == "x"
    for path, status, code in BAD_FILES:
        reply = await node.get(f"contents?file={path}")
        assert (reply.status, reply.json["code"]) == (status, code), path
        assert reply.json["request_id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize(
    "call", ["list-directory?directory", "list?directory", "search?pattern=abc&directory"]
)
async def test_what_is_no_directory_is_not_listed(
    node: FileNode, home: Path, tmp_path: Path, call: str
) -> None:
    (home / "a").touch()
    os.mkfifo(home / "fifo")
    (home / "link").symlink_to("..")
    (home / "out").symlink_to(tmp_path)
    expected = {"a%00b": (400, "file-path-invalid"), LONG: (400, "file-name-too-long")}
    for path in ("missing", "a", "fifo", "../../etc/x", "link", "out", "%ff", *expected):
        reply = await node.get(f"{call}={path}")
        found = (reply.status, reply.json["code"])
        assert found == expected.get(path, (404, "directory-missing")), path


async def test_pelicans_page_gets_its_own_message(node: FileNode) -> None:
    ours = await node.get("list-directory?directory=missing")
    assert ours.json["error"] == "The requested directory does not exist."
    node.live.current = attrs.evolve(node.config, family=PELICAN)
    pelicans = await node.get("list-directory?directory=missing")
    assert pelicans.json["error"] == "The requested directory was not found on the server."


async def test_denied_files_are_not_opened(node: FileNode, home: Path) -> None:
    (home / "config").mkdir()
    (home / "config/secret.yml").write_text("x")
    node.files.deny("/config/*.yml")
    reply = await node.get("contents?file=config/../config/secret.yml")
    assert (reply.status, reply.json["error"]) == (
        403,
        "This file cannot be modified: present in egg denylist.",
    )
    hidden = await node.get("contents?file=config/secret.yml&ignored=*.yml")
    assert hidden.status == 403
    node.files.deny()
    hidden = await node.get("contents?file=config/secret.yml&ignored[]=*.yml")
    assert (hidden.status, hidden.json["code"]) == (404, "file-missing")


async def test_a_symlink_leads_to_no_denied_file(node: FileNode, home: Path) -> None:
    (home / "config/deep").mkdir(parents=True)
    (home / "config/deep/secret.yml").write_text("secret")
    (home / "link").symlink_to("config")
    node.files.deny("/config/")
    assert (await node.get("contents?file=link/deep/secret.yml")).status == 403
    prints = await node.get("fingerprints?algorithm=md5&files=link/deep/secret.yml")
    assert prints.json == {"fingerprints": {}}
    assert (await node.get("list?directory=link/deep")).json["total"] == 0
    found = await node.call("POST", f"{FILES}/search", {"root": "link/deep", "per_page": 5})
    assert found.json == {"results": []}


CALLS = (
    "list-directory",
    "list",
    "contents?file=a",
    "search?pattern=abc",
    "fingerprints?algorithm=md5",
)


async def test_each_call_is_of_a_known_server(node: FileNode) -> None:
    for call in CALLS:
        other = await node.call("GET", f"servers/{UUID[:-1]}f/files/{call}")
        assert (other.status, other.json["code"]) == (404, "server-not-found")


@pytest.mark.parametrize(
    ("operation", "status"),
    [
        (Operation.INSTALL, 200),
        (Operation.TRANSFER_OUT, 200),
        (Operation.TRANSFER_IN, 409),
        (Operation.MOVED, 409),
        (Operation.DELETE, 409),
    ],
)
async def test_files_are_read_while_a_server_is_installed_or_sent_only(
    node: FileNode, home: Path, operation: Operation, status: int
) -> None:
    (home / "a").touch()
    node.files.operations.place_hold(operation, "it is being done")
    assert [(await node.get(call)).status for call in CALLS] == [status] * len(CALLS)


async def test_names_are_searched(node: FileNode, home: Path) -> None:
    (home / "plugins/a").mkdir(parents=True)
    (home / "plugins/a/Config.yml").write_text("x")
    (home / "node_modules").mkdir()
    (home / "node_modules/config.yml").touch()
    for directory, expected in (
        ("", "plugins/a/Config.yml"),
        ("/", "plugins/a/Config.yml"),
        ("/plugins/", "/plugins/a/Config.yml"),
        ("plugins", "plugins/a/Config.yml"),
    ):
        reply = await node.get(f"search?directory={directory}&pattern=*.YML")
        assert (reply.status, [entry["name"] for entry in reply.json]) == (200, [expected])
    short = await node.get("search?pattern=ab")
    assert (short.status, short.json["error"]) == (
        400,
        "Pattern must be at least 3 characters long",
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"per_page": 10, "root": "/deep"}, ["c.txt"]),
        ({"per_page": 1, "path_filter": {"include": ["b*"], "exclude": []}}, ["b.log"]),
        (
            {"per_page": 10, "path_filter": {"include": ["*.TXT"], "case_insensitive": True}},
            ["a.txt", "deep/c.txt"],
        ),
        ({"per_page": 10, "size_filter": {"min": 2, "max": 10}}, ["a.txt"]),
        (
            {
                "per_page": 10,
                "content_filter": {
                    "query": "NEE",
                    "max_search_size": 100,
                    "case_insensitive": True,
                },
            },
            ["a.txt"],
        ),
        ({"query": "deep"}, ["deep/c.txt"]),
        ({"query": "need", "include_content": True}, ["a.txt"]),
    ],
)
async def test_files_are_searched(
    node: FileNode, home: Path, content: dict[str, Any], expected: list[str]
) -> None:
    (home / "deep").mkdir()
    (home / "a.txt").write_text("needle")
    (home / "b.log").write_text("b")
    (home / "deep/c.txt").write_text("c")
    reply = await node.call("POST", f"{FILES}/search", content)
    assert reply.status == 200
    assert sorted(entry["name"] for entry in reply.json["results"]) == expected


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"nonsense",
        {"per_page": 10, "path_filter": "*"},
        {"per_page": 10, "size_filter": {"min": 5}},
        {"per_page": 10, "content_filter": {"query": "x"}},
        {"per_page": 10, "root": "a\0b"},
        {"per_page": 10, "root": "\ud800"},
        json.dumps({"per_page": 10, "root": "x" * 5000}).encode(),
    ],
)
async def test_an_invalid_search_is_refused(node: FileNode, content: object) -> None:
    reply = await node.call("POST", f"{FILES}/search", content)
    assert reply.status == 400
    assert reply.json["code"] in ("bad-request", "file-path-invalid", "file-name-too-long")


async def test_fingerprints_are_of_the_files_that_may_be_read(node: FileNode, home: Path) -> None:
    (home / "deep").mkdir()
    (home / "deep/a").write_bytes(b"abc")
    (home / "deep/b.key").write_bytes(b"abc")
    (home / "link").symlink_to("deep/a")
    os.mkfifo(home / "fifo")
    node.files.deny("*.key")
    files = "&files=".join(["deep/a", "deep/b.key", "missing", "link", "fifo", "deep", "../x"])
    reply = await node.get(f"fingerprints?algorithm=md5&files={files}")
    assert reply.json == {"fingerprints": {"deep/a": "900150983cd24fb0d6963f7d28e17f72"}}
    below = await node.get("fingerprints?algorithm=CRC32&root=deep&files[]=a&files[]=./a")
    assert below.json == {"fingerprints": {"a": "352441c2", "./a": "352441c2"}}
    unknown = await node.get("fingerprints?algorithm=whirlpool&files=a")
    assert (unknown.status, unknown.json["code"]) == (400, "bad-request")
