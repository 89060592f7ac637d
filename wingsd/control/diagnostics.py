"""`/v1/diagnostics`: the diagnostics of the node, for `wingsctl diagnostics`."""

from __future__ import annotations

from http import HTTPStatus

from wingsd.api.diagnostics import DiagnosticsQuery, report_options
from wingsd.control.status import ControlEndpoint, Json
from wingsd.http.operations import Success, Topic, call
from wingsd.http.request import StreamingRequest

__all__ = ["ControlDiagnosticsEndpoint"]


class ControlDiagnosticsEndpoint(ControlEndpoint):
    """`/v1/diagnostics`."""

    topic = Topic.NODE

    @call("GET", Success(HTTPStatus.OK, "The report."))
    async def get_diagnostics(self, request: StreamingRequest, query: DiagnosticsQuery) -> Json:
        """Return the report as text."""
        return {"report": await self._node.diagnostics.report(report_options(query))}
