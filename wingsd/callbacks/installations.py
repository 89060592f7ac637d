"""The reports of installations' ends, and what the Panel's answers to them mean.

A Panel that refuses the report of one server has decided: it has deleted the server, or assigned
it to another node. A refused token, a Panel in maintenance or one that is asked too often has
decided nothing.
"""

from __future__ import annotations

from http import HTTPStatus

import attrs

from wingsd.panel.client import Panel
from wingsd.panel.http_client import NodeTokenRefused, PanelRefused
from wingsd.statedb import Outcome, Report, ReportKind

__all__ = ["TRY_AGAIN", "InstallDelivery"]

#: Answers by which a Panel has decided nothing.
TRY_AGAIN = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)


@attrs.frozen(eq=False, repr=False)
class InstallDelivery:
    """Sends the report of an installation's end."""

    _panel: Panel
    _report: Report

    async def attempt(self) -> tuple[bool, str]:
        """Send it once; return whether it is accepted, and a text for the log.

        Raises the errors of the Panel after which it is sent again.
        """
        report = self._report
        successful = report.outcome is Outcome.SUCCESS
        reinstall = report.kind is ReportKind.REINSTALL
        try:
            await self._panel.installed(report.server, successful=successful, reinstall=reinstall)
        except NodeTokenRefused:
            raise
        except PanelRefused as error:
            if error.response_status in TRY_AGAIN:
                raise
            return False, f"the Panel refuses the report of its installation: {error.detail}"
        how = "success" if successful else "failure"
        return True, f"the {how} of its installation was reported to the Panel"
