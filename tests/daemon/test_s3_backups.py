"""Backups that a real daemon uploads to stores, as Panels of all families have it do that."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.threads import deferToThread

from tests.daemon.backed_up_server import BACKUP, BackedUpServer
from tests.support.archives import seen
from tests.support.reactor import until
from tests.support.receiving_node import ReceivingNode
from tests.support.s3_store import PART_SIZE, PartSigner, S3Store, Stall

#: S3 takes no smaller parts, but for the last one.
PART = 5 << 20
_BUCKET = "backups"


class MotoStore:
    """One bucket. It signs as the families' Panels do, and completes uploads as they do."""

    def __init__(self, url: str) -> None:
        import boto3  # noqa: PLC0415 - half a second, with moto, in each process that collects
        from botocore.config import Config  # noqa: PLC0415

        self._client: Any = boto3.client(
            "s3",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="panel",
            aws_secret_access_key="secret",
            config=Config(signature_version="s3v4"),
        )
        self._client.create_bucket(Bucket=_BUCKET)
        self._uploads: dict[str, str] = {}

    def sign(self, backup: str, query: str) -> dict[str, Any]:
        """Return the answer to a call for a backup's parts."""
        asked = {name: int(values[0]) for name, values in parse_qs(query).items()}
        if "from_part" not in asked or backup not in self._uploads:
            begun = self._client.create_multipart_upload(
                Bucket=_BUCKET, Key=backup, ContentType="application/x-gzip"
            )
            self._uploads[backup] = begun["UploadId"]
        first = asked.get("from_part", 1)
        count = math.ceil(asked["size"] / PART) if "size" in asked else 50
        urls = [self._url(backup, number) for number in range(first, first + count)]
        return {"parts": urls, "part_size": PART}

    def complete(self, backup: str, parts: list[dict[str, Any]]) -> bytes:
        """Put a backup together from the parts that a node has reported; return it."""
        told = [{"ETag": part["etag"], "PartNumber": part["part_number"]} for part in parts]
        self._client.complete_multipart_upload(
            Bucket=_BUCKET,
            Key=backup,
            UploadId=self._uploads[backup],
            MultipartUpload={"Parts": told},
        )
        data: bytes = self._client.get_object(Bucket=_BUCKET, Key=backup)["Body"].read()
        return data

    def _url(self, backup: str, number: int) -> str:
        url: str = self._client.generate_presigned_url(
            "upload_part",
            Params={
                "Bucket": _BUCKET,
                "Key": backup,
                "UploadId": self._uploads[backup],
                "PartNumber": number,
            },
            ExpiresIn=3600,
        )
        return url

    def close(self) -> None:
        self._client.close()


@contextmanager
def moto_store() -> Iterator[MotoStore]:
    """Run the server on loopback."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        store = MotoStore(f"http://{host}:{port}")
        try:
            yield store
        finally:
            store.close()
    finally:
        server.stop()


# Backups that a real daemon uploads to stores, as Panels of all families have it do that


reactor: Any = installed_reactor


@pytest_twisted.async_yield_fixture
async def store() -> Any:
    store = S3Store(reactor)
    store.listen()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
def server(daemon: ReceivingNode, store: S3Store) -> BackedUpServer:
    server = BackedUpServer(daemon)
    daemon.panel.backups.signer = PartSigner(store)
    server.fill()
    (server.home / "world/r.1.1.mca").write_bytes(os.urandom(3 * PART_SIZE))
    return server


def left(server: BackedUpServer) -> list[str]:
    """Return what is in the directory of local backups, but for the directories of servers."""
    return [path.name for path in server.backups.rglob("*") if path.is_file()]


@pytest.mark.parametrize("family", ["pterodactyl", "calagopus"])
async def test_a_backup_is_in_the_store_whole_and_not_on_the_node(
    server: BackedUpServer, store: S3Store, tmp_path: Path, family: str
) -> None:
    await server.daemon.start_loaded(family=family)
    told = await server.made(adapter="s3")
    is_calagopus = family == "calagopus"
    data = store.object(BACKUP if is_calagopus else f"{BACKUP}-1")
    kind = "sha256" if is_calagopus else "sha1"
    assert told["successful"]
    assert (told["size"], told["checksum"]) == (len(data), hashlib.new(kind, data).hexdigest())
    assert [part["part_number"] for part in told["parts"]] == [1, 2, 3, 4]
    declared = "application/gzip" if is_calagopus else "application/x-gzip"
    assert {put.content_type for put in store.puts} == {declared}
    (tmp_path / "b.tar.gz").write_bytes(data)
    (tmp_path / "out").mkdir()
    command = ["tar", "-xpf", str(tmp_path / "b.tar.gz"), "-C", str(tmp_path / "out")]
    subprocess.run(command, check=True, capture_output=True)
    assert seen(tmp_path / "out") == seen(server.home)
    await until(lambda: not left(server))


async def test_a_real_s3_server_puts_the_backup_together(server: BackedUpServer) -> None:
    (server.home / "world/r.2.2.mca").write_bytes(os.urandom(2 * PART + 5))
    with moto_store() as moto:
        server.panel.backups.signer = moto.sign
        await server.daemon.start_loaded()
        told = await server.made(adapter="s3")
        assert told["successful"]
        data = await deferToThread(moto.complete, BACKUP, told["parts"])
    kind = told["checksum_type"]
    assert (told["size"], told["checksum"]) == (len(data), hashlib.new(kind, data).hexdigest())
    assert len(told["parts"]) == 3


@pytest.mark.promise("s3-upload-continues")
async def test_the_next_daemon_goes_on_with_an_upload(
    server: BackedUpServer, store: S3Store
) -> None:
    await server.daemon.start_loaded()
    store.behave(Stall(), part=2)
    await server.begin(adapter="s3")
    await until(lambda: len(store.parts) == 3)
    server.daemon.signal("TERM")
    await server.daemon.ended()
    store.resume()
    assert len(left(server)) == 2, "the part of the archive, and its catalogue"
    await server.daemon.start_loaded()
    told = await server.told()
    assert told["successful"]
    assert told["size"] == len(store.object(f"{BACKUP}-2"))
    await until(lambda: not left(server))


@pytest.mark.promise("backup-report-is-repeated")
async def test_the_archive_stays_until_the_panel_has_answered_the_report(
    server: BackedUpServer, store: S3Store
) -> None:
    await server.daemon.start_loaded()
    urls = server.panel.hold(f"/backups/{BACKUP}?size=")
    await server.begin(adapter="s3")
    await server.panel.called("?size=")
    report = server.panel.hold(f"/backups/{BACKUP}")
    urls.release()
    await server.panel.called(f"/backups/{BACKUP}", times=2)
    assert len(left(server)) == 2
    server.daemon.signal("KILL")
    await server.daemon.ended()
    await server.daemon.start_loaded()
    report.release()
    assert (await server.told())["size"] == len(store.object(f"{BACKUP}-1"))
    await until(lambda: not left(server))
