"""Backups that a real daemon makes, asked for by curl, and looked at with GNU tar."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.utils import getProcessOutputAndValue

from tests.daemon.resources import until
from tests.support import process_configuration, server_settings
from tests.support.archives import seen
from tests.support.receiving_node import ReceivingNode

UUID = "5b0c7a6e-95c1-4a5b-8a53-7f6c5d2e4b22"
BACKUP = "5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11"
OTHER = "5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c12"
PLACES = {
    "pterodactyl": f"{BACKUP}.tar.gz",
    "pelican": f"{UUID}/{BACKUP}.tar.gz",
    "calagopus": f"{BACKUP}.tar.gz",
}


class BackedUpServer:
    """A daemon with one server, whose backups are asked for as a Panel does."""

    def __init__(self, daemon: ReceivingNode) -> None:
        self.daemon, self.panel = daemon, daemon.panel
        self.home = daemon.volumes / UUID
        self.backups = daemon.directory / "backups"
        settings = server_settings(UUID) | {"egg": {"id": UUID, "file_denylist": ["*.key"]}}
        daemon.panel.add_server(settings, daemon.node, process_configuration())

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        target = self.daemon.directory / "answer"
        target.write_bytes(b"")
        command = ["-sS", "-X", method, "--cacert", str(self.daemon.ca), "-o", str(target)]
        command += ["-w", "%{http_code}", f"{self.daemon.url}{path}"]
        command += ["-H", f"Authorization: Bearer {self.daemon.node.token}"]
        if body is not None:
            command += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
        out, err, status = await getProcessOutputAndValue("/usr/bin/curl", command, os.environ)
        assert status == 0, err.decode()
        text = target.read_bytes()
        return int(out), json.loads(text) if text else None

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


Start = Callable[..., Any]


@pytest.fixture
def server(daemon: ReceivingNode) -> BackedUpServer:
    return BackedUpServer(daemon)


@pytest.mark.parametrize("family", [*PLACES])
async def test_a_backup_has_the_server_whole_where_its_family_keeps_it(
    server: BackedUpServer, tmp_path: Path, family: str
) -> None:
    server.fill()
    await server.daemon.start_loaded(family=family)
    told = await server.made()
    archive = server.backups / PLACES[family]
    data = archive.read_bytes()
    kind = "sha256" if family == "calagopus" else "sha1"
    assert told == {
        "checksum": hashlib.new(kind, data).hexdigest(),
        "checksum_type": kind,
        "size": len(data),
        "successful": True,
        "parts": None,
        **({"files": 5, "browsable": False, "streaming": False} if kind == "sha256" else {}),
    }
    assert len(data) < 1 << 20, "the holes are not in it"
    assert archive.stat().st_mode & 0o777 == 0o600
    assert seen(server.unpacked(PLACES[family], tmp_path / "out")) == seen(server.home)
    assert (tmp_path / "out/sparse").stat().st_blocks < 10_000
    left = {path.name for path in archive.parent.iterdir()}
    assert left == {archive.name, f"{BACKUP}.catalogue.json"}
