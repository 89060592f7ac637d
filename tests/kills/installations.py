"""The scenario of a node that installs servers, which then crash, and the node dies."""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus

from docker.errors import NotFound
from twisted.internet.task import deferLater

from tests.kills.engine import Broken, Kill, is_finished
from tests.support.docker_engine import Engine
from tests.support.node_process import NodeProcess
from tests.support.nodes import NodeError
from tests.support.panel import Panel
from tests.support.reactor import reactor
from tests.support.sample_server import UUID
from tests.support.settings import process_configuration, server_settings

__all__ = ["Installations"]

#: Seconds at most from the beginning of an installation to a kill, and after a line of the log.
LATEST, LINGER = 1.5, 0.1
#: Seconds within which a server can be installed again.
FREE_WITHIN = 10.0
#: Lines of the log: the script is started, its container is removed, the Panel has heard of it,
#: and the server runs, and has crashed.
MOMENTS = (
    "Starting installation process",
    "Installation process completed",
    "installer removed",
    "the success of its installation was reported",
    f"{UUID}: running",
    f"{UUID}: offline",
)
#: Leaves a file that no other run has, in two steps, so that half of it can be seen.
SCRIPT = """echo begun\r
echo -n half > /mnt/server/{run}\r
sleep 0.2\r
echo whole > /mnt/server/{run}\r
"""
#: It is up at once, and crashes: the first time it is started again.
CRASHING = "echo up; sleep 0.2; exit 1"


class Installations:
    """After each kill the server is installed whole, the Panel knows it, and nothing is left.

    It is offline in the end, and can be installed again.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._panel = Panel()
        self._node = NodeProcess(engine.volumes, self._panel)
        self._changes = engine.for_node(UUID)
        engine.will_make_container(f"{UUID}_installer")
        self._number = 0
        self._accepted = False

    @property
    def nodes(self) -> Mapping[str, NodeProcess]:
        """There is only this one."""
        return {"node": self._node}

    async def start(self) -> None:
        await self.restart(self._node)

    async def close(self) -> None:
        await self._node.close()
        await self._panel.close()

    def plan(self, rng: random.Random) -> Kill:
        """Return the next kill; half of them are at random moments."""
        variant = rng.choice(["create", "reinstall", "create and start"])
        if rng.random() < 1 / 2:
            return Kill(("node",), rng.uniform(0, LATEST), variant=variant)
        return Kill(("node",), rng.choice(MOMENTS), (rng.uniform(0, LINGER),), variant)

    async def begin(self, variant: str = "") -> None:
        """Have the Panel make the server anew, or install it again."""
        self._number += 1
        node = self._node.node
        is_known = UUID in [server["uuid"] for server in self._panel.servers_of(node)]
        if is_known and variant != "reinstall":
            status, _ = await self._panel.ask(node, "DELETE", f"/api/servers/{UUID}")
            if status != HTTPStatus.NO_CONTENT:
                raise Broken(f"the server cannot be deleted: {status}")
        if variant != "reinstall" or not is_known:
            settings = server_settings(UUID, image=self._engine.image, invocation=CRASHING)
            process = process_configuration(startup={"done": ["up"]})
            self._panel.add_server(settings, node, process)
        script = SCRIPT.format(run=f"run-{self._number}")
        self._panel.set_script(
            UUID, container_image=self._engine.image, entrypoint="sh", script=script
        )
        self._panel.await_install(UUID)
        self._accepted = False
        path, body = (
            "/api/servers",
            {"uuid": UUID, "start_on_completion": variant.endswith("start")},
        )
        if variant == "reinstall" and is_known:
            path, body = f"/api/servers/{UUID}/reinstall", {}
        with suppress(NodeError):
            deadline = reactor.seconds() + FREE_WITHIN
            status, answer = await self._panel.ask(node, "POST", path, body)
            # It may just be started again after a crash, or the node reports its restart.
            while status == HTTPStatus.CONFLICT and reactor.seconds() < deadline:
                await deferLater(reactor, 0.05)
                status, answer = await self._panel.ask(node, "POST", path, body)
            if status != HTTPStatus.ACCEPTED:
                raise Broken(f"the server cannot be installed: {status}, {answer}")
            self._accepted = True
            self._panel.show_installing(UUID)

    async def restart(self, node: NodeProcess) -> None:
        """Start the node again; return when it knows its servers."""
        await node.start_loaded(**self._changes)
        node.node.address = node.url

    async def unsettled(self) -> str:
        """Return what has not ended yet, empty when everything has."""
        if self._accepted and self._panel.installed(UUID) is None:
            return "the Panel has no report of the installation"
        if not is_finished(self._node):
            return "the node does not finish what it has begun"
        asked = await self._panel.ask(self._node.node, "GET", f"/api/servers/{UUID}")
        if asked[0] == HTTPStatus.OK and asked[1]["state"] != "offline":
            return f"the server is {asked[1]['state']}"
        return self._left()

    async def check(self) -> None:
        if self._panel.forgotten:
            raise Broken("the Panel took a half installed server for an installed one")
        if not self._accepted:
            return
        if self._panel.installed(UUID) is not True:
            raise Broken("the installation failed")
        made = self._node.volumes / UUID / f"run-{self._number}"
        if not made.exists() or made.read_text() != "whole\n":
            raise Broken("the script did not run to its end")
        log = (self._node.directory / "logs" / "install" / f"{UUID}.log").read_text()
        if not log.endswith("begun\n"):
            raise Broken(f"the log does not end with the script's output: {log[-100:]!r}")

    def check_success(self) -> None:
        """Check nothing more: a kill changes nothing of what is promised."""

    def _left(self) -> str:
        scripts = self._node.directory / "tmp"
        if scripts.is_dir() and any(scripts.iterdir()):
            return "a script is left over"
        with suppress(NotFound):
            self._engine.client.inspect_container(f"{UUID}_installer")
            return "an installer is left over"
        return ""
