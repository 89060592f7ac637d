"""The power of a server: start, stop, restart and kill, one action at a time.

A kill does not wait for another action, and cancels a start whose program does not run yet.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime

from wingsd.docker.runtime import ConsoleBlocked, Running
from wingsd.errors import Conflict, EnvironmentFailed, ServerBusy
from wingsd.panel.schemas import Configuration
from wingsd.servers.power_states import (
    PowerAction,
    PowerEvent,
    PowerState,
    StopCommand,
    StopSignal,
    stop_method,
)
from wingsd.servers.run import Run
from wingsd.servers.runtime import ServerRuntime

__all__ = ["PowerControl", "PoweredServer"]

#: Seconds after a kill within which the engine must report the end of the program.
KILL_TIMEOUT = 30.0


class PoweredServer(Protocol):
    """The server that `PowerControl` starts and stops."""

    configuration: Configuration

    def check_power(self, action: PowerAction) -> None:
        """Raise a `WingsdError` when the action may not be done now."""

    async def prepare(self) -> None:
        """Do all that comes before a start; raise a `WingsdError` when it cannot be done."""


class PowerControl:
    """The power actions of one server; `stop_timeout` is in seconds."""

    def __init__(
        self,
        server: PoweredServer,
        runtime: ServerRuntime,
        reactor: IReactorTime,
        stop_timeout: float,
    ) -> None:
        self._server = server
        self._runtime = runtime
        self._reactor = reactor
        self._stop_timeout = stop_timeout
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
                await self._stop(self._stop_timeout)
            if action.starts:
                await self._start()
        finally:
            self._lock.release()

    async def stop_within(self, grace: float) -> None:
        """Return when the server is offline: stopped, or killed after `grace` seconds.

        Cancels a start, and waits for another action within the same time.
        """
        deadline = self._reactor.seconds() + grace
        self.cancel_start()
        try:
            await self._acquire(grace)
        except Conflict:
            await self._kill()
            await self._lock.acquire()
        try:
            await self._stop(grace, deadline - self._reactor.seconds())
        finally:
            self._lock.release()

    async def stop_gently(self, within: float) -> bool:
        """Return whether the server is offline within so many seconds, in which it is not killed.

        Cancels a start, and waits for another action within the same time.
        """
        deadline = self._reactor.seconds() + within
        self.cancel_start()
        try:
            await self._acquire(within)
        except Conflict:
            return False
        try:
            return await self._stopped_within(deadline - self._reactor.seconds())
        finally:
            self._lock.release()

    async def adopt(self) -> None:
        """Watch a program that runs already. Raises `EnvironmentFailed`."""
        await self._lock.acquire()
        try:
            await self._adopt()
        finally:
            self._lock.release()

    async def _adopt(self) -> None:
        if not self._adopted:
            await self._runtime.adopt(self._server.configuration)
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
        if self._runtime.state not in states:
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
        runtime = self._runtime
        runtime.console.clear()
        runtime.transition(PowerEvent.START)
        try:
            await self._server.prepare()
            # The Panel's settings may be new, and a transfer may have begun.
            self._server.check_power(PowerAction.START)
            await runtime.launch(self._server.configuration)
        except BaseException:
            # The program may run all the same: an engine that fails may have started it.
            self._adopted = False
            runtime.transition(PowerEvent.END)
            raise

    # Stopping

    async def _stop(self, timeout: float, left: float | None = None) -> None:
        """Stop within `timeout` seconds, of which `left` are left; then kill."""
        if not await self._stopped_within(timeout if left is None else left):
            self._runtime.say(f"The server has not stopped within {timeout:g} s and is killed.")
            await self._kill()

    async def _stopped_within(self, seconds: float) -> bool:
        await self._adopt()
        run = self._runtime.run
        if run is None or run.running is None:
            return True
        self._runtime.transition(PowerEvent.STOP)
        run.end_requested = True
        try:
            await self._request_stop(run.running)
        except ConsoleBlocked as error:
            # The timeout is for servers that hang.
            self._runtime.say(str(error))
        except BaseException as error:
            # Cancelled, the request may have been sent: the end is then no crash.
            self._stop_failed(run, end_requested=isinstance(error, CancelledError))
            raise
        return await run.wait(max(seconds, 0))

    async def stop_by_line(self, line: str) -> None:
        """Type the egg's stop command into the console for a user, who waits for the end.

        Raises `EnvironmentFailed`.
        """
        run = self._runtime.run
        if run is None or run.running is None:
            return
        self._runtime.transition(PowerEvent.STOP)
        run.end_requested = True
        try:
            await run.running.command(line)
        except BaseException as error:
            # The line may have been read, or may still be.
            possible = isinstance(error, CancelledError | ConsoleBlocked)
            self._stop_failed(run, end_requested=possible)
            raise

    async def _request_stop(self, running: Running) -> None:
        match stop_method(self._server.configuration.process.stop):
            case StopCommand(line):
                await running.command(line)
            case StopSignal(name):
                await running.signal(name)
            case _:
                await running.stop()

    async def _kill(self) -> None:
        if self._starting is not None:
            self.cancel_start()
            await self._lock.run(lambda: None)
            return
        if not self._adopted:
            await self.adopt()
        run = self._runtime.run
        if run is None or run.running is None:
            return
        end_requested, run.end_requested = run.end_requested, True
        self._runtime.transition(PowerEvent.STOP)
        try:
            await run.running.kill()
        except BaseException:
            self._stop_failed(run, end_requested=end_requested)
            raise
        if not await run.wait(KILL_TIMEOUT):
            raise EnvironmentFailed(
                f"the server was killed, and {KILL_TIMEOUT:g} s later the engine has not "
                f"reported its exit; see the engine's log, and kill the server again"
            )

    def _stop_failed(self, run: Run, *, end_requested: bool) -> None:
        if not run.over:
            run.end_requested = end_requested
            self._runtime.transition(PowerEvent.STOP_FAILED)
