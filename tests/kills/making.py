"""The scenario of a node that makes backups of a server, and dies."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import tarfile
import uuid
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tests.kills.engine import Broken, Kill, is_finished
from tests.support.node_process import NodeProcess
from tests.support.nodes import NodeError
from tests.support.panel import Panel
from tests.support.panel_backups import PanelBackup
from tests.support.sample_server import UUID
from tests.support.settings import process_configuration, server_settings

__all__ = ["Makings"]

#: Seconds at most from the request to a kill, and after a line of the log.
LATEST, LINGER = 0.6, 0.1
#: Lines of the log: it is being made, it is in its place, and the Panel has heard of it.
MOMENTS = (
    "A backup of the server is being made",
    "The backup is complete",
    "was reported to the Panel",
)
#: Bytes of the server that do not compress, and MiB/s at which they are written: half a second.
SIZE, RATE = 12 << 20, 24
FAMILIES = ("pterodactyl", "pelican", "calagopus")


class Makings:
    """After each kill the Panel and the disk agree: the backup is whole, or nothing of it is left.

    The Panel does not show it as being made for ever, and the server is as it was.
    """

    def __init__(self, directory: Path) -> None:
        self._panel = Panel()
        self._node = NodeProcess(directory, self._panel)
        self._number = 0
        self._family = FAMILIES[0]
        self._backup = ""
        self._accepted = False
        self._content: dict[str, str] = {}

    @property
    def nodes(self) -> Mapping[str, NodeProcess]:
        """There is only this one."""
        return {"node": self._node}

    async def start(self) -> None:
        settings = server_settings(UUID)
        self._panel.add_server(settings, self._node.node, process_configuration())
        home = self._node.volumes / UUID
        (home / "world/empty").mkdir(parents=True)
        for number in range(40):
            (home / f"world/{number}").write_bytes(os.urandom(SIZE // 40))
        (home / "link").symlink_to("world/1")
        self._content = _digests(home)
        await self.restart(self._node)

    async def close(self) -> None:
        await self._node.close()
        await self._panel.close()

    def plan(self, rng: random.Random) -> Kill:
        """Return the next kill; half of them are at random moments."""
        variant = rng.choice(FAMILIES)
        if rng.random() < 1 / 2:
            return Kill(("node",), rng.uniform(0, LATEST), variant=variant)
        return Kill(("node",), rng.choice(MOMENTS), (rng.uniform(0, LINGER),), variant)

    async def begin(self, variant: str = "") -> None:
        """Have a backup made; a node of another family is started anew."""
        if variant and variant != self._family:
            self._family = variant
            await self._node.kill()
            await self._node.ended()
            await self.restart(self._node)
        self._number += 1
        self._backup = str(uuid.uuid5(uuid.NAMESPACE_OID, f"backup {self._number}"))
        self._panel.backups.add(self._backup, UUID)
        self._accepted = False
        body = {"adapter": "wings", "uuid": self._backup, "ignore": ""}
        with suppress(NodeError):
            path = f"/api/servers/{UUID}/backup"
            status, answer = await self._panel.ask(self._node.node, "POST", path, body)
            if status != HTTPStatus.ACCEPTED:
                raise Broken(f"the backup cannot be made: {status}, {answer}")
            self._accepted = True

    async def restart(self, node: NodeProcess) -> None:
        """Start the node again; return when it knows its servers."""
        limit = {"backups": {"write_limit": RATE}}
        await node.start_loaded(family=self._family, system=limit)
        node.node.address = node.url
        node.node.ca = str(node.ca)

    @property
    def _known(self) -> PanelBackup:
        return self._panel.backups.known[self._backup]

    async def unsettled(self) -> str:
        """Return what has not ended yet, empty when everything has."""
        if self._accepted and not self._known.is_over:
            return "the Panel shows the backup as being made"
        return "" if is_finished(self._node) else "the node does not finish what it has begun"

    async def check(self) -> None:
        found = {path for path in self._backups.rglob("*") if path.is_file()}
        here = {path for path in found if self._backup in path.name}
        told = self._known.told
        if told is not None and told["successful"]:
            self._check_archive(here, told)
        elif here:
            raise Broken(f"something of a failed backup is left: {here}")
        if any(".part" in path.name for path in found):
            raise Broken("a part is left over")
        if _digests(self._node.volumes / UUID) != self._content:
            raise Broken("the server is not as it was")

    def check_success(self) -> None:
        """Check that the backup was made."""
        told = self._known.told
        if told is None or not told["successful"]:
            raise Broken("the next backup does not go well")

    @property
    def _backups(self) -> Path:
        return self._node.directory / "backups"

    def _check_archive(self, here: set[Path], told: dict[str, Any]) -> None:
        names = {f"{self._backup}.tar.gz", f"{self._backup}.catalogue.json"}
        if {path.name for path in here} != names:
            raise Broken(f"the backup that the Panel has is not there, or not alone: {here}")
        (archive,) = (path for path in here if path.suffix == ".gz")
        data = archive.read_bytes()
        checksum = hashlib.new(told["checksum_type"], data, usedforsecurity=False).hexdigest()
        if (told["size"], told["checksum"]) != (len(data), checksum):
            raise Broken("the backup is not the one that was reported")
        subprocess.run(["gzip", "--test", str(archive)], check=True)
        with tarfile.open(archive) as members:
            files = {member.name for member in members if member.isfile()}
        if len(files) != 40:
            raise Broken(f"the backup has {len(files)} files")


def _digests(home: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in home.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
