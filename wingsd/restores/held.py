"""The server that a restore or a rewind holds: stopped for it, and started again at its end."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from wingsd.errors import ServerBusy, WingsdError
from wingsd.servers.operations import Operation
from wingsd.servers.power_states import PowerState
from wingsd.servers.running import SENT, start_when_possible
from wingsd.servers.server import Server
from wingsd.transfers.cancellation import CancelScope
from wingsd.util.deferreds import when_fired

if TYPE_CHECKING:
    from wingsd.restores.manager import Restore, Restores
    from wingsd.restores.rewinding import Rewind

#: Seconds that a running server may take to stop; Wings' figure.
STOP_WITHIN = 120.0


@attrs.define(eq=False, repr=False)
class HeldServer:
    """A server that is held by `Operation.RESTORE`.

    `record_start` records that it is to be started at the end, for a restart of the daemon until
    then. `ended` says in messages when that is, such as "its backup is restored". `restores` are
    those of the node.
    """

    server: Server
    _record_start: Callable[[str], Deferred[None]]
    _ended: str
    _restores: Restores
    scope: CancelScope = attrs.field(factory=CancelScope)
    #: Whether it is started at the end.
    was_stopped: bool = False
    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self.server.restart_later = self._restart_later

    async def stop(self, why: str) -> bool:
        """Stop it if it runs, and say why; return False when it does not stop in time.

        Raises the reason of a cancel, and `EnvironmentFailed`.
        """
        server, scope = self.server, self.scope
        scope.check()
        if server.state is PowerState.OFFLINE:
            # An engine that has not answered yet may have it running.
            await scope.wait(Deferred.fromCoroutine(server.adopt()))
        if server.state is PowerState.OFFLINE:
            return True
        await self._record_start(server.uuid)
        self.was_stopped = True
        server.say(why)
        stopping = Deferred.fromCoroutine(server.stop_within(STOP_WITHIN, kills=False))
        return await scope.wait(stopping)

    def _restart_later(self) -> None:
        """Start the server, which has crashed, at the end."""
        self.was_stopped = True
        self.server.say(f"The server is started again when {self._ended}.")
        noting = self._record_start(self.server.uuid)
        noting.addErrback(
            lambda failure: self._log.error(
                "{server}: cannot record that it is started when {ended}: {error}",
                server=self.server.uuid,
                ended=self._ended,
                error=failure.value,
            )
        )

    def release(self) -> None:
        """End the hold.

        A transfer may take it before `start`, and starts it then where it ends.
        """
        server = self.server
        is_due = self.was_stopped and not isinstance(self.scope.reason, ServerBusy)
        server.starts_if_it_stays = is_due and server.state is PowerState.OFFLINE
        server.operations.release(Operation.RESTORE)
        server.restart_later = None

    async def start(self) -> None:
        """Start it again if it was stopped, unless somebody was faster.

        Until this has returned, a restarted daemon would start it.
        """
        server = self.server
        if not self.was_stopped:
            return
        if server.starts_if_it_stays and server.state is PowerState.OFFLINE:
            try:
                await start_when_possible(server, self._restores.reactor)
            except WingsdError:  # It is shown in the console, and logged.
                if server.operations.runs(*SENT):
                    await self._restores.running.leave_to_transfer(server)
                    return
        server.starts_if_it_stays = False
        await self._restores.database.end_start(server.uuid)


async def cancelled(works: Collection[Restore | Rewind], reason: WingsdError) -> None:
    """Cancel restores or rewinds; return when nothing more is done with the servers' files."""
    over = [when_fired(each.over) for each in works]
    for each in works:
        each.cancel(reason)
    await DeferredList(over)
