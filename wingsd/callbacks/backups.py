"""The reports about backups, and what the Panel's answers to them mean.

A Panel that refuses one has decided: it has the backup as completed already (400), or it does not
know it any more. What was made stays. A refused token, a Panel in maintenance or one that is asked
too often has decided nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType

import attrs

from wingsd.callbacks.installations import TRY_AGAIN
from wingsd.panel.client import Panel
from wingsd.panel.http_client import NodeTokenRefused, PanelRefused
from wingsd.statedb import Report, ReportKind

__all__ = ["BackupDelivery"]

#: How the path of each kind of report goes on after that of its backup.
_PATHS: Mapping[ReportKind, str] = MappingProxyType(
    {ReportKind.BACKUP: "", ReportKind.BACKUP_DELETION: "/deletion"}
)


@attrs.frozen(eq=False, repr=False)
class BackupDelivery:
    """Sends a report about a backup."""

    _panel: Panel
    _report: Report

    async def attempt(self) -> tuple[bool, str]:
        """Send it once; return whether it is accepted, and a text for the log.

        Raises the errors of the Panel after which it is sent again.
        """
        report = self._report
        path = f"/backups/{report.backup}{_PATHS[report.kind]}"
        operation = report.kind.value.replace(" ", "_")
        what = f"the {report.what} of {report.backup}"
        try:
            await self._panel.report(operation, path, json.loads(report.body))
        except NodeTokenRefused:
            raise
        except PanelRefused as error:
            if error.response_status in TRY_AGAIN:
                raise
            return False, f"the Panel refuses the report of {what}: {error.detail}"
        return True, f"{what} was reported to the Panel"
