"""What a station has in place of a Panel, and of a network that loses nothing."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed

from wingsd.errors import ServerNotFound
from wingsd.http.request import StreamingRequest
from wingsd.panel.errors import PanelUnreachable
from wingsd.panel.schemas import Configuration

__all__ = ["LossyRequest", "SilentPanel"]


class SilentPanel:
    """A Panel that is asked nothing, unless it knows servers."""

    def __init__(self) -> None:
        self.known: dict[str, Configuration] = {}
        self.calls: list[str] = []
        self.heard: float | None = None
        self.greeting: Deferred[None] = succeed(None)

    async def greet(self) -> None:
        await self.greeting

    async def owns(self, uuid: str) -> bool:
        self.calls.append("owns")
        return uuid in self.known

    async def describe(self, uuid: str) -> Configuration:
        self.calls.append("describe")
        if uuid not in self.known:
            raise ServerNotFound("the Panel does not know this server")
        return self.known[uuid]

    async def servers(self) -> list[Configuration]:
        return list(self.known.values())

    async def reset(self) -> None:
        pass

    async def transfer_failed(self, uuid: str) -> bool:
        raise PanelUnreachable("the Panel could not be asked", "it is silent")


class LossyRequest(StreamingRequest):
    """A request whose answer can be lost."""

    def answer(self, *args: Any, **kwargs: Any) -> None:
        if self.channel is not None and self.channel.site.lose(self):
            self.channel.abortConnection()
        else:
            super().answer(*args, **kwargs)
