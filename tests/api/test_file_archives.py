"""`compress`, over HTTP, in the dialects of the three families."""

from __future__ import annotations

import os
import re
import tarfile
import threading
import zipfile
from typing import Any

import pytest

from tests.api.file_node import FILES, Make
from tests.support.reactor import until
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL
from wingsd.files import archives

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
        ("tgz", "tar.gz", "application/gzip"),
        ("tar.bz2", "tar.bz2", "application/x-bzip2"),
        ("txz", "tar.xz", "application/x-xz"),
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


@pytest.mark.parametrize("kind", ["tar", "tar_gz", "tar_xz", "tar_bz2", "tar_lz4", "tar_zstd"])
async def test_calagopus_archive_has_a_format(make: Make, kind: str) -> None:
    node = make(CALAGOPUS)
    node.plant("d/a", "my")
    body = {"root": "/", "files": ["d", "gone"], "name": "my", "format": kind}
    status, entry = await node.packed("compress", body)
    assert (status, entry["name"]) == (200, "my")
    assert (node.home / "my").read_bytes() != b"my"
    status, entry = await node.packed("compress", {"files": ["d"], "format": "zip"})
    assert (status, entry["mime"]) == (200, "application/zip")


@pytest.mark.parametrize("kind", ["seven_zip", "tar_lzip", "rar", ""])
async def test_formats_that_are_not_made_are_named(make: Make, kind: str) -> None:
    node = make(CALAGOPUS)
    node.plant("a")
    status, data = await node.packed("compress", {"files": ["a"], "format": kind})
    assert (status, data["code"]) == (417, "archive-format-unsupported")


async def test_calagopus_page_follows_an_archive_in_the_background(make: Make) -> None:
    node = make(CALAGOPUS)
    node.plant("d/a")
    body = {"root": "/", "files": ["d"], "name": "x.tar.gz", "foreground": False}
    status, data = await node.packed("compress", body)
    assert status == 202
    await until(lambda: node.files.said)
    assert node.files.events[-1] == ("operation completed", data["identifier"])
    assert (
        node.progress()[0].items()
        >= {
            "type": "compress",
            "path": "/",
            "files": ["d"],
        }.items()
    )
    assert node.files.said == ["Compressing files of / is complete."]
    assert "x.tar.gz" in node.names()


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


async def test_what_is_denied_or_missing_is_an_error(make: Make) -> None:
    node = make(PELICAN)
    node.plant("a.key", "b")
    node.files.deny("*.key", "*.zip")
    cases: list[tuple[dict[str, Any], int]] = [
        ({"files": ["a.key"]}, 403),
        ({"files": ["gone"]}, 404),
        ({"files": ["b"], "root": "gone"}, 404),
        ({"files": ["b"], "root": "b"}, 404),
        ({"files": ["b"], "name": "x", "extension": "zip"}, 403),
        ({"files": ["b"], "name": "n" * 300}, 400),
        ({"files": ["b"], "name": "b/x"}, 400),
    ]
    for body, status in cases:
        assert (await node.post("compress", body)).status == status
    assert node.names() == ["a.key", "b"]
