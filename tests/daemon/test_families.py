"""Nodes of all three families send a server here, each in the form that is its own."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import attrs
import lz4.frame
import pytest
import pytest_twisted
import zstandard

from tests.support.go_tar import FIFO, ODD, GoFile, go_tar
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID
from tests.support.upload_client import Unanswered, UploadClient
from tests.support.upload_forms import (
    PTERODACTYL,
    Calagopus,
    Family,
    as_go_packs,
    calagopus,
    pelican,
)

#: Written by Rust's crate tar 0.4 from headers as Calagopus' nodes make them.
RECORDED = Path(__file__).parent / "calagopus.tar.gz"
BACKUP = {"5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11": b"b" * 70_000}
LOG = b"installed\n" * 5000
#: Larger than Go's packer flushes at once.
REGION = GoFile(b"world/region.mca", hashlib.shake_128(b"seed").digest(2_000_000))


async def send(
    daemon: ReceivingNode, data: bytes, family: Family, token: str | None = None
) -> tuple[int, Any, list[int]]:
    """Send a server; return the answer's status and body, and the sizes of the chunks."""
    sender = UploadClient(daemon, data, token=token, family=family)
    await sender.begin()
    status, body = await sender.finish()
    return status, json.loads(body) if body else None, sender.chunks


def look(path: bytes) -> tuple[bytes, int, float]:
    """Return a file's data, mode and time."""
    with open(path, "rb") as file:
        found = os.fstat(file.fileno())
        return file.read(), found.st_mode & 0o7777, found.st_mtime


async def refused(daemon: ReceivingNode, data: bytes, family: Family, reason: str) -> Any:
    """Send a server and see that it stays where it is, and that it is said why; return the answer.

    A Calagopus node gets none, since it takes every answer for success.
    """
    answer = None
    if isinstance(family, Calagopus):
        with pytest.raises(Unanswered):
            await send(daemon, data, family)
    else:
        _, answer, _ = await send(daemon, data, family)
    assert reason in await daemon.wait_for_line("failed while")
    await daemon.failure_reported()
    assert daemon.panel.reports() == [(UUID, "failure")]
    assert daemon.panel.node_of(UUID) is daemon.source
    assert daemon.stored() == []
    return answer


@pytest_twisted.ensureDeferred
async def test_pterodactyls_files_arrive_as_they_were_packed(daemon: ReceivingNode) -> None:
    await daemon.start()
    files = [*ODD, REGION]
    status, _, chunks = await send(daemon, as_go_packs(go_tar(files)), PTERODACTYL)
    assert status == 200
    assert chunks[:3] == [181, 10, 32768]
    assert chunks[-4:] == [8, 117, 64, 68]
    assert daemon.panel.reports() == [(UUID, "success")]
    home = os.fsencode(daemon.volumes / UUID) + b"/"
    for file in files:
        if file.kind == FIFO:
            assert not os.path.lexists(home + file.name)
        else:
            expected = file.data, file.mode & 0o777, file.seconds
            assert look(home + file.name) == expected, file.name
    await daemon.wait_for_line('"console.fifo" is left out')
    await daemon.wait_for_line('"start.sh" lost its set-user-id')


def kept(daemon: ReceivingNode) -> dict[str, bytes]:
    """Return what the directories of backups and logs hold: the data by its path."""
    found: dict[str, bytes] = {}
    for place in (daemon.directory / "backups", daemon.directory / "logs"):
        paths = [path for path in place.rglob("*") if path.is_file()]
        found |= {str(path.relative_to(place)): path.read_bytes() for path in paths}
    return found


def body_of_success(daemon: ReceivingNode) -> Any:
    (call,) = [call for call in daemon.panel.calls if call.path.endswith("/success")]
    return call.body


