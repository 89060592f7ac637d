"""The scenario of one node that uploads backups to a store, and dies."""

from __future__ import annotations

import hashlib
import random
import sqlite3
import uuid
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

from tests.kills.engine import Broken, Kill, is_finished
from tests.support import process_configuration, server_settings
from tests.support.node_process import NodeProcess, reactor
from tests.support.receiving_node import ReceivingNode
from tests.support.s3_store import PART_SIZE, PartSigner, S3Store

SERVER = "5b0c7a6e-95c1-4a5b-8a53-7f6c5d2e4b77"
#: Seconds at most from the call to a kill, and from a line of the log.
LATEST, LINGER = 0.5, 0.05
#: Lines of the log on the way of a backup.
LINES = ("A backup of the server is being made", "its upload begins", "parts are uploaded")


class Uploads:
    """A backup is in the store, whole and with all parts told, or the Panel hears that it failed.

    Nothing of it stays on the node in either case, and the server's files are as they were.
    """

    def __init__(self, directory: Path, family: str = "pterodactyl") -> None:
        self.node = ReceivingNode(directory)
        self._family = family
        self._store = S3Store(reactor)
        self._signer = PartSigner(self._store)
        self._data = random.Random(SERVER).randbytes(3 * PART_SIZE)
        self._backups = directory / "backups"
        self._file = self.node.volumes / SERVER / "world.mca"
        self._number = 0
        self._backup = ""

    @property
    def nodes(self) -> Mapping[str, NodeProcess]:
        """There is only one."""
        return {"node": self.node}

    async def start(self) -> None:
        self._store.listen()
        panel = self.node.panel
        panel.backups.signer = self._signer
        panel.add_server(server_settings(SERVER), self.node.node, process_configuration())
        self._file.parent.mkdir(parents=True)
        self._file.write_bytes(self._data)
        await self.restart(self.node)

    async def close(self) -> None:
        await self.node.close()
        await self._store.close()

    def plan(self, rng: random.Random) -> Kill:
        """Return the next kill; half of them are at random moments."""
        if rng.random() < 1 / 2:
            return Kill(("node",), rng.uniform(0, LATEST))
        return Kill(("node",), rng.choice(LINES), (rng.choice([0.0, rng.uniform(0, LINGER)]),))

    async def begin(self, variant: str = "") -> None:
        """Ask for a new backup."""
        self._number += 1
        self._backup = str(uuid.uuid5(uuid.NAMESPACE_OID, f"upload {self._number}"))
        panel = self.node.panel
        panel.backups.add(self._backup, SERVER)
        body = {"adapter": "s3", "uuid": self._backup, "ignore": ""}
        path = f"/api/servers/{SERVER}/backup"
        status, answer = await panel.ask(self.node.node, "POST", path, body)
        if status != HTTPStatus.ACCEPTED:
            raise Broken(f"the backup cannot be made: {status}, {answer}")

    async def restart(self, node: NodeProcess) -> None:
        """Start the node again."""
        await node.start_loaded(family=self._family)
        node.node.address = node.url

    async def unsettled(self) -> str:
        """Return what has not ended yet, empty when everything has."""
        if not self.node.panel.backups.known[self._backup].is_over:
            return "the Panel has no report of the backup"
        if not is_finished(self.node) or self._recorded():
            return "the node does not finish what it has begun"
        left = [path.name for path in self._backups.rglob("*") if path.is_file()]
        return f"something is left over: {left}" if left else ""

    async def check(self) -> None:
        """Check that the store has what the Panel was told."""
        if self._file.read_bytes() != self._data:
            raise Broken("the server's files have changed")
        told = self.node.panel.backups.known[self._backup].told
        assert told is not None
        if not told["successful"]:
            return
        data = self._store.object(self._signer.upload_of(self._backup))
        kind = told["checksum_type"]
        if (told["size"], told["checksum"]) != (len(data), hashlib.new(kind, data).hexdigest()):
            raise Broken("the store does not have what the Panel was told")
        for part in told["parts"]:
            stored = self._store.parts[self._signer.upload_of(self._backup), part["part_number"]]
            digest = hashlib.md5(stored, usedforsecurity=False).hexdigest()
            if part["etag"] != f'"{digest}"':
                raise Broken("the Panel was told another ETag than that of the store")

    def check_success(self) -> None:
        """Check that a backup without a kill is in the store."""
        told = self.node.panel.backups.known[self._backup].told
        if told is None or not told["successful"]:
            raise Broken("the next backup does not go well")

    def _recorded(self) -> bool:
        """Return whether a backup is recorded as being made."""
        with sqlite3.connect(self.node.directory / "wingsd.db") as database:
            count = database.execute("SELECT count(*) FROM backups").fetchone()
        database.close()
        return bool(count[0])
