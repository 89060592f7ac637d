"""What a server runs in, as the rest of the node sees it; and a node that runs nothing.

An `Environment` makes, starts and removes; a `Running` process is spoken to; a `Watcher` is told
what the process does.
"""

from __future__ import annotations

from typing import Protocol

import attrs

from wingsd.errors import EnvironmentFailed
from wingsd.panel.schemas import Settings

__all__ = ["ConsoleBlocked", "Environment", "NoEnvironment", "Running", "Usage", "Watcher"]


class ConsoleBlocked(EnvironmentFailed):
    """The server does not take what is typed into its console; it may still do so."""

    code = "console-blocked"


@attrs.frozen
class Usage:
    """What a running server uses: bytes, percent of one core, and milliseconds since its start.

    A limit of 0 is none.
    """

    memory_bytes: int = 0
    memory_limit_bytes: int = 0
    cpu_absolute: float = 0.0
    rx_bytes: int = 0
    tx_bytes: int = 0
    uptime: int = 0


class Watcher(Protocol):
    """Is told what a process does, on the reactor; all of it in order."""

    def output(self, data: bytes) -> None:
        """The process wrote this to its console: any number of lines, or a part of one."""

    def usage(self, usage: Usage) -> None:
        """What it uses, about every second."""

    def ended(self, status: int | None, *, out_of_memory: bool) -> None:
        """It has ended, by exit status; None when the engine does not tell. Called once, last."""


class Running(Protocol):
    """A process that runs. Every method but `detach` raises `EnvironmentFailed`."""

    async def command(self, line: str) -> None:
        """Type a line, without its end, into the console. Raises `ConsoleBlocked`."""

    async def signal(self, name: str) -> None:
        """Send a signal, such as "SIGINT"."""

    async def stop(self) -> None:
        """Ask the process to end in the engine's own way; return without waiting for that."""

    async def kill(self) -> None:
        """End the process at once."""

    def detach(self) -> None:
        """Tell the watcher nothing more; the process goes on."""


class Environment(Protocol):
    """What servers run in.

    Methods raise `EnvironmentFailed`. What belongs to another node on the same engine is never
    touched: where it is in the way, that is a failure.
    """

    async def create(self, settings: Settings) -> bool:
        """Make the environment of a server; return whether this call made it.

        One of this node that is there already is kept.
        """

    async def name_conflict(self, uuid: str) -> str:
        """Return what of another node's has the name of the server's environment, if anything.

        Empty where it can be made, as far as that goes. The text is for people.
        """

    async def recreate(self, settings: Settings) -> None:
        """Make it anew from fresh settings; what is there must not run, and is removed."""

    async def remove(self, uuid: str) -> None:
        """Remove it, running or not; a missing one, or another node's, is fine."""

    async def start(self, uuid: str, watcher: Watcher) -> Running:
        """Start the server; `watcher` misses nothing of it."""

    async def adopt(self, uuid: str, watcher: Watcher) -> Running | None:
        """Watch what runs already; None when nothing of this node runs under that name."""

    async def logs(self, uuid: str, lines: int) -> list[str]:
        """Return the last lines of the console, also of a stopped server; empty without any."""


class NoEnvironment:
    """The `Environment` of a node with `docker.enabled: false`."""

    async def create(self, settings: Settings) -> bool:
        """Do nothing; return False."""
        return False

    async def name_conflict(self, uuid: str) -> str:
        """Return nothing: there is no engine."""
        return ""

    async def recreate(self, settings: Settings) -> None:
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
