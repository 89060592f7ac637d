"""A Panel in the process of a test, which answers what servers and transfers ask of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet.defer import Deferred, succeed

from tests.support.harness import CallRecorder
from wingsd.errors import PanelRefused, ServerNotAssigned, ServerNotFound
from wingsd.panel.schemas import Configuration


class ScriptedPanel:
    """A Panel whose calls meet what a recorder has for them, and then what it knows of servers.

    Each call has the name of its method; reports of transfers are `success` and `failure`.
    """

    def __init__(
        self, known: Iterable[Configuration] = (), recorder: CallRecorder | None = None
    ) -> None:
        self.recorder = recorder = recorder or CallRecorder()
        self.calls, self.faults, self.waits = recorder.calls, recorder.faults, recorder.waits
        #: The servers that it describes.
        self.known = {each.settings.uuid: each for each in known}
        #: Whether a server is this node's, or the next answers; None: those that it knows are.
        self.owned: bool | list[bool] | None = None
        #: How often it refuses the report of a failure.
        self.denials = 0
        #: Whether it describes a server of which it has refused the success.
        self.describes_all = False
        self._has_refused = False
        #: The backups reported with each success.
        self.reported_backups: list[tuple[str, ...] | None] = []
        #: The events of the activity log that it got.
        self.activity: list[str] = []
        self.greeting: Deferred[None] = succeed(None)
        #: When it was last heard, and the time of its last answer by its own clock.
        self.heard: float | None = None
        self.date: float | None = None

    @property
    def settled_by(self) -> list[str]:
        """The questions whose a server is, and the reports of how transfers have ended."""
        return [call for call in self.calls if call != "describe"]

    async def greet(self) -> None:
        await self.greeting

    async def owns(self, uuid: str) -> bool:
        await self.recorder.call("owns")
        if isinstance(self.owned, list):
            return self.owned.pop(0)
        return uuid in self.known if self.owned is None else self.owned

    async def describe(self, uuid: str) -> Configuration:
        if self._has_refused and not self.describes_all:
            raise ServerNotAssigned("not for this node")
        await self.recorder.call("describe")
        if uuid not in self.known:
            raise ServerNotFound("the Panel does not know this server")
        return self.known[uuid]

    async def servers(self) -> list[Configuration]:
        return list(self.known.values())

    async def reset(self) -> None:
        pass

    async def transfer_succeeded(self, uuid: str, backups: tuple[str, ...] | None = None) -> None:
        self.reported_backups.append(backups)
        try:
            await self.recorder.call("success")
        except PanelRefused:
            self._has_refused = True
            raise
        self._has_refused = False
        if self.owned is False:
            self.owned = True

    async def transfer_failed(self, uuid: str) -> bool:
        await self.recorder.call("failure")
        self.denials -= 1
        return self.denials < 0

    async def post_once(self, operation: str, path: str, body: Any) -> None:
        self.activity += [entry["event"] for entry in body["data"]]
        await self.recorder.wait("activity")
