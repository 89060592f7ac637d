"""The power of a server: its program is started, stopped and killed, and started after a crash."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from wingsd.config import CrashDetectionConfig, SystemConfig
from wingsd.docker.runtime import Running
from wingsd.errors import (
    Conflict,
    ConsoleBlocked,
    EnvironmentFailed,
    ServerBusy,
    WingsdError,
)
from wingsd.events import CRASHED
from wingsd.panel.schemas import Stop
from wingsd.servers.console import Run
from wingsd.servers.files import BackgroundTasks
from wingsd.servers.power_states import (
    PowerAction,
    PowerEvent,
    PowerState,
)

if TYPE_CHECKING:  # which has one of each
    from wingsd.servers.server import Server

#: Lines of the console that are published of a crash, and characters of each.
LINES_MAX, LINE_MAX = 50, 256
FAILED = "Server crash was detected but an error occurred while handling it."


@attrs.frozen(repr=False)
class ProgramEnd:
    """The end of a program."""

    exit_code: int
    out_of_memory: bool = False


class CrashDecision(Enum):
    """A decision about a server's restart, with its reason as a text for the log."""

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
        """True if the end counts as a crash."""
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


#: Names and shorthands in eggs; for any other, Wings sends SIGKILL.
_SIGNALS = {
    "C": "SIGINT",
    "^C": "SIGINT",
    "SIGINT": "SIGINT",
    "SIGTERM": "SIGTERM",
    "SIGABRT": "SIGABRT",
}


async def request_stop(running: Running, stop: Stop) -> None:
    """Ask a program to end, as its egg says. The command `^C` means SIGINT, as at a terminal.

    Without a way that is known, the engine sends the signal that the image names.
    """
    value = stop.value.strip()
    match stop.type:
        case "command" if value == "^C":
            await running.signal("SIGINT")
        case "command" if value:
            await running.command(stop.value)
        case "signal":
            await running.signal(_SIGNALS.get(value.upper(), "SIGKILL"))
        case _:
            await running.stop()


#: Seconds after a kill within which the engine must report the end of the program.
KILL_TIMEOUT = 30.0


