"""`/api/servers/{uuid}/files/operations`: the changes of files that are under way."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

import attrs

from wingsd.api.file_changes import ChangePath
from wingsd.errors import FileTaskMissing
from wingsd.http.operations import Success, call
from wingsd.http.request import StreamingRequest
from wingsd.servers.operations import Operation

__all__ = ["FileTaskEndpoint", "FileTasksEndpoint"]


@attrs.frozen(eq=False, repr=False)
class FileTaskList:
    """The changes under way."""

    operations: Annotated[
        list[dict[str, Any]],
        "Each as in the event `operation progress`, with its `identifier`.",
    ]


class FileTasksEndpoint(ChangePath):
    """`/api/servers/{uuid}/files/operations`."""

    operation = Operation.READ_FILES

    @call("GET", Success(HTTPStatus.OK, "The changes."))
    async def list_file_operations(self, request: StreamingRequest) -> FileTaskList:
        """Return the copies and archives of a server that are being made."""
        return FileTaskList(
            [
                {"identifier": task.identifier, **task.data()}
                for task in self._node.file_tasks.of(self.game_server.uuid)
            ]
        )


class FileTaskEndpoint(ChangePath):
    """`/api/servers/{uuid}/files/operations/{operation}`."""

    operation = Operation.READ_FILES

    @call(
        "DELETE",
        Success(HTTPStatus.NO_CONTENT, "It ends soon."),
        fails=(HTTPStatus.NOT_FOUND,),
    )
    async def cancel_file_operation(self, request: StreamingRequest) -> None:
        """Cancel a change of files. Nothing is left of a copy or an archive."""
        identifier = self.part("operation")
        if not self._node.file_tasks.cancel(self.game_server.uuid, identifier):
            raise FileTaskMissing
