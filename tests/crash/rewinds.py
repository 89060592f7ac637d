"""Kills of a node that rewinds a server, whose program may write to its files meanwhile."""

from __future__ import annotations

import hashlib
from collections import Counter
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

from twisted.internet.threads import deferToThread

from tests.crash.engine import Broken, until_none
from tests.crash.one_node import Content, OneNode, contents
from tests.support.docker_engine import Engine
from tests.support.node_process import NodeProcess
from tests.support.panel import Panel
from tests.support.sample_server import UUID
from tests.support.settings import process_configuration, server_settings
from wingsd.cli.client import ControlClient, CtlError

#: Counts in a file that it replaces, and writes others in place, until it is stopped. The counter
#: is saved at the end, as a game saves its world.
_PROGRAM = (
    "cd /home/container; n=$(cat counter || echo 0); trap 'echo $n > last; exit 0' TERM; "
    "echo listening on; "
    "while :; do n=$((n+1)); echo $n > counter.new; mv counter.new counter; "
    "for i in 0 1 2 3; do echo $n $n $n > hot$i; done; sleep 0.02; done"
)
_FORM = hashlib.shake_128
#: The lines of the log at which a rewind is killed.
MOMENTS = (
    "its rewind: preparing",
    "its rewind: stopping",
    "its rewind: comparing",
    "its rewind: exchanging",
    "its rewind: exchanging",
    "its rewind: checking",
    "its rewind: starting",
)


class PastNode(OneNode):
    """A node with the history of a server, which has a `world`, and may run a program."""

    latest, linger = 3.0, 0.1
    half_at_once = True
    #: Files of the world, and bytes of each.
    FILES, SIZE = 120, 9_000

    def __init__(self, directory: Path, engine: Engine | None = None) -> None:
        home = directory if engine is None else engine.volumes
        super().__init__(NodeProcess(home, Panel()))
        self.runs = engine is not None
        self._image = "" if engine is None else engine.image
        history: dict[str, Any] = {"every": "1h", "keep": {"1m": 12}}
        history["directory"] = str(home / "history")
        self.changes = {"system": {"history": history}}
        if engine is not None:
            self.changes |= engine.for_node(UUID)
        #: How often was found what.
        self.found: Counter[str] = Counter()

    @property
    def world(self) -> Path:
        """The directory of the world."""
        return self.node.files() / "world"

    def prepare(self) -> None:
        (self.node.directory / "history").mkdir()
        settings = server_settings(UUID, image=self._image, invocation=_PROGRAM)
        self.panel.add_server(settings, self.node.node, process_configuration())
        self.node.files().mkdir(parents=True)
        self.node.files().chmod(0o777)

    async def start(self) -> None:
        await super().start()
        if self.runs:
            await self.ask(f"/api/servers/{UUID}/power", {"action": "start"})

    def write(self, number: int) -> Content:
        """Write a world in place, but for a third of its names; return it."""
        home = self.world
        home.mkdir(exist_ok=True)
        for each in range(self.FILES):
            path = home / f"{each % 7}" / f"{each}"
            path.parent.mkdir(exist_ok=True)
            if (each + number) % 3 == 0:
                path.unlink(missing_ok=True)
            elif (each + number) % 3 == 1:
                path.write_bytes(_FORM(b"%d %d" % (each, number)).digest(self.SIZE))
            elif not path.exists():
                path.write_bytes(b"%d" % number)
        return contents(home)

    # The history, by the control socket

    async def control(self, method: str, path: str, body: Any = None) -> Any:
        """Ask for something at the control socket. Raises CtlError."""
        client = ControlClient(str(self.node.control), 30.0)
        return await deferToThread(client.ask, method, path, body)

    async def order(self, method: str, path: str = "") -> None:
        """Run a command on the history, and wait for its end. Raises `Broken`, CtlError."""
        await self.control(method, f"history/{UUID}{path}", {} if method == "POST" else None)
        while not (task := await self.control("GET", f"history/{UUID}/task"))["over"]:
            pass
        if task["error"]:
            raise Broken(f"the history: {task['kind']}: {task['error']}: {task['detail']}")
        if task["damaged"]:
            raise Broken(f"the history is damaged: {task['damaged']}")

    async def points(self) -> list[dict[str, Any]]:
        """Return the points, the newest first. Raises CtlError."""
        return list((await self.control("GET", f"history/{UUID}"))["points"])

    async def make_point(self) -> int:
        """Make a point; return its number. Raises `Broken` and CtlError."""
        await self.order("POST")
        return int((await self.points())[0]["number"])

    async def verify(self) -> None:
        """Check that all points have their roots. Raises `Broken`."""
        await self.order("POST", "/verify")
        self.found["points verified"] += len(await self.points())

    # The state of the server

    async def not_up(self) -> str:
        """Return the state that the server has in place of its usual one."""
        status, found = await self.panel.ask(self.node.node, "GET", f"/api/servers/{UUID}")
        state = str(found["state"]) if status == HTTPStatus.OK else ""
        return "" if state == ("running" if self.runs else "offline") else f"it is {state}"

    async def unsettled(self) -> str:
        if other := await self.not_up():
            return other
        with suppress(CtlError):
            rewind = await self.control("GET", f"rewinds/{UUID}")
            if rewind["state"] not in ("done", "failed"):
                return f"its rewind is {rewind['state']}"
        return self.unfinished([*self.node.staging.iterdir()])

    def counter(self) -> int:
        """Return how far the program has counted."""
        with suppress(OSError, ValueError):
            return int((self.node.files() / "counter").read_text())
        return 0

    def summary(self) -> str:
        found = ", ".join(f"{count} {what}" for what, count in sorted(self.found.items()))
        return f"{super().summary()}; {found}"


