"""A real S3 server: moto's, which the tests install, with the credentials that a Panel would have.

Its calls block: they are made in threads, and by a thread of its own.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs

__all__ = ["PART", "MotoStore", "moto_store"]

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
