"""Crash detection: a server whose program has ended by itself is started again.

`decide` applies the rules and `crash_lines` returns what the console shows, without a reactor.
`CrashDetector` starts the server, and knows when it last did. The rules and the lines are Wings'.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import Enum
from typing import Protocol

import attrs
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from wingsd.config import CrashDetectionConfig
from wingsd.errors import WingsdError
from wingsd.events import CRASHED
from wingsd.panel.schemas import Configuration
from wingsd.servers.console import Console
from wingsd.servers.files import BackgroundTasks
from wingsd.servers.power_states import PowerAction, PowerState

__all__ = [
    "CrashDecision",
    "CrashDetector",
    "CrashedServer",
    "ProgramEnd",
    "crash_lines",
    "decide",
]

#: The exit code of a program whose container is gone.
GONE = 1
#: Lines of the console that are published of a crash, and characters of each.
LINES_MAX, LINE_MAX = 50, 256
FAILED = "Server crash was detected but an error occurred while handling it."


@attrs.frozen(repr=False)
class ProgramEnd:
    """The end of a program."""

    exit_code: int
    out_of_memory: bool = False

    @classmethod
    def of(cls, status: int | None, *, out_of_memory: bool) -> ProgramEnd:
        """Return the end with an exit status, None where the engine does not know it."""
        return cls(GONE if status is None else status, out_of_memory)


class CrashDecision(Enum):
    """Whether a server is started again, and why not; the values are for the log."""

    RESTART = "it is started again"
    DISABLED = "it stays offline: crash detection is disabled for it"
    CLEAN = (
        "it stays offline: an exit code of 0 is no crash, by "
        "system.crash_detection.detect_clean_exit_as_crash"
    )
    TOO_SOON = (
        "it stays offline: its last restart after a crash is less than "
        "system.crash_detection.timeout ago"
    )

    @property
    def is_crash(self) -> bool:
        """Whether the end counts as a crash."""
        return self in (CrashDecision.RESTART, CrashDecision.TOO_SOON)


def decide(
    rules: CrashDetectionConfig,
    *,
    enabled: bool | None,
    end: ProgramEnd,
    since_restart: float | None,
) -> CrashDecision:
    """Return what follows from the end of a program that was not requested.

    `enabled` is the server's own setting, None where it has none; `since_restart` are the seconds
    since it was last started again after a crash, None if it never was.
    """
    if not (rules.enabled if enabled is None else enabled):
        return CrashDecision.DISABLED
    if end == ProgramEnd(0) and not rules.detect_clean_exit_as_crash:
        return CrashDecision.CLEAN
    if rules.timeout and since_restart is not None and since_restart < rules.timeout:
        return CrashDecision.TOO_SOON
    return CrashDecision.RESTART


def crash_lines(decision: CrashDecision, end: ProgramEnd, timeout: float) -> list[str]:
    """Return what the console shows of a decision; `timeout` in seconds, as configured."""
    if decision is CrashDecision.DISABLED:
        return ["Aborting automatic restart, crash detection is disabled for this instance."]
    lines = []
    if decision.is_crash:
        lines += [
            "---------- Detected server process in a crashed state! ----------",
            f"Exit code: {end.exit_code}",
            f"Out of memory: {str(end.out_of_memory).lower()}",
        ]
    if decision is CrashDecision.TOO_SOON:
        lines.append(
            f"Aborting automatic restart, last crash occurred less than {timeout:g} seconds ago."
        )
    return lines


class CrashedServer(Protocol):
    """The server that `CrashDetector` starts again.

    `restart_later` has it started by what holds it, at the end of that.
    """

    uuid: str
    configuration: Configuration
    restart_later: Callable[[], None] | None

    @property
    def console(self) -> Console:
        """The last lines of its console."""

    @property
    def state(self) -> PowerState:
        """The state of its program."""

    def publish(self, event: str, *args: str) -> None:
        """Publish an event of it."""

    def check_power(self, action: PowerAction) -> None:
        """Raise a `WingsdError` when the action may not be done now."""

    async def power(self, action: PowerAction) -> None:
        """Run a power action to its end; say in the console and raise what makes it fail."""

    def daemon_line(self, message: str, *, keep: bool = False) -> None:
        """Show a line of the node in the console."""

    def say(self, message: str, *, keep: bool = False) -> None:
        """Show a message of the node in the console, and log it."""


class CrashDetector:
    """Starts one server again after a crash.

    The time of the last such start is kept in memory: for a daemon that is started again the
    next crash is the first one, as for Wings. Each crash is published, with so many
    `activity_lines` of the console.
    """

    _log = Logger()

    def __init__(
        self,
        server: CrashedServer,
        rules: CrashDetectionConfig,
        clock: IReactorTime,
        tasks: BackgroundTasks,
        activity_lines: int,
    ) -> None:
        self._server = server
        self._rules = rules
        self._clock = clock
        self._tasks = tasks
        self._activity_lines = activity_lines
        self._last_restart: float | None = None

    def ended(self, end: ProgramEnd) -> None:
        """Start the server again, in the background, if the rules say so after this end."""
        server, now = self._server, self._clock.seconds()
        last = self._last_restart
        decision = decide(
            self._rules,
            enabled=server.configuration.settings.crash_detection_enabled,
            end=end,
            since_restart=None if last is None else now - last,
        )
        if decision.is_crash:
            self._publish(end, restarted=decision is CrashDecision.RESTART)
        for line in crash_lines(decision, end, self._rules.timeout):
            server.daemon_line(line, keep=True)
        self._log.info(
            "{server}: its program ended by itself, exit code {code}{memory}: {decision}",
            server=server.uuid,
            code=end.exit_code,
            memory=", out of memory" if end.out_of_memory else "",
            decision=decision.value,
        )
        if decision is not CrashDecision.RESTART:
            return
        if server.restart_later is not None:
            self._last_restart = now
            server.restart_later()
        elif self._may_start():
            self._last_restart = now
            self._tasks.start("the restart after its crash", self._restart(), server.uuid)

    def _publish(self, end: ProgramEnd, *, restarted: bool) -> None:
        lines = self._server.console.lines(min(self._activity_lines, LINES_MAX))
        crash = {
            "exit_code": end.exit_code,
            "out_of_memory": end.out_of_memory,
            "restarted": restarted,
            "lines": [line[:LINE_MAX] for line in lines],
        }
        self._server.publish(CRASHED, json.dumps(crash))

    def _may_start(self) -> bool:
        """Return whether nothing forbids a start; say what does."""
        try:
            self._server.check_power(PowerAction.START)
        except WingsdError as error:
            self._server.say(f"The server is not started again after its crash: {error}")
            self._server.daemon_line(FAILED, keep=True)
            return False
        return True

    async def _restart(self) -> None:
        try:
            await self._server.power(PowerAction.START)
        except CancelledError:
            raise
        except Exception:  # `power` has logged it.
            # Someone may have been faster; and a stop cancels the start.
            if self._server.state is PowerState.OFFLINE:
                self._server.daemon_line(FAILED, keep=True)
