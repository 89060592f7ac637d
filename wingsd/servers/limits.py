"""The limits of a running server: those that change in the Panel reach its container at once."""

from __future__ import annotations

from typing import Protocol

from wingsd.errors import EnvironmentFailed
from wingsd.panel.schemas import Build, Configuration
from wingsd.servers.files import BackgroundTasks
from wingsd.servers.runtime import ServerRuntime

__all__ = ["LimitedContainer", "RunningLimits"]


class LimitedContainer(Protocol):
    """The server whose container has the limits."""

    uuid: str
    configuration: Configuration


class RunningLimits:
    """Applies changed limits to a running container. What cannot be applied waits for a start."""

    def __init__(
        self, server: LimitedContainer, runtime: ServerRuntime, tasks: BackgroundTasks
    ) -> None:
        self._server = server
        self._runtime = runtime
        self._tasks = tasks

    def changed(self, before: Build) -> None:
        """Apply the present limits in the background, if they differ and the server runs."""
        after = self._server.configuration.settings.build
        if after != before and self._runtime.run is not None:
            applying = self._apply(before, after)
            self._tasks.start("changing its limits", applying, self._server.uuid)

    async def _apply(self, before: Build, after: Build) -> None:
        try:
            warnings = await self._runtime.update(before, after)
        except EnvironmentFailed as error:
            self._runtime.say(
                f"The server's new limits take effect at its next start: {error.detail}"
            )
            return
        for warning in warnings:
            self._runtime.say(f"A limit is not applied to the running server: {warning}")
