"""What users and the Panel do with a running server while it moves."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tests.kills.machines import Machine
from tests.support.nodes import NodeError
from tests.support.panel import Panel
from tests.support.reactor import reactor
from tests.support.sample_server import UUID

__all__ = ["ACTS", "RUNS_AFTER", "LiveActs"]

#: What is asked of the source once, whether it answers or not.
_REQUESTS: dict[str, tuple[str, str, Any]] = {
    "stop": ("POST", f"/api/servers/{UUID}/power", {"action": "stop"}),
    "restart": ("POST", f"/api/servers/{UUID}/power", {"action": "restart"}),
    "kill": ("POST", f"/api/servers/{UUID}/power", {"action": "kill"}),
    "cancel": ("DELETE", f"/api/servers/{UUID}/transfer", None),
}
#: What is asked of the destination so.
_THERE = {"refuse": ("DELETE", f"/api/transfers/{UUID}", None)}
#: After these the server runs as before.
RUNS_AFTER = ("", "cancel", "refuse")
ACTS = (*_REQUESTS, *_THERE, "crash", "suspend", "delete")
#: Seconds until a node is asked again that has died, or is busy.
AGAIN = 0.05


class LiveActs:
    """Acts on the server; `wrong` gets what goes wrong with them."""

    def __init__(self, panel: Panel, wrong: list[str]) -> None:
        #: Whether the Panel asks for something that it needs an answer to.
        self.is_asking = False
        self._panel = panel
        self._wrong = wrong

    def do(self, act: str, source: Machine, destination: Machine) -> None:
        """Have somebody do something with the server, or nothing."""
        if act == "crash":
            for program in [*source.engine.running.values()]:
                program.end(1)
        elif act == "suspend":
            self.begin(self.suspend(suspended=True))
        elif act == "delete":
            self.begin(self._delete())
        elif act in _THERE:
            self.begin(self._ask(destination, *_THERE[act]), needs_answer=False)
        elif act:
            self.begin(self._ask(source, *_REQUESTS[act]), needs_answer=False)

    async def suspend(self, *, suspended: bool) -> None:
        """Suspend the server, or let it be used again; return when its node has heard of that."""
        self._panel.settings_of(UUID)["suspended"] = suspended
        await self._insist("POST", "/sync", lambda status: status < HTTPStatus.BAD_REQUEST)

    async def _delete(self) -> None:
        gone = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_FOUND)
        await self._insist("DELETE", "", lambda status: status in gone)
        self._panel.remove_server(UUID)

    async def _insist(self, method: str, path: str, is_done: Callable[[int], bool]) -> None:
        """Ask the server's node until that has done it, while it is still its node."""
        while True:
            node = self._panel.node_of(UUID)
            try:
                status, _ = await self._panel.ask(node, method, f"/api/servers/{UUID}{path}")
            except NodeError:  # it has died before it has answered
                pass
            else:
                if is_done(status) and self._panel.node_of(UUID) is node:
                    return
            await deferLater(reactor, AGAIN)

    async def _ask(self, machine: Machine, method: str, path: str, body: Any) -> None:
        with suppress(NodeError):
            await self._panel.ask(machine.node, method, path, body)

    def begin(
        self, work: Coroutine[Deferred[Any], Any, None], *, needs_answer: bool = True
    ) -> None:
        """Have something be asked; with `needs_answer` it is waited for."""
        self.is_asking = needs_answer

        def ended(result: Any) -> None:
            self.is_asking = False
            if result is not None:
                self._wrong.append(result.getTraceback())

        Deferred.fromCoroutine(work).addBoth(ended)