@pytest.mark.parametrize("pool", ["", "pool-1"])
@pytest_twisted.ensureDeferred
async def test_pelicans_log_and_backups_are_kept(daemon: ReceivingNode, pool: str) -> None:
    # A pool that is none of this node's means nothing to it: all of the server is sent.
    await daemon.start(family="pelican")
    family = pelican(LOG, BACKUP, pool)
    data, token = as_go_packs(go_tar(ODD)), daemon.token(scope="websocket transfer")
    status, _, chunks = await send(daemon, data, family, token)
    assert status == 200
    assert chunks[:2] == [181, 10]
    assert chunks[-3:] == [32768, 17232, 68]
    assert daemon.panel.reports() == [(UUID, "success")]
    assert body_of_success(daemon) is None
    assert (daemon.volumes / UUID / "server.properties").exists()
    (uuid,) = BACKUP
    assert kept(daemon) == {f"{UUID}/{uuid}.tar.gz": BACKUP[uuid], f"install/{UUID}.log": LOG}
    assert daemon.stored() == [UUID]


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        ("tar.gz", gzip.compress),
        ("tar", bytes),
        ("tar.xz", lzma.compress),
        ("tar.bz2", bz2.compress),
        ("tar.lz4", lz4.frame.compress),
        ("tar.zst", zstandard.compress),
    ],
)
@pytest_twisted.ensureDeferred
async def test_calagopus_files_arrive_with_its_log_and_backups(
    daemon: ReceivingNode, suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    await daemon.start()
    data = pack(gzip.decompress(RECORDED.read_bytes()))
    status, _, chunks = await send(daemon, data, calagopus(LOG, BACKUP, suffix=suffix))
    assert status == 200
    assert chunks[0] == 71
    # The archive's end, the checksum, the log, the backup, its checksum, and the form's end.
    backup = [71, 170, 32768, 32768, 4464, 2, 71, 186, 64, 2, 73]
    assert chunks[-21:] == [2, 71, 98, 64, 2, 71, 105, 32768, 17232, 2, *backup]
    (uuid,) = BACKUP
    assert kept(daemon) == {f"{uuid}.tar.gz": BACKUP[uuid], f"install/{UUID}.log": LOG}
    assert body_of_success(daemon) == {"backups": [uuid]}
    assert daemon.panel.reports() == [(UUID, "success")]
    home = daemon.volumes / UUID
    assert look(os.fsencode(home / "world/level.dat")) == (b"hello", 0o640, 1.7e9)
    assert look(os.fsencode(home / ("d" * 60) / ("f" * 60)))[0] == b"long"
    assert look(os.fsencode(home / "welt-é"))[1] == 0o755
    assert os.readlink(home / "latest") == "world/level.dat"
    assert (home / "world").stat().st_mode & 0o7777 == 0o750


def without(family: Any, name: str) -> Family:
    """Return the family's form without one of its parts."""
    return cast(Family, attrs.evolve(family, parts=[p for p in family.parts if p.name != name]))


def altered(family: Any, name: str, data: bytes) -> Family:
    """Return the family's form with other data in one of its parts."""
    parts = [attrs.evolve(p, data=data) if p.name == name else p for p in family.parts]
    return cast(Family, attrs.evolve(family, parts=parts))


PELICANS, CALAGOPUS = pelican(LOG, BACKUP), calagopus(LOG, BACKUP)
(ID,) = BACKUP


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        (without(PELICANS, f"checksum_backup_{ID}.tar.gz"), "missing archive or checksum"),
        (without(PELICANS, f"backup_{ID}.tar.gz"), "missing archive or checksum"),
        (altered(PELICANS, f"checksum_backup_{ID}.tar.gz", b"0" * 64), "checksums don't match"),
        (altered(PELICANS, f"checksum_backup_{ID}.tar.gz", b""), "checksums don't match"),
        (altered(PELICANS, f"backup_{ID}.tar.gz", b"other"), "checksums don't match"),
        (without(CALAGOPUS, f"backup-checksum-{ID}"), "missing archive or checksum"),
        (altered(CALAGOPUS, f"backup-checksum-{ID}", b"0" * 64), "checksums don't match"),
        (altered(CALAGOPUS, f"backup-{ID}", b"other"), "checksums don't match"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_backup_that_is_not_what_was_sent_fails_all_of_it(
    daemon: ReceivingNode, family: Family, reason: str
) -> None:
    await daemon.start()
    data = as_go_packs(go_tar(ODD))
    answer = await refused(daemon, data, family, reason)
    assert answer is None or ID in answer["detail"]
    assert kept(daemon) == {}


@pytest_twisted.ensureDeferred
async def test_a_backup_is_never_written_over_another(daemon: ReceivingNode) -> None:
    await daemon.start()
    place = daemon.directory / "backups" / UUID / f"{ID}.tar.gz"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"precious")
    answer = await refused(daemon, as_go_packs(go_tar(ODD)), PELICANS, "is not overwritten")
    assert str(place) in answer["detail"]
    assert kept(daemon) == {f"{UUID}/{ID}.tar.gz": b"precious"}


@pytest.mark.parametrize(
    ("family", "pack", "reason"),
    [
        (
            calagopus(stream="multiplex-stream-count: 17"),
            gzip.compress,
            "the streams of this transfer do not belong together",
        ),
        (calagopus(suffix="tar.lz"), lambda tar: b"LZIP\1" + tar, "of an unknown kind"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_calagopus_has_more_is_refused(
    daemon: ReceivingNode, family: Calagopus, pack: Callable[[bytes], bytes], reason: str
) -> None:
    await daemon.start()
    await refused(daemon, pack(gzip.decompress(RECORDED.read_bytes())), family, reason)


@pytest_twisted.ensureDeferred
async def test_calagopus_gets_no_answer_to_a_bad_token_either(daemon: ReceivingNode) -> None:
    await daemon.start()
    with pytest.raises(Unanswered):
        await send(daemon, RECORDED.read_bytes(), calagopus(), token="bad")
    await daemon.wait_for_line(" refused: ")
    assert daemon.panel.reports() == []
