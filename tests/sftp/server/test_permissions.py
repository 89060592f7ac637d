"""Permissions that one operation must not have by another one."""

from __future__ import annotations

from pathlib import Path

import asyncssh
import pytest

from tests.sftp.server.harness import Served, serve


def test_a_file_that_is_open_for_writing_is_read_with_the_permission_only(tmp_path: Path) -> None:
    async def test(served: Served) -> None:
        (served.files / "settings").write_text("password: secret")
        async with (
            served.client() as sftp,
            sftp.open("/settings", asyncssh.FXF_WRITE, encoding=None) as file,
        ):
            with pytest.raises(asyncssh.SFTPPermissionDenied):
                await file.read(100, 0)

    serve(tmp_path, test, permissions=("file.read", "file.update"))


def test_a_write_of_nothing_behind_the_end_takes_no_disk(tmp_path: Path) -> None:
    async def test(served: Served) -> None:
        async with served.client() as sftp, sftp.open("/file", "wb", encoding=None) as file:
            await file.write(b"", 1 << 40)
        assert [usage.total for usage in served.server.usages.values()] == [0]

    serve(tmp_path, test)
