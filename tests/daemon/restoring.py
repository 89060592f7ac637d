"""A daemon that has a server, whose world was broken after its backup was made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.backups import packed_backup
from tests.support.browser import Browser, browse
from tests.support.reactor import until
from tests.support.receiving_node import ReceivingNode
from tests.support.settings import process_configuration, server_settings

__all__ = ["BACKUP", "BEFORE", "BROKEN", "UUID", "RestoringNode"]

UUID = "5b0c7a6e-95c1-4a5b-8a53-7f6c5d2e4b22"
BACKUP = "0d0fbd6f-6b3e-4f8e-a9a4-52a2d7d2f1c3"
#: What the backup has, and what the server has now.
BEFORE = {"server.properties": b"motd=old\n", "world/level.dat": b"level" * 5000}
BROKEN = {"world/level.dat": b"broken", "new/plugin.jar": b"came later"}


class RestoringNode:
    def __init__(self, daemon: ReceivingNode, volumes: Path | None = None) -> None:
        """`volumes` are not beside the node's other directories, if they are given."""
        self.daemon, self.panel = daemon, daemon.panel
        self.home = (volumes or daemon.volumes) / UUID
        self.panel.add_server(server_settings(UUID), daemon.node, process_configuration())
        for name, content in BROKEN.items():
            path = self.home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    async def start(self, **changes: Any) -> None:
        await self.daemon.start_loaded(**changes)
        self.daemon.node.address, self.daemon.node.reachable = self.daemon.url, True

    def store(self, data: bytes | None = None, suffix: str = "tar.gz") -> Path:
        """Put a local backup into the node's directory; return where it is."""
        path = self.daemon.directory / "backups" / f"{BACKUP}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(packed_backup(BEFORE) if data is None else data)
        return path

    async def watch(self, permissions: tuple[str, ...] = ("*",)) -> Browser:
        """Return a browser that watches the server."""
        return await browse(self.daemon, UUID, permissions)

    async def restore(self, **request: Any) -> bool | None:
        """Have the backup restored; return what the Panel has heard of it."""
        await self.panel.restore(UUID, BACKUP, **request)
        await until(lambda: self.panel.restored(UUID) is not None)
        return self.panel.restored(UUID)

    async def ask(self, method: str, path: str = "", body: Any = None) -> tuple[int, Any]:
        return await self.panel.ask(self.daemon.node, method, f"/api/servers/{UUID}{path}", body)

    def content(self) -> dict[str, bytes]:
        files = (path for path in self.home.rglob("*") if path.is_file())
        return {str(path.relative_to(self.home)): path.read_bytes() for path in files}

    def staged(self) -> list[str]:
        """Return the names in the staging area, but that of its lock."""
        staging = self.home.parent.with_name(f".{self.home.parent.name}.staging")
        return sorted(path.name for path in staging.iterdir() if path.name != ".lock")

    async def cleaned(self) -> None:
        """Return when nothing is staged any more but what is in quarantine."""
        await until(lambda: self.staged() in ([], [".quarantine"]))
