"""What people do to a server's power: start, stop, restart, kill. One action at a time.

A kill waits for nobody, and calls off a start that has not come to running yet.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.defer import TimeoutError as DeferredTimeout

from wingsd.docker.runtime import ConsoleBlocked, Running
from wingsd.errors import Conflict, EnvironmentFailed
from wingsd.panel.schemas import Configuration
from wingsd.servers.collaborators import ServerCollaborators
from wingsd.servers.power_states import (
    Happening,
    PowerAction,
    PowerState,
    StopCommand,
    StopSignal,
    stop_way,
)
from wingsd.servers.runtime import Run, ServerRuntime

__all__ = ["PowerControl", "Subject"]

#: Seconds until an engine that was told to kill a server must have told of its end.
KILL_WITHIN = 30.0


class Subject(Protocol):
    """The server whose power it is."""

    configuration: Configuration

    def check_power(self, action: PowerAction) -> None:
        """Raise a `WingsdError` when the action may not be done now."""

    async def prepare(self) -> None:
        """Do all that comes before a start; raise a `WingsdError` when it cannot be done."""


class PowerControl:
    """The power actions of one server."""

    def __init__(self, subject: Subject, life: ServerRuntime, means: ServerCollaborators) -> None:
        self._subject = subject
        self._life = life
        self._means = means
        self._lock = DeferredLock()
        self._launching: Deferred[None] | None = None
        self._called_off = False
        #: Whether the engine has told if a program runs that this node did not see start.
        self._looked = False

    async def do(self, action: PowerAction, wait_seconds: float) -> None:
        """Run one action to its end, after waiting at most so long for another's end.

        Raises `Conflict` when that is not over in time, or the server runs already, and
        whatever preparing and the environment raise.
        """
        if action is PowerAction.KILL:
            await self._kill()
            return
        if action is PowerAction.STOP:
            self.call_off()
        elif action is PowerAction.START:
            self._check_startable(PowerState.OFFLINE, PowerState.STOPPING)
        await self._acquire(wait_seconds)
        try:
            if action is not PowerAction.START:
                await self._stop(self._means.config.system.stop_timeout)
            if action.starts:
                await self._start()
        finally:
            self._lock.release()

    async def stop_within(self, grace: float) -> None:
        """Return when the server is offline: stopped, or killed after `grace` seconds.

        Calls off a start under way, and waits for another action within the same time.
        """
        deadline = self._means.reactor.seconds() + grace
        self.call_off()
        try:
            await self._acquire(grace)
        except Conflict:
            await self._kill()
            await self._lock.acquire()
        try:
            await self._stop(grace, deadline - self._means.reactor.seconds())
        finally:
            self._lock.release()

    async def adopt(self) -> None:
        """Take up a program that runs already. Raises `EnvironmentFailed`."""
        await self._lock.acquire()
        try:
            await self._look()
        finally:
            self._lock.release()

    async def _look(self) -> None:
        if not self._looked:
            await self._life.adopt()
            self._looked = True

    def call_off(self) -> None:
        """End a start whose program does not run yet; nothing of it is left."""
        if self._launching is not None and not self._called_off:
            self._called_off = True
            self._launching.cancel()

    async def _acquire(self, seconds: float) -> None:
        try:
            await self._lock.acquire().addTimeout(seconds, self._means.reactor)
        except DeferredTimeout:
            raise Conflict(
                "another power action is under way for this server",
                "wait for it to end, or kill the server",
            ) from None

    # Starting

    def _check_startable(self, *states: PowerState) -> None:
        if self._life.state not in states:
            raise Conflict("this server is running already", "stop it first, or restart it")

    async def _start(self) -> None:
        self._subject.check_power(PowerAction.START)
        await self._look()
        self._check_startable(PowerState.OFFLINE)
        self._called_off = False
        self._launching = Deferred.fromCoroutine(self._launch())
        try:
            await self._launching
        except CancelledError:
            if not self._called_off:
                raise
            raise Conflict("the start was called off", "start the server again") from None
        finally:
            self._launching = None

    async def _launch(self) -> None:
        life = self._life
        life.console.clear()
        life.happen(Happening.START)
        try:
            await self._subject.prepare()
            # The Panel may have said something new, and somebody may have taken the server.
            self._subject.check_power(PowerAction.START)
            configuration = self._subject.configuration
            await self._means.environment.renew(configuration.settings)
            await life.launch(configuration.process.startup)
        except BaseException:
            # It may run all the same: an engine that fails may have begun.
            self._looked = False
            life.happen(Happening.END)
            raise

    # Stopping

    async def _stop(self, timeout: float, left: float | None = None) -> None:
        """Stop within `timeout` seconds, of which `left` are left; then kill."""
        await self._look()
        run = self._life.run
        if run is None or run.running is None:
            return
        left = timeout if left is None else left
        self._life.happen(Happening.STOP)
        run.asked = True
        try:
            await self._ask(run.running)
        except ConsoleBlocked as error:
            # A server that hangs is what the time is there for.
            self._life.say(str(error))
        except BaseException as error:
            # Cancelled, it may have been asked or not: its end is no crash in any case.
            self._goes_on(run, asked=isinstance(error, CancelledError))
            raise
        if await run.wait(max(left, 0)):
            return
        self._life.say(f"The server has not stopped within {timeout:g} s and is killed.")
        await self._kill()

    async def _ask(self, running: Running) -> None:
        match stop_way(self._subject.configuration.process.stop):
            case StopCommand(line):
                await running.command(line)
            case StopSignal(name):
                await running.signal(name)
            case _:
                await running.stop()

    async def _kill(self) -> None:
        if self._launching is not None:
            self.call_off()
            await self._lock.run(lambda: None)
            return
        if not self._looked:
            await self.adopt()
        run = self._life.run
        if run is None or run.running is None:
            return
        stopping, run.asked = run.asked, True
        self._life.happen(Happening.STOP)
        try:
            await run.running.kill()
        except BaseException:
            self._goes_on(run, asked=stopping)
            raise
        if not await run.wait(KILL_WITHIN):
            raise EnvironmentFailed(
                f"the engine was told to kill it, and {KILL_WITHIN:g} s later it has not ended; "
                "look at the engine, and kill it again"
            )

    def _goes_on(self, run: Run, *, asked: bool) -> None:
        if not run.over:
            run.asked = asked
            self._life.happen(Happening.GOES_ON)
