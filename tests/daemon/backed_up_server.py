"""A daemon with one server whose backups are asked for as a Panel does, with curl."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.support import process_configuration, server_settings
from tests.support.reactor import until
from tests.support.receiving_node import ReceivingNode

__all__ = ["BACKUP", "OTHER", "UUID", "BackedUpServer"]

UUID = "5b0c7a6e-95c1-4a5b-8a53-7f6c5d2e4b22"
BACKUP = "5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11"
OTHER = "5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c12"


class BackedUpServer:
    """A daemon with one server, whose backups are asked for as a Panel does."""

    def __init__(self, daemon: ReceivingNode) -> None:
        self.daemon, self.panel = daemon, daemon.panel
        self.home = daemon.volumes / UUID
        self.backups = daemon.directory / "backups"
        daemon.panel.add_server(self.settings(UUID), daemon.node, process_configuration())

    @staticmethod
    def settings(uuid: str) -> dict[str, Any]:
        return server_settings(uuid) | {"egg": {"id": uuid, "file_denylist": ["*.key"]}}

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send a request; return the status, and the body from JSON."""
        status, text = await self.fetch(path, method, body)
        return status, json.loads(text) if text else None

    async def fetch(self, path: str, method: str = "GET", body: Any = None) -> tuple[int, bytes]:
        sent = [] if body is None else ["-H", "Content-Type: application/json"]
        sent += [] if body is None else ["-d", json.dumps(body)]
        return await self.daemon.fetch(path, "-X", method, *sent)

    async def begin(
        self, backup: str = BACKUP, ignore: str = "", adapter: str = "wings"
    ) -> tuple[int, Any]:
        """Ask for a backup that the Panel knows."""
        self.panel.backups.add(backup, UUID)
        body = {"adapter": adapter, "uuid": backup, "ignore": ignore}
        return await self.ask("POST", f"/api/servers/{UUID}/backup", body)

    async def made(
        self, backup: str = BACKUP, ignore: str = "", adapter: str = "wings"
    ) -> dict[str, Any]:
        """Have a backup made; return what the Panel is told of its end."""
        status, answer = await self.begin(backup, ignore, adapter)
        assert status == 202, answer
        return await self.told(backup)

    async def told(self, backup: str = BACKUP) -> dict[str, Any]:
        """Return what the Panel is told of a backup's end."""
        known = self.panel.backups.known[backup]
        await until(lambda: known.is_over)
        assert known.told is not None
        return known.told

    def fill(self) -> None:
        """Put into the server one of everything that a backup keeps."""
        (self.home / "world/region").mkdir(parents=True)
        (self.home / "empty").mkdir(mode=0o750)
        (self.home / "world/level.dat").write_bytes(os.urandom(300_000))
        (self.home / "world/region/r.0.0.mca").write_bytes(bytes(100_000))
        (self.home / "start.sh").write_text("#!/bin/sh\n")
        (self.home / "start.sh").chmod(0o755)
        (self.home / "a link").symlink_to("world/level.dat")
        (self.home / "dangling").symlink_to("/nowhere")
        os.link(self.home / "world/level.dat", self.home / "zz hard link")
        (self.home / "日本.txt").write_text("name")
        with (self.home / "sparse").open("wb") as file:
            file.seek(64 << 20)
            file.write(b"end")
            file.truncate(96 << 20)
        os.utime(self.home / "world", ns=(1, 1_600_000_000_123_456_789))

    def unpacked(self, place: str, into: Path) -> Path:
        """Extract an archive with GNU tar."""
        into.mkdir()
        command = ["tar", "-xpf", str(self.backups / place), "-C", str(into)]
        subprocess.run(command, check=True, capture_output=True)
        return into
