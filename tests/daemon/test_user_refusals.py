"""What users are refused with their archives, links, downloads and backups, as curl meets it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from uuid import uuid4

import pytest

from tests.support import process_configuration, server_settings
from tests.support.receiving_node import ReceivingNode
from tests.support.tokens import signed_url_token
from tests.support.user_archives import ZipMember, rar5, zip_of_dictionary, zipped
from tests.transfers.peers import Peer, closed_port, read_head

UUID = "5b0c7a6e-95c1-4a5b-8a53-7f6c5d2e4b22"
OTHER = "5b0c7a6e-95c1-4a5b-8a53-7f6c5d2e4b23"
ABSENT = "5b0c7a6e-95c1-4a5b-8a53-7f6c5d2e4b29"
MIB = 1 << 20
CONFIGURATION: dict[str, Any] = {
    "api": {
        "upload_limit": 1,
        "remote_download": {"host_allowlist": ["localhost"], "max_redirects": 1},
    }
}


class User:
    """A user of a server, with a Panel that signs addresses and passes calls on."""

    def __init__(self, daemon: ReceivingNode) -> None:
        self.daemon = daemon
        self.home = daemon.volumes / UUID
        self.directory = daemon.directory / "user"
        self.directory.mkdir()
        egg = {"id": UUID, "file_denylist": ["*.key"]}
        for uuid in (UUID, OTHER):
            settings = server_settings(uuid) | {"egg": egg}
            settings["build"]["disk_space"] = 2
            daemon.panel.add_server(settings, daemon.node, process_configuration())
            (daemon.volumes / uuid).mkdir(parents=True)
        (self.home / "directory").mkdir()
        (self.home / "file").write_bytes(b"0123456789")
        (self.home / "secret.key").write_bytes(b"secret")
        os.mkfifo(self.home / "fifo")

    def content(self) -> dict[str, bytes]:
        """The server's files, but for archives that were put there to be extracted."""
        files = (path for path in self.home.rglob("*") if path.is_file() and not path.is_symlink())
        found = {str(path.relative_to(self.home)): path.read_bytes() for path in files}
        return {name: data for name, data in found.items() if not name.startswith("archives/")}

    async def curl(self, path: str, *arguments: str) -> tuple[int, str]:
        """Return the status and the code of the error; the answer has words for a person."""
        status, body = await self.daemon.fetch(path, *arguments, token="")
        if status < HTTPStatus.BAD_REQUEST:
            return status, ""
        answer = json.loads(body)
        assert len(answer["error"]) > 10, answer
        assert "Traceback" not in str(answer)
        return status, answer["code"]

    async def ask(self, method: str, path: str, body: Any) -> tuple[int, str]:
        """Send what a Panel sends for a click."""
        header = ("-H", f"Authorization: Bearer {self.daemon.node.token}", "-X", method)
        path = f"/api/servers/{UUID}/{path}"
        return await self.curl(path, *header, "--json", json.dumps(body))

    async def pull(self, url: str) -> tuple[int, str]:
        body = {"root": "/", "url": url, "foreground": True}
        return await self.ask("POST", "files/pull", body)

    def signed(self, path: str, scope: str, server: str = UUID, more: str = "", **of: Any) -> str:
        key = of.pop("key", self.daemon.node.token)
        family = of.pop("family", "pterodactyl")
        return f"{path}?token={signed_url_token(key, server, scope, family, **of)}{more}"

    def download(self, server: str = UUID, **claims: Any) -> str:
        usual = {"file_path": "file"} | claims
        return self.signed("/download/file", "file-download", server, **usual)

    def upload(self, more: str = "", **claims: Any) -> str:
        return self.signed("/upload/file", "file-upload", UUID, more, **claims)


@pytest.fixture
def user(daemon: ReceivingNode) -> User:
    return User(daemon)


