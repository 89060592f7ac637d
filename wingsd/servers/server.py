"""One server of this node: what the Panel says of it, what it does, and what is done to it."""

from __future__ import annotations

from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from wingsd.docker.runtime import Usage
from wingsd.errors import BadRequest, Conflict, EnvironmentFailed, ServerNotRunning, WingsdError
from wingsd.panel.schemas import Configuration
from wingsd.servers.collaborators import ServerCollaborators
from wingsd.servers.console import Console
from wingsd.servers.power import PowerControl
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.servers.pre_start import Rewriting
from wingsd.servers.runtime import ServerDetails, ServerRuntime
from wingsd.servers.storage import DiskUsage, ServerDirectories, Tasks

__all__ = ["Server"]

#: Seconds after which a measured disk usage is old; Wings' figure.
DISK_AGE = 150.0
#: The same where somebody asks for it: so many times what the measuring took, waiting for its turn
#: included, and at least so many seconds. A node that is busy measuring thus measures less often.
ASKED_AGE_FACTOR = 1000.0
LEAST_ASKED_AGE = 15.0
#: Seconds that a server may take to stop when it is suspended; Wings' figure.
SUSPENSION_GRACE = 60.0

_ENDING = (PowerAction.STOP, PowerAction.KILL)


class Server:
    """A server. `configuration` is the Panel's word as last fetched; `directory` has its files."""

    _log = Logger()

    def __init__(
        self,
        configuration: Configuration,
        directories: ServerDirectories,
        means: ServerCollaborators,
        tasks: Tasks,
        disk_usage: DiskUsage,
    ) -> None:
        self.uuid = configuration.settings.uuid
        self.configuration = configuration
        self.directory = directories.path(self.uuid)
        #: Why it may not be started now; empty when it may.
        self.hold = ""
        #: Whether the Panel has it elsewhere, or may have: what is here is only what is left.
        self.disowned = False
        #: Whether people moved it here, and the Panel has not said yet that it is this node's.
        #: As long as that is so, its settings are those that came with it.
        self.by_hand = False
        #: Whether its directory is where it belongs: of a server that is created or received it is
        #: not yet.
        self.has_directory = True
        self._directories = directories
        self._means = means
        self._tasks = tasks
        self._disk_usage = disk_usage
        self._measured_at = float("-inf")
        #: The seconds that the last measuring took; infinite while it has not ended.
        self._measuring_took = float("inf")
        self._closed = False
        self._life = ServerRuntime(self.uuid, means, self.measure, self.renew_measure)
        self._power = PowerControl(self, self._life, means)
        self._rewriting = Rewriting(means, self.directory)

    # What it is

    @property
    def state(self) -> PowerState:
        """What its program is doing."""
        return self._life.state

    @property
    def suspended(self) -> bool:
        """Whether the Panel has suspended it."""
        return self.configuration.settings.suspended

    @property
    def console(self) -> Console:
        """The last lines of this run."""
        return self._life.console

    @property
    def usage(self) -> Usage:
        """What it uses, as last told; nothing when it is offline."""
        return self._life.usage

    @property
    def disk_bytes(self) -> int | None:
        """What its files use, as last measured; None before that was done once."""
        return self._life.disk_bytes

    def details(self) -> ServerDetails:
        """Return what `GET /api/servers/{uuid}` answers; measure its files again for the next."""
        self._renew_asked_measure()
        return ServerDetails(
            state=self.state,
            is_suspended=self.suspended,
            utilization=self._life.utilization(),
            configuration=self.configuration.raw,
        )

    def stats(self) -> str:
        """Return the text of a `stats` event, which is JSON; measure its files for the next."""
        self._renew_asked_measure()
        return self._life.stats()

    async def logs(self, lines: int) -> list[str]:
        """Return the last lines of the console.

        The engine is asked where this node has not seen them; what it does not tell is logged.
        """
        seen = self.console.lines(lines)
        if seen and (len(seen) >= lines or not self._life.joined_late):
            return seen
        try:
            return await self._means.environment.logs(self.uuid, lines) or seen
        except EnvironmentFailed as error:
            self._log.warn(
                "{server}: its old console lines cannot be read: {error}",
                server=self.uuid,
                error=error,
            )
            return seen

    def publish(self, event: str, *args: str) -> None:
        """Tell an event of this server."""
        self._life.publish(event, *args)

    def say(self, message: str, *, keep: bool = False) -> None:
        """Tell people something of the node's own, in the console and in the log.

        With `keep`, those who open the console later see it too, until the next start.
        """
        self._life.say(message, keep=keep)

    # Who has it

    def take(self, why: str) -> None:
        """Let nobody start it any more. Raises `Conflict` when it is held already."""
        if self.hold:
            raise Conflict(self.hold, "try again when that is over")
        self.hold = why

    def let_go(self) -> None:
        """Let it be started again."""
        self.hold = ""
        self.disowned = False

    def disown(self, why: str) -> None:
        """Hold it for good: it is for the Panel to have it deleted, or sent here once more."""
        self.hold = why
        self.disowned = True

    # What is done to it

    def check_power(self, action: PowerAction) -> None:
        """Raise `BadRequest` or `Conflict` where the action cannot be done as things are."""
        if action.starts and self.suspended:
            raise BadRequest("Cannot start or restart a server that is suspended.")
        ending = action in _ENDING and self.state is not PowerState.OFFLINE
        if self.hold and not ending:
            raise Conflict(self.hold, "try again when that is over")

    async def power(self, action: PowerAction, wait_seconds: float = 30) -> None:
        """Run one power action to its end, after waiting so long for another's.

        Raises `BadRequest`, `Conflict`, `EnvironmentFailed`, and whatever a Panel that is asked
        for the settings raises; each failure is also told in the console and logged.
        """
        try:
            self.check_power(action)
            await self._power.do(action, wait_seconds)
        except WingsdError as error:
            self.say(f"The {action.value} was not done: {error}")
            raise
        except CancelledError:
            raise
        except Exception:
            self._log.failure("{server}: {action}", server=self.uuid, action=action.value)
            self.say(f"The {action.value} failed unforeseen; the node's log has more.")
            raise

    async def stop_within(self, grace: float) -> None:
        """Return when it is offline: stopped by its own way, or killed after `grace` seconds.

        Raises `EnvironmentFailed`. Cancelled, it asks for nothing more: what has been asked for
        goes on.
        """
        await self._power.stop_within(grace)

    async def command(self, line: str) -> None:
        """Type a line into the console. Raises `ServerNotRunning`, `EnvironmentFailed`."""
        run = self._life.run
        if run is None or run.running is None:
            raise ServerNotRunning("Cannot send commands to a stopped server instance.")
        stop = self.configuration.process.stop
        if stop.type == "command" and line.strip() == stop.value.strip():
            run.asked = True
        await run.running.command(line)

    async def sync(self) -> None:
        """Fetch the settings anew; one that became suspended is stopped, in the background.

        Raises `ServerNotFound`, `PanelRefused`, `PanelUnreachable`.
        """
        if self.by_hand:
            self.by_hand = not await self._means.panel.owns(self.uuid)
        await self._fetch()
        self.stop_if_suspended()

    def stop_if_suspended(self) -> None:
        """Stop it in the background, where it runs and is suspended."""
        if self.suspended and self.state is not PowerState.OFFLINE:
            self.say("The server is suspended and is stopped.")
            self._tasks.start(
                "stopping it, since it is suspended",
                self._power.stop_within(SUSPENSION_GRACE),
                self.uuid,
            )

    async def _fetch(self) -> None:
        if not self.by_hand:
            self.configuration = await self._means.panel.describe(self.uuid)

    async def prepare(self) -> None:
        """Do what comes before every start: fresh settings, the egg's files.

        Raises what `sync` raises, and `StorageError` where its directory is still to be made.
        """
        await self._fetch()
        self.check_power(PowerAction.START)
        if not self.has_directory:
            await self.make_directory()
        for line in await self._rewriting.run(self.configuration):
            self.say(line)

    # What the registry does with it

    async def adopt(self) -> None:
        """Watch its program if it runs already. Raises `EnvironmentFailed`."""
        await self._power.adopt()
        self.stop_if_suspended()

    async def make_directory(self) -> None:
        """Make its directory; one that is there is kept. Raises `StorageError`."""
        await self._means.disk.run(self._directories.make, self.uuid)
        self.has_directory = True
        self.measure()

    def take_directory(self, size: int | None) -> None:
        """Its directory has come to where it belongs, with files of `size` bytes, if known."""
        self.has_directory = True
        if size is None:
            self.measure()
        else:
            self._measured_at = self._means.reactor.seconds()
            self._take_measure(size)  # It took no time.

    def measure(self) -> None:
        """Have its files measured in the background, once they are where they belong."""
        if self._closed or not self.has_directory:
            return
        self._measured_at, self._measuring_took = self._means.reactor.seconds(), float("inf")
        self._disk_usage.ask(self.uuid, self.directory, self._take_measure)

    def renew_measure(self, age: float = DISK_AGE) -> None:
        """Have its files measured again if the last time is more than `age` seconds ago."""
        if self._means.reactor.seconds() - self._measured_at > age:
            self.measure()

    def _renew_asked_measure(self) -> None:
        age = max(self._measuring_took * ASKED_AGE_FACTOR, LEAST_ASKED_AGE)
        self.renew_measure(min(age, DISK_AGE))

    def _take_measure(self, size: int) -> None:
        self._measuring_took = self._means.reactor.seconds() - self._measured_at
        self._life.disk_bytes = size

    async def remove_environment(self) -> None:
        """Remove what it runs in; that kills it. Raises `EnvironmentFailed`."""
        self._power.call_off()
        if self._life.run is not None:
            self._life.run.asked = True
        # Its files go next: there is nothing to measure after this end.
        self._closed = True
        try:
            await self._means.environment.remove(self.uuid)
        except BaseException:
            self._closed = False
            raise

    async def restore_environment(self) -> None:
        """Make again what it ran in, which was removed for nothing.

        Where that fails it is only logged: it is made anew before every start in any case.
        """
        try:
            await self._means.environment.create(self.configuration.settings)
        except EnvironmentFailed as error:
            self._log.warn(
                "{server}: its container was not made again, its next start does it: {error}",
                server=self.uuid,
                error=error,
            )

    def detach(self) -> None:
        """Hear nothing more of its program, which goes on."""
        self._life.detach()

    def close(self) -> None:
        """The node does not have it any more."""
        self._closed = True
        self._disk_usage.forget(self.uuid)
        self.detach()
