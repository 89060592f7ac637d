"""Uploads in parts, as Calagopus' pages send them, over HTTP."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.api.file_node import SignedSite
from tests.api.node import Reply
from tests.support.tokens import USER
from wingsd.config import CALAGOPUS, PTERODACTYL
from wingsd.errors import FileTypeRefused, UploadInProgress
from wingsd.filesystem.openers import directory_opener
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.usage import UsageCounter

MIB = 1 << 20
OTHER = "1b0e7a6e-95c1-4a5b-8a53-7f6c5d2e4b11"
FILE = "&directory=saves&file=world/map.zip"


@pytest.fixture
def family(request: pytest.FixtureRequest) -> str:
    return str(getattr(request, "param", CALAGOPUS))


async def patch(site: SignedSite, url: str, body: bytes, offset: object, **headers: Any) -> Reply:
    named: dict[str, Any] = {"Upload_Offset": str(offset), **headers}
    return await site.call("PATCH", url + FILE, body, Authorization=None, **named)


async def offset(site: SignedSite, url: str) -> str:
    reply = await site.fetch(url + FILE, "HEAD")
    assert reply.status == 200
    return reply.headers["upload-offset"]


def files(site: SignedSite) -> list[Path]:
    return [path for path in site.home.rglob("*") if path.is_file()]


async def test_a_file_is_uploaded_in_parts(site: SignedSite) -> None:
    url = site.url("upload")
    content = os.urandom(900_000)
    assert await offset(site, url) == "0"
    reply = await patch(site, url, content[:500_000], 0, Upload_Length="900000")
    assert (reply.status, reply.headers["upload-offset"]) == (200, "500000")
    # The page was closed, and goes on with another address.
    url = site.url("upload")
    assert await offset(site, url) == "500000"
    assert not (site.home / "saves" / "world" / "map.zip").exists()
    last = {"Upload_Complete": "?1", "Upload_Length": "900000"}
    reply = await patch(site, url, content[500_000:], 500_000, **last)
    assert (reply.status, reply.headers["upload-offset"]) == (200, "900000")
    assert [path.read_bytes() for path in files(site)] == [content]
    (entry,) = site.activity.entries
    assert entry[1:] == ({"files": ["map.zip"], "directory": "/saves/world"}, USER, "127.0.0.1")


async def test_a_part_in_the_wrong_place_is_a_conflict_that_says_where(site: SignedSite) -> None:
    url = site.url("upload")
    await patch(site, url, b"first", 0)
    for wrong in (0, 4, 6):
        reply = await patch(site, url, b"x", wrong)
        assert (reply.status, reply.json["code"]) == (409, "upload-offset-wrong")
        assert reply.headers["upload-offset"] == "5"
    for invalid in ("", "-1", "x", "1" * 20):
        assert (await patch(site, url, b"x", invalid)).status == 400
    last = {"Upload_Complete": "?1", "Upload_Length": "100"}
    assert (await patch(site, url, b"", 5, **last)).status == 400
    assert await offset(site, url) == "5"


async def test_a_file_in_parts_has_the_same_limits(site: SignedSite) -> None:
    site.files.deny("*.zip")
    url = site.url("upload")
    assert (await patch(site, url, b"x", 0)).json["code"] == "file-denied"
    site.files.deny()
    reply = await patch(site, url, b"x", 0, Upload_Length=str(MIB + 1))
    assert reply.json["code"] == "upload-too-large"
    assert (await patch(site, url, bytes(MIB), 0)).status == 200
    assert (await patch(site, url, b"x", MIB)).json["code"] == "upload-too-large"


@pytest.mark.promise("refused-upload-leaves-nothing")
async def test_what_cannot_become_a_file_is_refused_with_its_first_part(site: SignedSite) -> None:
    (site.home / "saves/world/map.zip").mkdir(parents=True)
    url = site.url("upload")
    assert (await patch(site, url, b"x", 0)).json["code"] == "file-name-conflict"
    for nothing in ("", ".", "a/.."):
        named = f"{url}&directory=saves&file={nothing}"
        reply = await site.call("PATCH", named, b"x", Authorization=None, Upload_Offset="0")
        assert (reply.status, reply.json["code"]) == (400, "file-path-invalid"), nothing
    assert files(site) == []


@pytest.mark.promise("refused-upload-leaves-nothing")
async def test_a_file_above_the_disk_limit_is_refused_with_its_first_part(
    site: SignedSite,
) -> None:
    site.files.files.usage = UsageCounter(used=0, limit=1000)
    url = site.url("upload")
    assert (await patch(site, url, b"first", 0, Upload_Length="1000")).status == 200
    reply = await patch(site, url, b"second", 5, Upload_Length="1001")
    assert (reply.status, reply.json["code"]) == (400, "disk-limit-exceeded")
    assert await offset(site, url) == "5"
    assert (await patch(site, url, b"second", 5, Upload_Length="1000")).status == 200


async def test_what_one_user_has_begun_is_not_anothers(site: SignedSite) -> None:
    url = site.url("upload")
    await patch(site, url, b"mine", 0)
    others = site.url("upload", user_uuid=OTHER)
    assert await offset(site, others) == "0"
    assert (await site.fetch(others + FILE, "DELETE")).status == 200
    assert await offset(site, url) == "4"
    assert (await site.fetch(url + FILE, "DELETE")).status == 200
    assert (await offset(site, url), files(site)) == ("0", [])


@pytest.mark.parametrize("family", [PTERODACTYL], indirect=True)
async def test_an_address_that_has_uploaded_a_form_continues_nothing_elsewhere(
    site: SignedSite,
) -> None:
    url = site.url("upload")
    assert (await patch(site, url, b"1", 0)).status == 200
    assert (await patch(site, url, b"2", 1)).status == 200
    form = await site.call("POST", url, b"", Authorization=None)
    assert form.status == 400
    assert (await patch(site, site.url("upload", exp=1), b"2", 2)).status == 401


async def test_pages_may_send_and_read_the_headers_of_parts(site: SignedSite) -> None:
    reply = await site.fetch("/upload/file", "OPTIONS", Origin="https://panel.example.com")
    assert reply.headers["allow"] == "DELETE, HEAD, OPTIONS, PATCH, POST"
    assert "Upload-Offset" in reply.headers["access-control-allow-headers"]
    assert reply.headers["access-control-expose-headers"] == "Upload-Offset"


def test_a_part_counts_and_replaces_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(40))
    (tmp_path / "a").chmod(0o640)
    usage = UsageCounter(used=40, limit=100)
    with ServerRoot(str(tmp_path), directory_opener("auto"), None, usage) as root:
        with root.partial_file(ServerPath.parse("a"), USER) as part:
            part.write(bytes(60))
            assert usage.used == 100
            with pytest.raises(UploadInProgress):
                root.partial_file(ServerPath.parse("a"), USER)
            part.commit()
        assert usage.used == 60
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
        with root.partial_file(ServerPath.parse("b"), USER) as part:
            part.write(bytes(9))
        (name,) = {path.name for path in tmp_path.iterdir()} - {"a"}
        with root.directory(ServerPath()) as listed:
            assert [entry.name for entry in listed.entries()] == [b"a"]
            day = time.time() - 25 * 3600
            os.utime(tmp_path / name, (day, day))
            assert [entry.name for entry in listed.entries()] == [b"a"]
        assert not (tmp_path / name).exists()


def test_what_the_servers_program_puts_in_its_place_is_not_written_to(tmp_path: Path) -> None:
    with ServerRoot(str(tmp_path), directory_opener("auto")) as root:
        with root.partial_file(ServerPath.parse("a"), USER):
            (name,) = tmp_path.iterdir()
        name.unlink()
        (tmp_path / "mine").touch()
        os.link(tmp_path / "mine", name)
        with pytest.raises(FileTypeRefused):
            root.partial_file(ServerPath.parse("a"), USER)