async def test_addresses_of_downloads(user: User) -> None:
    await user.daemon.start_loaded(**CONFIGURATION)
    used = user.download()
    assert await user.curl(used) == (200, "")
    path, backup, void = "/download/file", "/download/backup", (404, "signed-url-void")
    for address, refusal, *arguments in (
        (used, void),
        (path, (401, "token-missing")),
        (f"{path}?token=a.b.c", (401, "token-invalid")),
        (user.download(key="another node's" * 3), (401, "token-invalid")),
        (user.download(exp=1), (401, "token-expired")),
        (user.download(nbf=1 << 33, exp=1 << 34), (401, "token-invalid")),
        (user.signed(path, "file-upload", family="pelican", file_path="file"), void),
        (user.download(ABSENT), void),
        (user.download(OTHER), (404, "file-missing")),
        (user.download(file_path="../" * 9 + "etc/passwd"), (404, "file-missing")),
        (user.download(file_path="directory"), (404, "file-missing")),
        (user.download(file_path="secret.key"), (403, "file-denied")),
        (user.download(file_path="a\0b"), (400, "file-path-invalid")),
        (user.download(file_path="fifo"), (400, "file-type-refused")),
        (user.download(), (416, "range-not-satisfiable"), "-r", "10-"),
        (user.signed(backup, "backup-download", backup_uuid=ABSENT), (404, "backup-missing")),
        (user.signed(backup, "backup-download", backup_uuid="../x"), (401, "token-invalid")),
        (user.download(), (405, "method-not-allowed"), "-X", "POST"),
    ):
        assert await user.curl(address, *arguments) == refusal, address


async def test_uploads(user: User) -> None:
    await user.daemon.start_loaded(**CONFIGURATION)
    before = user.content()
    (user.directory / "small").write_bytes(b"small")
    (user.directory / "large").write_bytes(bytes(3 * MIB))
    small = f"files=@{user.directory}/small"
    for refusal, form, more in (
        ((400, "no-files-uploaded"), f"other=@{user.directory}/small", ""),
        ((400, "upload-too-large"), f"files=@{user.directory}/large", ""),
        ((400, "file-name-conflict"), f"{small};filename=directory", ""),
        ((400, "file-not-directory"), small, "&directory=file"),
        ((400, "file-name-too-long"), f"{small};filename={'n' * 256}", ""),
        ((400, "file-type-refused"), f"{small};filename=fifo", ""),
        ((400, "file-path-invalid"), f"{small};filename=..", ""),
        ((403, "file-denied"), f"{small};filename=a.key", ""),
    ):
        assert await user.curl(user.upload(more), "-F", form) == refusal, refusal
    assert await user.curl(user.upload(), "-d", "text") == (400, "upload-form-invalid")
    assert user.content() == before


async def test_uploads_in_parts(user: User) -> None:
    await user.daemon.start_loaded(**CONFIGURATION)
    before = user.content()
    begun, nameless = user.upload("&file=part"), user.upload("&directory=directory&file=")
    assert await user.curl(begun, *part("0")) == (200, "")
    for refusal, address, offset, length in (
        ((409, "upload-offset-wrong"), begun, "9", "10"),
        ((400, "bad-request"), begun, "x", "10"),
        ((400, "upload-too-large"), begun, "4", str(MIB + 1)),
        ((400, "file-path-invalid"), nameless, "0", "10"),
        ((400, "file-name-conflict"), user.upload("&file=directory"), "0", "10"),
    ):
        assert await user.curl(address, *part(offset, length)) == refusal, refusal
    assert await user.curl(begun, "-X", "DELETE") == (200, "")
    assert user.content() == before


def part(offset: str, length: str = "10") -> list[str]:
    headers = ["-H", f"Upload-Offset: {offset}", "-H", f"Upload-Length: {length}"]
    return ["-X", "PATCH", "--data-binary", "part", *headers]


ARCHIVES = {
    "encrypted.zip": (zipped(ZipMember(b"f", b"x", flags=1)), "archive-encrypted"),
    "a.part1.rar": (rar5((b"f", b"x"), flags=1)[:-20], "archive-in-parts"),
    "method.zip": (zipped(ZipMember(b"f", b"x", method=97)), "archive-method-unsupported"),
    "dictionary.zip": (zip_of_dictionary(b"x", 1 << 30), "archive-excessive"),
    "cut.zip": (zipped(ZipMember(b"f", b"x"))[:30], "archive-damaged"),
    "text.zip": (b"text", "archive-format-unknown"),
    "limit.zip": (zipped(ZipMember(b"f", bytes(2 * MIB))), "disk-limit-exceeded"),
    "long.zip": (zipped(ZipMember(b"n" * 256, b"x")), "file-name-too-long"),
    "directory.zip": (zipped(ZipMember(b"directory", b"x")), "file-name-conflict"),
    "fifo.zip": (zipped(ZipMember(b"fifo", b"x")), "file-type-refused"),
    "below.zip": (zipped(ZipMember(b"file/f", b"x")), "file-not-directory"),
}


