"""The scenario of one node: servers arrive with backups and a log, and the node dies."""

from __future__ import annotations

import hashlib
import random
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from twisted.internet.defer import Deferred

from tests.kills.engine import Broken, Kill, is_finished, random_step
from tests.support.node_process import NodeProcess
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import archive
from tests.support.state import Refused
from tests.support.upload_client import Unanswered, UploadClient
from tests.support.upload_forms import Family, calagopus, pelican

#: Seconds at most from the beginning of an upload to a kill, and from a step.
LATEST, LINGER = 0.4, 0.02
LOG = b"installed\n"
PRECIOUS = b"another backup"


class _Arrival:
    """One server on its way, and the files that come with it: the data by the path."""

    def __init__(self, number: int, family: str) -> None:
        self.uuid = str(uuid.uuid5(uuid.NAMESPACE_OID, f"server {number}"))
        names = [str(uuid.uuid5(uuid.NAMESPACE_OID, f"backup {number} {n}")) for n in range(2)]
        backups = {name: hashlib.shake_128(name.encode()).digest(200_000) for name in names}
        is_pelican = family == "pelican"
        make = pelican if is_pelican else calagopus
        self.family: Family = make(LOG, backups)
        prefix = f"{self.uuid}/" if is_pelican else ""
        self.files = {f"backups/{prefix}{name}.tar.gz": data for name, data in backups.items()}
        self.files[f"logs/install/{self.uuid}.log"] = LOG


class Arrivals:
    """A server arrives with both backups and the log, by the Panel's word, or nothing of it does.

    The backups are whole, and where the family keeps them. Nothing stays staged or unfinished,
    and a backup that was there before is as it was.
    """

    def __init__(self, directory: Path) -> None:
        self.node = ReceivingNode(directory)
        # It describes a server to a transfer's nodes only, by which they know what is over.
        self.node.panel.strict = True
        self._precious = directory / "backups" / "precious.tar.gz"
        self._number = 0
        self._arrival = _Arrival(0, "")
        self._sending: Deferred[None] = Deferred()

    @property
    def nodes(self) -> Mapping[str, NodeProcess]:
        """There is only the destination."""
        return {"destination": self.node}

    async def start(self) -> None:
        self._precious.parent.mkdir()
        self._precious.write_bytes(PRECIOUS)
        await self.node.start_loaded()

    async def close(self) -> None:
        await self.node.close()

    def plan(self, rng: random.Random) -> Kill:
        """Return the next kill; a quarter of them are at random moments."""
        family = rng.choice(["pelican", "calagopus"])
        if rng.random() < 1 / 4:
            return Kill(("destination",), rng.uniform(0, LATEST), variant=family)
        step = random_step(rng, "destination")
        delay = rng.choice([0.0, rng.uniform(0, LINGER)])
        return Kill(("destination",), step, (delay,), family)

    async def begin(self, variant: str = "") -> None:
        """Begin to send a new server, as a node of the family named `variant` does."""
        self._number += 1
        arrival = self._arrival = _Arrival(self._number, variant)
        self.node.expect(arrival.uuid)
        token = self.node.token(arrival.uuid)
        client = UploadClient(self.node, archive(), token=token, family=arrival.family)
        self._sending = Deferred.fromCoroutine(self._send(client, arrival.uuid))

    async def _send(self, client: UploadClient, server: str) -> None:
        status = 0
        with suppress(OSError, Unanswered):
            await client.begin()
            status, _ = await client.finish()
        if status != 200:
            # A source without an answer reports a failure, which may come after a success.
            with suppress(Refused):
                self.node.panel.finish_transfer(self.node.source, server, "failure")

    async def restart(self, node: NodeProcess) -> None:
        """Start the node again when its client has noticed its end."""
        await self._sending
        await node.start_loaded()

    async def unsettled(self) -> str:
        """Return what has not ended yet."""
        if not self._sending.called or self.node.panel.in_transfer(self._arrival.uuid):
            return "the Panel's transfer does not end"
        if not is_finished(self.node):
            return "the node does not finish what it has begun"
        staged = [*self.node.staging.glob("*"), *self._precious.parent.glob(".wingsd-*/*")]
        left = [path.name for path in staged if path.name not in (".lock", ".quarantine")]
        return f"something stays staged: {left}" if left else ""

    async def check(self) -> None:
        """Check that everything of the server is here, or nothing."""
        is_here = self._is_here()
        if (self.node.volumes / self._arrival.uuid).exists() is not is_here:
            raise Broken("the server's files are not where the Panel says")
        for path, data in self._arrival.files.items():
            place = self.node.directory / path
            if place.exists() is not is_here:
                raise Broken(f"{path} {'is lost' if is_here else 'is left over'}")
            if is_here and (place.read_bytes() != data or place.stat().st_nlink != 1):
                raise Broken(f"{path} is not what was sent, or has another name")
        if self._precious.read_bytes() != PRECIOUS:
            raise Broken("a backup that was here before is not as it was")

    def check_success(self) -> None:
        """Check that the server has arrived."""
        if not self._is_here():
            raise Broken("the next transfer does not go well")

    def _is_here(self) -> bool:
        return self.node.panel.node_of(self._arrival.uuid) is self.node.node
