"""Archives that are made while a browser saves them, over HTTP."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from typing import Any

import pytest
from twisted.internet.protocol import ClientCreator, Protocol

from tests.api.file_node import SignedSite
from tests.api.node import reactor
from tests.support.present import present
from tests.support.reactor import until
from wingsd.config import CALAGOPUS

MIB = 1 << 20


pytestmark = pytest.mark.parametrize("family", [CALAGOPUS], indirect=True)


@pytest.fixture
def site(site: SignedSite, family: str) -> SignedSite:
    world = site.home / "мир"
    (world / "region").mkdir(parents=True)
    (world / "region" / "r.0.mca").write_bytes(b"region" * 1000)
    (world / "level.dat").write_bytes(b"level")
    (world / "secret.key").write_bytes(b"secret")
    (world / "a.jar").write_bytes(b"denied")
    (world / "link").symlink_to("/etc/passwd")
    os.mkfifo(world / "fifo")
    (site.home / "other").write_bytes(b"other")
    return site


def names(content: bytes) -> set[str]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {member.name for member in tar if member.isfile()}


@pytest.mark.parametrize("form", ["", "tar", "tar_gz", "tar_xz", "tar_bz2", "zip"])
async def test_a_directory_is_an_archive_without_what_is_denied_or_hidden(
    site: SignedSite, form: str
) -> None:
    site.files.deny("*.jar")
    url = site.url("directory", file_path="/мир", ignored_files=["*.key"])
    reply = await site.fetch(f"{url}&archive_format={form}" if form else url)
    assert reply.status == 200
    suffix = {"": "tar.gz"}.get(form, form.replace("_", "."))
    assert reply.headers["content-disposition"].endswith(f"%D0%BC%D0%B8%D1%80.{suffix}")
    if form == "zip":
        with zipfile.ZipFile(io.BytesIO(reply.content)) as archive:
            found = {name for name in archive.namelist() if not name.endswith("/")} - {"link"}
            assert archive.read("region/r.0.mca") == b"region" * 1000
    else:
        found = names(reply.content)
    assert found == {"level.dat", "region/r.0.mca"}


async def test_chosen_files_are_an_archive(site: SignedSite) -> None:
    url = site.url("files", file_path="/мир", file_paths=["level.dat", "region", "absent"])
    assert names((await site.fetch(url)).content) == {"level.dat", "region/r.0.mca"}
    url = site.url("files", file_path="/", file_paths=["../other"])
    head = await site.fetch(url, "HEAD")
    assert (head.status, head.content) == (200, b"")
    assert names((await site.fetch(url)).content) == {"other"}


@pytest.mark.parametrize(
    ("what", "claims", "query", "status", "code"),
    [
        ("directory", {"file_path": "absent"}, "", 404, "file-missing"),
        ("directory", {"file_path": "other"}, "", 404, "directory-missing"),
        (
            "directory",
            {"file_path": "мир", "ignored_files": ["/мир"]},
            "",
            404,
            "directory-missing",
        ),
        ("files", {"file_path": "мир", "file_paths": ["absent"]}, "", 404, "file-missing"),
        ("files", {"file_path": "мир", "file_paths": []}, "", 404, "file-missing"),
        ("files", {"file_path": "мир"}, "", 404, "signed-url-void"),
        ("files", {"file_path": "мир", "file_paths": ["a.jar"]}, "", 403, "file-denied"),
        ("directory", {"file_path": "мир"}, "rar", 400, "archive-format-unsupported"),
    ],
)
async def test_what_cannot_be_packed_is_refused_and_uses_no_token(
    site: SignedSite, what: str, claims: dict[str, Any], query: str, status: int, code: str
) -> None:
    site.files.deny("*.jar")
    url = site.url(what, **claims) + (f"&archive_format={query}" if query else "")
    for _ in range(6):
        reply = await site.fetch(url)
        assert (reply.status, reply.json["code"]) == (status, code)


class Reader(Protocol):
    """A client that reads a little, and then no more."""

    def __init__(self) -> None:
        self.received = 0

    def dataReceived(self, data: bytes) -> None:
        self.received += len(data)
        self.transport.pauseProducing()  # type: ignore[union-attr]


async def test_a_client_that_goes_ends_the_packing(site: SignedSite) -> None:
    with (site.home / "large").open("wb") as file:
        file.truncate(500 * MIB)
    creator: Any = ClientCreator(reactor, Reader)
    client: Reader = await creator.connectTCP("127.0.0.1", site.port)
    url = site.url("directory", file_path="/") + "&archive_format=tar"
    present(client.transport).write(f"GET {url} HTTP/1.1\r\nHost: node\r\n\r\n".encode())
    await until(lambda: client.received)
    assert site.archives.running == 1
    client.transport.abortConnection()  # type: ignore[union-attr]
    await until(lambda: not site.archives.running)