async def test_archives(user: User) -> None:
    await user.daemon.start_loaded(**CONFIGURATION)
    before = user.content()
    place = user.home / "archives"
    place.mkdir()
    for name, (data, code) in ARCHIVES.items():
        (place / name).write_bytes(data)
        found = await user.ask(
            "POST", "files/decompress", {"root": "/", "file": f"archives/{name}"}
        )
        assert found == (400, code), name
        (place / name).unlink()
    for file, refusal in (
        ("absent.zip", (404, "file-missing")),
        ("secret.key", (403, "file-denied")),
        ("fifo", (400, "file-type-refused")),
        ("directory", (400, "file-is-directory")),
    ):
        assert await user.ask("POST", "files/decompress", {"root": "/", "file": file}) == refusal
    assert user.content() == before


def redirects(location: str) -> Callable[[socket.socket], None]:
    def script(connection: socket.socket) -> None:
        read_head(connection)
        head = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
        connection.sendall(head.encode())

    return script


def answers(head: bytes) -> Callable[[socket.socket], None]:
    def script(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 " + head + b"\r\n\r\n")

    return script


async def test_downloads_from_elsewhere(user: User) -> None:
    await user.daemon.start_loaded(**CONFIGURATION)
    before = user.content()
    with closed_port() as closed:
        for url, code in (
            ("http://[x/a", "url-invalid"),
            ("http://127.1/a", "url-invalid"),
            ("http://1.1.1.1:25/a", "url-invalid"),
            ("file:///etc/passwd", "url-scheme-refused"),
            ("http://127.0.0.1:8080/a", "address-blocked"),
            ("http://169.254.169.254/a", "address-blocked"),
            (f"http://localhost:{closed}/a", "download-failed"),
            (f"http://localhost:{closed}/", "file-path-invalid"),
            (f"http://localhost:{closed}/secret.key/..%00", "file-path-invalid"),
        ):
            assert await user.pull(url) == (400, code), url
    large = f"Content-Length: {3 * MIB}".encode()
    for script, refusal in (
        (redirects("http://127.0.0.1:8080/a"), (400, "address-blocked")),
        (redirects("ftp://localhost/a"), (400, "download-failed")),
        (redirects("/a"), (400, "too-many-redirects")),
        (answers(b"404 Not Found\r\nContent-Length: 0"), (400, "download-failed")),
        (answers(b"200 OK\r\nTransfer-Encoding: chunked"), (400, "download-failed")),
        (answers(b"200 OK\r\nContent-Length: 10"), (400, "download-failed")),
        (answers(b"200 OK\r\n" + large), (400, "disk-limit-exceeded")),
    ):
        peer = Peer(script)
        assert await user.pull(f"http://localhost:{peer.port}/a") == refusal
        await peer.outcome
    assert user.content() == before


async def test_backups(user: User) -> None:
    await user.daemon.start_loaded(**CONFIGURATION)
    before = user.content()
    backup = str(uuid4())
    kept = user.daemon.directory / "backups" / f"{backup}.tar.gz"
    kept.parent.mkdir(exist_ok=True)
    kept.write_bytes(b"nothing of wingsd's")
    order = {"adapter": "wings", "uuid": str(uuid4()), "ignore": ""}
    for refusal, path, body in (
        ((400, "backup-adapter-unknown"), "backup", order | {"adapter": "tape"}),
        ((400, "bad-request"), "backup", order | {"uuid": "../x"}),
        ((409, "backup-exists"), "backup", order | {"uuid": backup}),
        ((404, "backup-missing"), f"backup/{ABSENT}/restore", {"adapter": "wings"}),
        ((400, "bad-request"), f"backup/{backup}/restore", {"adapter": "s3"}),
        ((400, "backup-link-refused"), f"backup/{backup}/restore", link("ftp://localhost/a")),
    ):
        assert await user.ask("POST", path, body) == refusal, path
    assert await user.ask("DELETE", f"backup/{ABSENT}", {}) == (404, "backup-missing")
    assert user.content() == before
    assert kept.read_bytes() == b"nothing of wingsd's"


def link(url: str) -> dict[str, Any]:
    return {"adapter": "s3", "truncate_directory": True, "download_url": url}
