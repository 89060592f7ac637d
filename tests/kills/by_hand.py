"""Scenarios of direct transfers that resume: operators move a server, and there is no Panel."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from tests.kills.engine import Broken
from tests.kills.resumed import Resumed
from tests.support.node_process import NodeProcess
from tests.support.sample_server import UUID
from tests.support.settings import process_configuration, server_settings

__all__ = ["ByHand"]


class ByHand(Resumed):
    """What holds for moves that a Panel orders holds for direct ones; one node has the files.

    The source's are deleted when the server has moved. No node hears of a Panel.
    """

    @property
    def owner(self) -> NodeProcess:
        """The node that has the server's files; of two the one that sends them."""
        source, other = self.pair.source, self.pair.destination
        if self._destination is source:
            source, other = other, source
        return source if source.files().is_dir() else other

    async def _launch(self) -> None:
        for node in (self.pair.source, self.pair.destination):
            await node.start_without_panel()

    async def restart(self, node: NodeProcess) -> None:
        """Start a node again that was killed; return when it listens."""
        self._breaks += 1
        await node.start_without_panel()

    async def _order(self) -> None:
        source, destination = self.nodes.values()
        url = ("--url", destination.node.address)
        invited = await destination.wingsctl("receive", UUID, *url, "--json")
        if invited.status:
            raise Broken(f"the server is not expected: {invited.err}")
        _, *words = shlex.split(invited.json["send"])
        options = ("--delete", "--no-wait", "--settings", str(self._settings(source)))
        sent = await source.wingsctl(*words, *options)
        if sent.status:
            raise Broken(f"the server is not sent: {sent.err}")

    def _settings(self, source: NodeProcess) -> Path:
        """Return a file with what the server is, for a node that has only its files."""
        path = source.directory / "settings.json"
        process = process_configuration()
        description = {"settings": server_settings(UUID), "process_configuration": process}
        path.write_text(json.dumps(description))
        return path

    async def check(self) -> None:
        nodes = (self.pair.source, self.pair.destination)
        if all(node.files().is_dir() for node in nodes):
            raise Broken("both nodes have the server")
        await super().check()
        known = await self.owner.wingsctl("show", UUID, "--json")
        server = known.json["server"]
        if server is None or server["hold"]:
            raise Broken(f"the node that has the server cannot start it: {server}")
