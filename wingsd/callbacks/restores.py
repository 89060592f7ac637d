"""The reports of restored backups, and what the Panel's answers to them mean.

A Panel shows a server as being restored until it has this report. One that refuses it has decided:
the server or the backup is deleted, or of another node, or the state has ended otherwise.
"""

from __future__ import annotations

import attrs

from wingsd.callbacks.installations import TRY_AGAIN
from wingsd.panel.client import Panel
from wingsd.panel.http_client import NodeTokenRefused, PanelRefused
from wingsd.statedb import Outcome, Report

__all__ = ["RestoreDelivery"]


@attrs.frozen(eq=False, repr=False)
class RestoreDelivery:
    """Sends the report that a backup was restored, or was not."""

    _panel: Panel
    _report: Report

    async def attempt(self) -> tuple[bool, str]:
        """Send it once; return whether it is accepted, and a text for the log.

        Raises the errors of the Panel after which it is sent again.
        """
        report = self._report
        (backup,) = report.backups or ("",)
        successful = report.outcome is Outcome.SUCCESS
        try:
            await self._panel.restored(backup, report.server, successful=successful)
        except NodeTokenRefused:
            raise
        except PanelRefused as error:
            if error.response_status in TRY_AGAIN:
                raise
            return False, f"the Panel refuses the report on restoring {backup}: {error.detail}"
        how = "restored" if successful else "not restored"
        return True, f"the Panel knows that the backup {backup} was {how}"
