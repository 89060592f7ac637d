"""Backups that are a zip, a 7z or a tar.lz are restored as well, by the rules for all others."""

from __future__ import annotations

import io
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import libarchive
import pytest

from tests.restores.node import BEFORE, BROKEN, RestoreHarness, archive

TIME = 1_600_000_000


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in files.items():
            member = zipfile.ZipInfo(name, (2020, 9, 13, 12, 26, 40))
            member.external_attr = (stat.S_IFREG | 0o640) << 16
            target.writestr(member, content)
    return buffer.getvalue()


def by_libarchive(form: str) -> Callable[[dict[str, bytes]], bytes]:
    """Return what packs files with libarchive, which nodes of the families use as well."""

    def pack(files: dict[str, bytes]) -> bytes:
        chunks: list[bytes] = []

        def write(data: bytes) -> int:
            chunks.append(bytes(data))
            return len(data)

        kind, filters = ("7zip", None) if form == "7z" else ("gnutar", form)
        with libarchive.custom_writer(write, kind, filters) as target:
            for name, content in files.items():
                target.add_file_from_memory(name, len(content), content, mtime=TIME)
        return b"".join(chunks)

    return pack


@pytest.mark.parametrize(
    "pack", [zipped, by_libarchive("7z"), by_libarchive("lzip")], ids=["zip", "7z", "tar.lz"]
)
async def test_it_is_restored(
    restoring: RestoreHarness, tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes]
) -> None:
    assert await restoring.restore(archive(tmp_path, pack(BEFORE)), truncate=True) is True
    assert restoring.content() == BEFORE


async def test_a_zip_keeps_modes_times_and_directories(
    restoring: RestoreHarness, tmp_path: Path
) -> None:
    data = zipped(BEFORE | {"empty/": b""})
    assert await restoring.restore(archive(tmp_path, data), truncate=True) is True
    found = (restoring.home / "world/level.dat").stat()
    assert stat.S_IMODE(found.st_mode) == 0o640
    assert (restoring.home / "empty").is_dir()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (zipped({"../escape": b"x"}), 'its name contains ".."'),
        (zipped(BEFORE)[:-40], "ends in the middle"),
        (b"7z\xbc\xaf\x27\x1c" + os.urandom(500), ""),
    ],
    ids=["above", "cut", "damaged"],
)
async def test_one_that_is_hostile_or_damaged_changes_nothing(
    restoring: RestoreHarness, tmp_path: Path, data: bytes, reason: str
) -> None:
    assert await restoring.restore(archive(tmp_path, data), truncate=True) is False
    assert restoring.content() == BROKEN
    assert reason in restoring.told("daemon message")[-1]


async def test_its_checksum_and_the_disk_limit_hold(
    restoring: RestoreHarness, tmp_path: Path
) -> None:
    data = zipped(BEFORE)
    assert await restoring.restore(archive(tmp_path, data, "0" * 64)) is False
    await restoring.reopen(build={"disk_space": 1})
    large = archive(tmp_path, zipped({"large": bytes(2 << 20)}))
    assert await restoring.restore(large) is False
    assert restoring.content() == BROKEN


@pytest.mark.promise("restore-needs-room")
async def test_a_list_above_the_disk_limit_is_refused_with_both_figures(
    restoring: RestoreHarness, tmp_path: Path
) -> None:
    await restoring.reopen(build={"disk_space": 1})
    large = archive(tmp_path, zipped({"first": bytes(1 << 20), "large": bytes(2 << 20)}))
    assert await restoring.restore(large, truncate=True) is False
    told = restoring.told("daemon message")[-1]
    assert "files take 3 MiB or more, its disk limit is 1 MiB" in told
