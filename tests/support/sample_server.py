"""The server that most tests transfer: its UUID and its archive."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile

#: Campaigns of kills have servers of their own, so that several can use one engine: `tests.crash`.
UUID = os.environ.get("WINGSD_TEST_SERVER", "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10")


def archive(size: int = 100_000) -> bytes:
    """Return a small server as tar.gz, the same each time; `size` bytes of it do not compress."""
    buffer = io.BytesIO()
    with (
        # Not by tarfile, which writes the time into the header: the checksum would differ.
        gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for name, content in (
            ("server.properties", b"server-port=25565\n"),
            ("world/region/r.0.0.mca", hashlib.shake_128(b"seed").digest(size)),
        ):
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = len(content), 1_700_000_000, 0o640
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
