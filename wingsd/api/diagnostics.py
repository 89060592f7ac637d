"""`/api/diagnostics`: the diagnostics of the node, as text."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

import attrs

from wingsd.api.resource import Endpoint
from wingsd.errors import BadRequest
from wingsd.http.operations import PlainText, Success, Topic, call
from wingsd.http.request import StreamingRequest
from wingsd.node.diagnostics import ReportOptions
from wingsd.node.logs import MAX_LINES

__all__ = ["DiagnosticsEndpoint", "DiagnosticsQuery", "report_options"]

# PHP sends a boolean as a digit.
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


@attrs.frozen(eq=False, repr=False)
class DiagnosticsQuery:
    """What the report has. Strings, so that the handler words the error."""

    include_endpoints: Annotated[str, "`true` to show hosts and addresses."] = "false"
    include_logs: Annotated[str, "`false` to leave out the log."] = "true"
    log_lines: Annotated[str, f"The lines of the log; {MAX_LINES} at most."] = "200"


def report_options(query: DiagnosticsQuery) -> ReportOptions:
    """Return the options that a query asks for. Raises `BadRequest`."""
    endpoints = _boolean("include_endpoints", query.include_endpoints)
    logs = _boolean("include_logs", query.include_logs)
    if not (query.log_lines.isascii() and query.log_lines.isdigit()):
        raise BadRequest("log_lines must be a whole number", f"0 to {MAX_LINES} lines")
    # The digits are bounded before the number is made.
    lines = min(int(query.log_lines[:9]), MAX_LINES)
    return ReportOptions(endpoints, lines if logs else None)


def _boolean(name: str, text: str) -> bool:
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise BadRequest(f"{name} must be true or false") from None


class DiagnosticsEndpoint(Endpoint):
    """`/api/diagnostics`."""

    topic = Topic.NODE

    @call("GET", Success(HTTPStatus.OK, "The report."), fails=(HTTPStatus.BAD_REQUEST,))
    async def get_diagnostics(
        self, request: StreamingRequest, query: DiagnosticsQuery
    ) -> PlainText:
        """Return versions, configuration, Docker's state and the last lines of the log, as text.

        Secrets are left out in any case, hosts and addresses unless they are asked for.
        """
        return PlainText(await self._node.diagnostics.report(report_options(query)))
