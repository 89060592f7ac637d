"""What clients can do with files by SFTP."""

from __future__ import annotations

import os
from pathlib import Path

from tests.sftp.server.harness import Served, serve


def test_a_file_is_written_read_and_listed(tmp_path: Path) -> None:
    data = os.urandom(1_000_001)

    async def test(served: Served) -> None:
        async with served.client() as sftp:
            async with sftp.open("/world/level.dat", "wb") as file:
                await file.write(data)
            async with sftp.open("/world/level.dat", "rb") as file:
                read: object = await file.read()
                assert read == data
            assert await sftp.listdir("/world") == ["level.dat"]
        assert served.daemon.events == [
            ("create", "/world/level.dat"),
            ("read", "/world/level.dat"),
        ]

    serve(tmp_path, test)
    assert (tmp_path / "files/world/level.dat").read_bytes() == data