class PowerControl:
    """The power actions of one server, and its restarts after crashes."""

    _log = Logger()

    def __init__(
        self, server: Server, system: SystemConfig, reactor: IReactorTime, tasks: BackgroundTasks
    ) -> None:
        self._server = server
        self._system = system
        self._reactor = reactor
        self._tasks = tasks
        self._last_restart: float | None = None
        self._lock = DeferredLock()
        self._starting: Deferred[None] | None = None
        self._start_cancelled = False
        #: Whether the engine has answered if a program runs that this node did not start.
        self._adopted = False

    async def do(self, action: PowerAction, wait_seconds: float) -> None:
        """Run one action to its end, after waiting at most `wait_seconds` for the previous one.

        Raises `Conflict` when that is not over in time, or the server runs already, and the errors
        of preparation and of the environment.
        """
        if action is PowerAction.KILL:
            await self._kill()
            return
        if action is PowerAction.STOP:
            self.cancel_start()
        elif action is PowerAction.START:
            self._check_startable(PowerState.OFFLINE, PowerState.STOPPING)
        await self._acquire(wait_seconds)
        try:
            if action is not PowerAction.START:
                await self._stop(self._system.stop_timeout)
            if action.starts:
                await self._start()
        finally:
            self._lock.release()

    async def stop_within(self, grace: float, *, kills: bool = True) -> bool:
        """Return whether the server is offline: stopped, or killed after `grace` seconds.

        With `kills` it is. Cancels a start, and waits for another action within the same time.
        """
        deadline = self._reactor.seconds() + grace
        self.cancel_start()
        try:
            await self._acquire(grace)
        except Conflict:
            if not kills:
                return False
            await self._kill()
            await self._lock.acquire()
        left = deadline - self._reactor.seconds()
        try:
            if not kills:
                return await self._stopped_within(left)
            await self._stop(grace, left)
        finally:
            self._lock.release()
        return True

    async def adopt(self) -> None:
        """Watch a program that runs already. Raises `EnvironmentFailed`."""
        await self._lock.run(self._adopt)

    async def _adopt(self) -> None:
        if not self._adopted:
            await self._server.join_program()
            self._adopted = True

    def cancel_start(self) -> None:
        """Cancel a start whose program does not run yet, and roll it back."""
        if self._starting is not None and not self._start_cancelled:
            self._start_cancelled = True
            self._starting.cancel()

    async def _acquire(self, seconds: float) -> None:
        try:
            await self._lock.acquire().addTimeout(seconds, self._reactor)
        except DeferredTimeout:
            raise ServerBusy(
                "another power action is under way for this server",
                "wait for it to end, or kill the server",
            ) from None

    # Starting

    def _check_startable(self, *states: PowerState) -> None:
        if self._server.state not in states:
            raise Conflict("server is running", "stop it first, or restart it")

    async def _start(self) -> None:
        self._server.check_power(PowerAction.START)
        await self._adopt()
        self._check_startable(PowerState.OFFLINE)
        self._start_cancelled = False
        self._starting = Deferred.fromCoroutine(self._launch())
        try:
            await self._starting
        except CancelledError:
            if not self._start_cancelled:
                raise
            raise Conflict("the start was cancelled", "start the server again") from None
        finally:
            self._starting = None

    async def _launch(self) -> None:
        server = self._server
        server.console.clear()
        server.transition(PowerEvent.START)
        try:
            await server.prepare()
            # The Panel's settings may be new, and a transfer may have begun.
            server.check_power(PowerAction.START)
            await server.launch()
        except BaseException:
            # The program may run all the same: an engine that fails may have started it.
            self._adopted = False
            server.transition(PowerEvent.END)
            raise

    # Stopping

    async def _stop(self, timeout: float, left: float | None = None) -> None:
        """Stop within `timeout` seconds, of which `left` are left; then kill."""
        if not await self._stopped_within(timeout if left is None else left):
            self._server.say(f"The server has not stopped within {timeout:g} s and is killed.")
            await self._kill()

    async def _stopped_within(self, seconds: float) -> bool:
        await self._adopt()
        run = self._server.run
        if run is None or run.running is None:
            return True
        # Cancelled, the request may have been sent: the end is then no crash.
        with self._requesting_end(run, CancelledError):
            try:
                await request_stop(run.running, self._server.configuration.process.stop)
            except ConsoleBlocked as error:
                # The timeout is for servers that hang.
                self._server.say(str(error))
        return await run.wait(max(seconds, 0))

    async def stop_by_line(self, line: str) -> None:
        """Type the egg's stop command into the console for a user, who waits for the end.

        Raises `EnvironmentFailed`.
        """
        run = self._server.run
        if run is None or run.running is None:
            return
        # The line may have been read, or may still be.
        with self._requesting_end(run, (CancelledError, ConsoleBlocked)):
            await run.running.command(line)

    async def _kill(self) -> None:
        if self._starting is not None:
            self.cancel_start()
            await self._lock.run(lambda: None)
            return
        if not self._adopted:
            await self.adopt()
        run = self._server.run
        if run is None or run.running is None:
            return
        with self._requesting_end(run, BaseException if run.end_requested else ()):
            await run.running.kill()
        if not await run.wait(KILL_TIMEOUT):
            raise EnvironmentFailed(
                f"the server was killed, and {KILL_TIMEOUT:g} s later the engine has not "
                f"reported its exit; see the engine's log, and kill the server again"
            )

    @contextmanager
    def _requesting_end(
        self, run: Run, possible: type[BaseException] | tuple[type[BaseException], ...]
    ) -> Iterator[None]:
        """Request the end of a run; it counts as requested after an error that is `possible`."""
        self._server.transition(PowerEvent.STOP)
        run.end_requested = True
        try:
            yield
        except BaseException as error:
            if not run.over:
                run.end_requested = isinstance(error, possible)
                self._server.transition(PowerEvent.STOP_FAILED)
            raise

    # After a crash

    def crashed(self, end: ProgramEnd) -> None:
        """Start the server again, in the background, if the rules say so after this end.

        The rules and lines are Wings'. The time of the last such start is kept in memory: after
        the daemon's restart the next crash is the first one, as for Wings. Each crash is
        published, with some lines of the console.
        """
        server, now = self._server, self._reactor.seconds()
        rules, last = self._system.crash_detection, self._last_restart
        decision = decide(
            rules,
            enabled=server.configuration.settings.crash_detection_enabled,
            end=end,
            since_restart=None if last is None else now - last,
        )
        if decision.is_crash:
            self._publish_crash(end, restarted=decision is CrashDecision.RESTART)
        for line in crash_lines(decision, end, rules.timeout):
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
        elif self._may_restart():
            self._last_restart = now
            self._tasks.start("the restart after its crash", self._restart(), server.uuid)

    def _publish_crash(self, end: ProgramEnd, *, restarted: bool) -> None:
        count = min(self._system.crash_detection_activity_lines, LINES_MAX)
        crash = {
            "exit_code": end.exit_code,
            "out_of_memory": end.out_of_memory,
            "restarted": restarted,
            "lines": [line[:LINE_MAX] for line in self._server.console.lines(count)],
        }
        self._server.publish(CRASHED, json.dumps(crash))

    def _may_restart(self) -> bool:
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
