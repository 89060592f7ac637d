"""The logs of the node: the files in `system.log_directory`, and the daemon's own."""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated

import attrs

from wingsd.api.resource import Endpoint
from wingsd.errors import BadRequest, LogFileNotFound
from wingsd.http.operations import PlainText, Success, Topic, call
from wingsd.http.request import StreamingRequest
from wingsd.node.logs import MAX_LINES, LogUnavailable, StoredLog, read_log, stored_logs
from wingsd.node.redaction import Redaction

__all__ = ["LogFileEndpoint", "LogFilesEndpoint"]

#: The name under which the daemon's own log is listed, wherever it is written.
OWN_LOG = "wingsd.log"
#: Lines of a file in an answer at most.
MOST_LINES = 10_000


@attrs.frozen
class LogFiles:
    """The log files, the oldest first."""

    log_files: list[StoredLog]


class LogsEndpointBase(Endpoint):
    """A path about the node's logs."""

    topic = Topic.NODE

    @property
    def directory(self) -> str:
        """The directory of the log files."""
        return self._config.system.log_directory


class LogFilesEndpoint(LogsEndpointBase):
    """`/api/system/logs`."""

    @call(
        "GET",
        Success(HTTPStatus.OK, "The log files."),
        fails=(HTTPStatus.INTERNAL_SERVER_ERROR,),
    )
    async def list_log_files(self, request: StreamingRequest) -> LogFiles:
        """List the log files of the node.

        `wingsd.log` is the daemon's own log, also where it is in systemd's journal; its size is 0
        then.
        """
        found = await self._node.disk.run(stored_logs, self.directory)
        if self._node.own_log.source is not None and OWN_LOG not in [each.name for each in found]:
            found.append(StoredLog.written_at(OWN_LOG, 0, time.time()))
        return LogFiles(found)


@attrs.frozen
class LogFileQuery:
    """How many lines to return. A string, so that the handler words the error."""

    lines: Annotated[str, f"The number of last lines; {MOST_LINES} at most, and by default."] = ""


class LogFileEndpoint(LogsEndpointBase):
    """`/api/system/logs/{file}`."""

    @call(
        "GET",
        Success(HTTPStatus.OK, "The lines."),
        fails=(HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND),
    )
    async def get_log_file(self, request: StreamingRequest, query: LogFileQuery) -> PlainText:
        """Return the last lines of a log file as text, without the node's secrets.

        They are of the last MiB; of a compressed file, of its first 64 MiB.
        """
        name, lines = self._parts["file"].decode("utf-8", "surrogateescape"), _lines(query.lines)
        try:
            found = await self._node.disk.run(self._redacted, lambda: self._read(name, lines))
        except LogFileNotFound:
            if name != OWN_LOG or self._node.own_log.source is None:
                raise
            found = await self._own(lines)
        return PlainText("".join(f"{line}\n" for line in found))

    def _read(self, name: str, lines: int) -> list[str]:
        return read_log(self.directory, name, lines)

    def _redacted(self, read: Callable[[], list[str]]) -> list[str]:
        redaction = Redaction(attrs.asdict(self._config), endpoints=True)
        return [redaction.text(line) for line in read()]

    async def _own(self, lines: int) -> list[str]:
        try:
            found = await self._node.own_log.last(min(lines, MAX_LINES))
        except LogUnavailable as error:
            raise BadRequest("the log of this node cannot be read back", str(error)) from error
        return await self._node.disk.run(self._redacted, lambda: found)


def _lines(text: str) -> int:
    if not text:
        return MOST_LINES
    if not (text.isascii() and text.isdigit()):
        raise BadRequest("lines must be a whole number", f"0 to {MOST_LINES}")
    return min(int(text[:9]), MOST_LINES)
