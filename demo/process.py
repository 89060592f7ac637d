"""Programs: run to their end in a worker thread, or run by the reactor."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from demo.output import Failed

__all__ = ["Process", "run"]


def run(*command: str, cwd: Path) -> None:
    """Run a program to its end. Blocks. Raises `Failed` with its output."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise Failed(f"{' '.join(command)}:\n{done.stderr.strip()}")


class Process(ProcessProtocol):
    """A program whose output goes to the file `output`, or to where the demo's own goes.

    `ended` fires with the exit status, or with a signal's number below zero.
    """

    def __init__(
        self, reactor: Any, command: list[str], directory: Path, output: Path | None = None
    ) -> None:
        self.ended: Deferred[int] = Deferred()
        self._reactor = reactor
        sys.stdout.flush()
        with open(os.devnull) as nothing, open(output or os.devnull, "ab") as file:
            out, err = (1, 2) if output is None else (file.fileno(), file.fileno())
            self._transport = reactor.spawnProcess(
                self,
                command[0],
                command,
                env=os.environ,
                path=str(directory),
                childFDs={0: nothing.fileno(), 1: out, 2: err},
            )

    @property
    def pid(self) -> int:
        """The program's process id."""
        pid: int = self._transport.pid
        return pid

    def processEnded(self, reason: Failure) -> None:
        """Notify waiters."""
        how: Any = reason.value
        self.ended.callback(-how.signal if how.signal else how.exitCode)

    async def end(self, within: float) -> int:
        """Terminate the program, kill it after `within` seconds; return its exit status."""
        self._signal("TERM")
        late = self._reactor.callLater(within, self._signal, "KILL")
        try:
            return await self.ended
        finally:
            if late.active():
                late.cancel()

    def _signal(self, name: str) -> None:
        with suppress(ProcessExitedAlready):
            self._transport.signalProcess(name)
