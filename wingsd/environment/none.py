"""The environment of a node of files only: it keeps servers, and runs none."""

from __future__ import annotations

from wingsd.environment.interface import Running, Watcher
from wingsd.errors import EnvironmentFailed
from wingsd.model import Settings

__all__ = ["NoEnvironment"]


class NoEnvironment:
    """The `Environment` of a node with `docker.enabled: false`."""

    async def create(self, settings: Settings) -> bool:
        """Do nothing; return False."""
        return False

    async def name_conflict(self, uuid: str) -> str:
        """Return nothing: there is no engine."""
        return ""

    async def renew(self, settings: Settings) -> None:
        """Do nothing."""

    async def remove(self, uuid: str) -> None:
        """Do nothing."""

    async def start(self, uuid: str, watcher: Watcher) -> Running:
        """Raise `EnvironmentFailed`: nothing runs here."""
        raise EnvironmentFailed(
            "containers are switched off on this node, so no server can be started: set "
            "docker.enabled to true in its configuration"
        )

    async def adopt(self, uuid: str, watcher: Watcher) -> Running | None:
        """Return None: nothing runs here."""
        return None

    async def logs(self, uuid: str, lines: int) -> list[str]:
        """Return no lines."""
        return []
