"""`twistd wingsd` as a process of its own."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import yaml
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

__all__ = ["TIMEOUT", "Daemon", "reactor"]

TIMEOUT = 30
reactor: Any = installed_reactor


class _Process(ProcessProtocol):
    """The daemon's process: its output, line by line, and its end."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.ended: Deferred[int] = Deferred()
        self._rest = b""
        self._waiting: list[tuple[str, Deferred[str]]] = []

    def wait_for(self, text: str, since: int = 0, within: float = TIMEOUT) -> Deferred[str]:
        """Return a Deferred of the first line, past or to come, that has `text` in it."""
        found: Deferred[str] = Deferred()
        for line in self.lines[since:]:
            if text in line:
                found.callback(line)
                return found
        self._waiting.append((text, found))
        return found.addTimeout(within, reactor)

    def outReceived(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in map(bytes.decode, lines):
            self.lines.append(line)
            for entry in [entry for entry in self._waiting if entry[0] in line]:
                self._waiting.remove(entry)
                entry[1].callback(line)

    errReceived = outReceived

    def processEnded(self, reason: Failure) -> None:
        ended: Any = reason.value
        self.ended.callback(-ended.signal if ended.signal else ended.exitCode)
        for _, found in self._waiting:
            found.errback(RuntimeError("the daemon ended:\n" + "\n".join(self.lines)))


class Daemon:
    """One daemon. Its configuration is written into `directory`, where it also runs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.control = directory / "control.sock"
        self.url = ""
        #: Variables of its environment beside this process's own.
        self.variables: dict[str, str] = {}
        self._process = _Process()
        self._transport: Any = None

    def command(self, configuration: dict[str, Any], *options: str) -> list[str]:
        """Write the configuration; return the command line that runs the daemon with it."""
        path = self.directory / "config.yml"
        path.write_text(yaml.safe_dump(configuration))
        twistd = str(Path(sys.executable).with_name("twistd"))
        return [twistd, "-n", "--pidfile", "", "wingsd", "--config", str(path), *options]

    def spawn(self, command: list[str], descriptors: dict[int, int] | None = None) -> None:
        """Start the process."""
        self._process = _Process()
        self._transport = reactor.spawnProcess(
            self._process,
            command[0],
            command,
            env={**os.environ, **self.variables},
            path=str(self.directory),
            childFDs={0: "w", 1: "r", 2: "r"} | (descriptors or {}),
        )

    async def listening(self) -> str:
        """Return the daemon's address, once it listens."""
        found = re.search(r"listens on (\S+?),", await self.wait_for_line("listens on"))
        assert found
        self.url = found[1]
        return self.url

    def wait_for_line(self, text: str, since: int = 0, within: float = TIMEOUT) -> Deferred[str]:
        """Return a Deferred of the log's first line, from line `since` on, with `text` in it.

        It fails after `within` seconds.
        """
        return self._process.wait_for(text, since, within)

    @property
    def log(self) -> list[str]:
        """The daemon's log lines so far."""
        return self._process.lines

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        pid: int = self._transport.pid
        return pid

    def signal(self, name: str) -> None:
        """Send the daemon a signal, such as "HUP"."""
        self._transport.signalProcess(name)

    async def ended(self) -> int:
        """Return the daemon's exit status when it has ended; a signal's number is negative."""
        return await self._process.ended

    async def close(self) -> None:
        """End it, however it goes."""
        if not self._process.ended.called and self._transport is not None:
            self.signal("KILL")
            await self._process.ended
