"""The containers of two nodes that share one engine, and what must hold for them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from tests.support import process_configuration
from tests.support.docker_engine import Engine
from tests.support.node_process import NodeProcess
from tests.support.sample_server import UUID
from tests.support.two_nodes import TwoNodes

#: A game that is up at once, and ends with the first line that is typed into its console.
GAME = "echo listening on; read -r line"
#: What a node says that gives a server no container before its next start, since on a shared
#: engine the other node's still has the name; nothing else excuses that there is none.
OWED = ("the next start does it", "is on this Docker engine already")
#: What the engine calls a container that is neither half made nor half removed.
WHOLE = ("created", "running", "exited")


class Containers:
    """All containers on the engine that are of either node or have the server's name."""

    def __init__(self, engine: Engine, nodes: TwoNodes) -> None:
        self._engine = engine
        self._nodes = nodes
        #: What was owed by either node, and is there.
        self._paid: set[str] = set()
        #: What is changed in both nodes' configuration.
        self.configuration = engine.for_node(UUID)
        #: How the server is described.
        self.settings = {
            "image": engine.image,
            "invocation": GAME,
            "process": process_configuration(stop={"type": "command", "value": "stop"}),
        }

    async def run(self) -> None:
        if [container["State"] for container in self._found()] == ["running"]:
            return
        here = self._nodes.owner
        mark = len(here.log)
        await self._nodes.panel.power(UUID, "start")
        await here.wait_for_line(f"{UUID}: running", since=mark)

    @property
    def owes(self) -> bool:
        """Whether the server's node has put its container off until the next start."""
        return bool(_owed(self._nodes.owner) - self._paid)

    async def fault(self) -> str:
        """Return what is wrong, empty for nothing.

        There must be one container of the server, whole and with its files at the node that the
        Panel says, and that node must know whether it runs. The one that is owed is made by a
        start, which must go well.
        """
        here = self._nodes.owner
        if not self._found() and self.owes:
            await self.run()
        found = self._found()
        if [(_names(container), _homes(container)) for container in found] != [
            ([f"/{UUID}"], [str(here.files())])
        ]:
            shown = [(_names(each), _homes(each), each["State"]) for each in found]
            return f"there is not one container, of {here.directory.name}'s, but {shown}"
        state = found[0]["State"]
        if state not in WHOLE:
            return f"its container is {state}"
        status, told = await self._nodes.panel.ask(here.node, "GET", f"/api/servers/{UUID}")
        if status != HTTPStatus.OK or (told["state"] == "offline") is (state == "running"):
            return f"the engine says {state}, and {here.directory.name} says {status}, {told}"
        self._paid = _owed(self._nodes.source) | _owed(self._nodes.destination)
        return ""

    def _found(self) -> list[dict[str, Any]]:
        every = self._engine.client.containers(all=True)
        return [each for each in every if f"/{UUID}" in _names(each) or self._is_ours(each)]

    def _is_ours(self, container: dict[str, Any]) -> bool:
        """Return whether it shows anything of either node, whatever its name is."""
        nodes = (self._nodes.source.directory, self._nodes.destination.directory)
        sources = [str(mount.get("Source")) for mount in container["Mounts"]]
        return any(source.startswith(f"{node}/") for source in sources for node in nodes)


def _owed(peer: NodeProcess) -> set[str]:
    """Return the lines in which a node, or the daemon before it, has put a container off."""
    return {line for line in (*peer.past, *peer.log) if all(words in line for words in OWED)}


def _names(container: dict[str, Any]) -> list[str]:
    return container["Names"] or []


def _homes(container: dict[str, Any]) -> list[str]:
    mounts = container["Mounts"]
    return [mount["Source"] for mount in mounts if mount["Destination"] == "/home/container"]