class Rewinds(PastNode):
    """After each kill the server has all files of the point, or all from before, and runs again.

    Before each kill its world is replaced by another one, and a part of it removed. Each point of
    its history has its root, and nothing is staged or unfinished. Without a kill it is rewound,
    and after that brought back.
    """

    moments = MOMENTS

    def __init__(self, directory: Path, engine: Engine | None = None) -> None:
        super().__init__(directory, engine)
        self._point = 0
        self._then: Content = {}
        self._before: Content = {}
        self._counted = 0

    # What is begun

    async def begin(self, variant: str = "") -> None:
        """Make a point of one world, put another one into its place, and rewind the server."""
        self.number += 1
        await until_none(self.not_up)
        self._then = self.write(self.number)
        self._point = await self.make_point()
        self._before = self.write(-self.number)
        self._counted = self.counter()
        with suppress(CtlError):
            await self.control("POST", f"rewinds/{UUID}", {"point": self._point})

    # What is checked

    async def check(self) -> None:
        found = contents(self.world)
        if found not in (self._then, self._before):
            raise Broken("the world is neither that of the point nor that from before")
        if self.runs and not self.counter():
            raise Broken("the program writes nothing")
        is_rewound = found == self._then
        self.found["rewound" if is_rewound else "as before"] += 1
        if not is_rewound and self.counter() < self._counted:
            raise Broken("the program's file is older than before")
        await self.verify()

    async def trial(self, number: int) -> str:
        told = await super().trial(number)
        if contents(self.world) == self._then:
            await self._undo()
        return told

    def check_success(self) -> None:
        if contents(self.world) != self._then:
            raise Broken("it is not rewound without a kill")

    async def _undo(self) -> None:
        """Bring everything back."""
        await self.control("POST", f"rewinds/{UUID}", {"undo": True})
        await self.settle()
        if contents(self.world) != self._before:
            raise Broken("the rewind is not undone")
        if self.counter() < self._counted:
            raise Broken("what the program has counted is lost")
        self.found["undone"] += 1
