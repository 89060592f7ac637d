"""`/v1/diagnostics`: the diagnostics of the node, for `wingsctl diagnostics`."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from wingsd.api.diagnostics import DiagnosticsQuery, report_options
from wingsd.config import Config
from wingsd.control.status import ControlEndpoint, Json
from wingsd.http.operations import Success, Topic, call
from wingsd.http.request import StreamingRequest
from wingsd.node.diagnostics import Diagnostics

__all__ = ["ControlDiagnosticsEndpoint"]


class ControlDiagnosticsEndpoint(ControlEndpoint):
    """`/v1/diagnostics`."""

    topic = Topic.NODE

    def __init__(
        self, config: Config, diagnostics: Diagnostics, parts: Mapping[str, bytes] = {}
    ) -> None:
        super().__init__(config, parts)
        self._diagnostics = diagnostics

    @call("GET", Success(HTTPStatus.OK, "The report."))
    async def get_diagnostics(self, request: StreamingRequest, query: DiagnosticsQuery) -> Json:
        """Return the report as text."""
        return {"report": await self._diagnostics.report(report_options(query))}
