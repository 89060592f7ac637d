"""What the node reports to the Panel by itself: the activity log, and the states of servers."""

from __future__ import annotations

import attrs

from wingsd.activity import ActivityLog, ActivitySender
from wingsd.callbacks.container_status import ContainerStatuses
from wingsd.servers import Servers

__all__ = ["PanelReports"]


@attrs.frozen(eq=False, repr=False)
class PanelReports:
    """The activity log and its sender; the states of servers, None where no Panel takes them."""

    activity: ActivityLog
    sender: ActivitySender
    statuses: ContainerStatuses | None

    async def load(self) -> None:
        """Begin to send the activity log, with what an earlier daemon could not send."""
        await self.activity.load()
        self.sender.start()

    def report_states(self, servers: Servers) -> None:
        """Report the state of each server."""
        if self.statuses is not None and servers.loaded:
            self.statuses.start([(each.uuid, each.state.value) for each in servers.all()])

    async def stop(self, within: float) -> None:
        """Send nothing more, and wait so many seconds for the answer of a call under way."""
        if self.statuses is not None:
            self.statuses.stop()
        await self.sender.stop(within)
