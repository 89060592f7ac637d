"""Nodes of all three families send a server here, each in the form that is its own."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.backups import without_catalogues
from tests.support.go import FIFO, ODD, GoFile, go_tar
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID
from tests.support.upload_client import Unanswered, begun
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
    sender = await begun(daemon, data, token=token, family=family)
    status, body = await sender.finish()
    return status, json.loads(body) if body else None, sender.chunks


def look(path: bytes) -> tuple[bytes, int, float]:
    with open(path, "rb") as file:
        found = os.fstat(file.fileno())
        return file.read(), found.st_mode & 0o7777, found.st_mtime


async def refused(daemon: ReceivingNode, data: bytes, family: Calagopus, reason: str) -> None:
    """Check that an upload fails for a reason without an answer, and the server stays."""
    since = len(daemon.log)
    with pytest.raises(Unanswered):
        await send(daemon, data, family)
    assert reason in await daemon.wait_for_line("failed while", since)
    await daemon.failure_reported(since)
    assert set(daemon.panel.reports()) == {(UUID, "failure")}
    assert daemon.panel.node_of(UUID) is daemon.source
    assert daemon.stored() == []


async def test_pterodactyls_files_arrive_as_they_were_packed(running: ReceivingNode) -> None:
    files = [*ODD, REGION]
    status, _, chunks = await send(running, as_go_packs(go_tar(files)), PTERODACTYL)
    assert status == 200
    assert chunks[:3] == [181, 10, 32768]
    assert chunks[-4:] == [8, 117, 64, 68]
    assert running.panel.reports() == [(UUID, "success")]
    home = os.fsencode(running.volumes / UUID) + b"/"
    for file in files:
        if file.kind == FIFO:
            assert not os.path.lexists(home + file.name)
        else:
            expected = file.data, file.mode & 0o777, file.seconds
            assert look(home + file.name) == expected, file.name
    await running.wait_for_line('"console.fifo" is left out')
    await running.wait_for_line('"start.sh" lost its set-user-id')


def kept(daemon: ReceivingNode) -> dict[str, bytes]:
    """Return what the directories of backups and logs hold: the data by its path.

    Without the catalogues of these backups.
    """
    found: dict[str, bytes] = {}
    for place in (daemon.directory / "backups", daemon.directory / "logs"):
        paths = [path for path in place.rglob("*") if path.is_file()]
        found |= {str(path.relative_to(place)): path.read_bytes() for path in paths}
    return without_catalogues(found)


def body_of_success(daemon: ReceivingNode) -> Any:
    (call,) = [call for call in daemon.panel.calls if call.path.endswith("/success")]
    return call.body


@pytest.mark.promise("attached-backups-arrive-whole")
async def test_pelicans_log_and_backups_are_kept(daemon: ReceivingNode) -> None:
    # A pool that is none of this node's means nothing to it: all of the server is sent.
    await daemon.start(family="pelican")
    family = pelican(LOG, BACKUP, "pool-1")
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


@pytest.mark.promise("attached-backups-arrive-whole")
async def test_calagopus_files_arrive_with_its_log_and_backups(running: ReceivingNode) -> None:
    status, _, chunks = await send(running, RECORDED.read_bytes(), calagopus(LOG, BACKUP))
    assert status == 200
    assert chunks[0] == 71
    # The archive's end, the checksum, the log, the backup, its checksum, and the form's end.
    backup = [71, 170, 32768, 32768, 4464, 2, 71, 186, 64, 2, 73]
    assert chunks[-21:] == [2, 71, 98, 64, 2, 71, 105, 32768, 17232, 2, *backup]
    (uuid,) = BACKUP
    assert kept(running) == {f"{uuid}.tar.gz": BACKUP[uuid], f"install/{UUID}.log": LOG}
    assert body_of_success(running) == {"backups": [uuid]}
    assert running.panel.reports() == [(UUID, "success")]
    home = running.volumes / UUID
    assert look(os.fsencode(home / "world/level.dat")) == (b"hello", 0o640, 1.7e9)
    assert look(os.fsencode(home / ("d" * 60) / ("f" * 60)))[0] == b"long"
    assert look(os.fsencode(home / "welt-é"))[1] == 0o755
    assert os.readlink(home / "latest") == "world/level.dat"
    assert (home / "world").stat().st_mode & 0o7777 == 0o750


@pytest.mark.promise("refusal-is-understood")
async def test_too_many_streams_and_unknown_formats_are_refused(running: ReceivingNode) -> None:
    tar = gzip.decompress(RECORDED.read_bytes())
    streams = calagopus(stream="multiplex-stream-count: 17")
    await refused(running, gzip.compress(tar), streams, "do not match")
    running.panel.open_transfer(UUID, running.node)
    await refused(running, b"LZIP\1" + tar, calagopus(suffix="tar.lz"), "of an unknown kind")


@pytest.mark.promise("refusal-is-understood")
async def test_calagopus_gets_no_answer_to_a_bad_token(running: ReceivingNode) -> None:
    with pytest.raises(Unanswered):
        await send(running, RECORDED.read_bytes(), calagopus(), token="bad")
    await running.wait_for_line(" refused: ")
    assert running.panel.reports() == []
