"""`POST /api/update`: the node's settings, as its Panel sends them when they are saved there."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

import attrs

from wingsd.api.resource import Endpoint
from wingsd.config_file.panel_settings import NodeSettings
from wingsd.errors import BodyTooLarge
from wingsd.http.operations import Call, Success, Topic, call
from wingsd.http.request import StreamingRequest
from wingsd.util.media import decode
from wingsd.util.serialization import unknown_keys

__all__ = ["MAX_SETTINGS", "UpdateEndpoint"]

#: Bytes of a node's settings; those of a Panel are some KiB. To change a file of YAML takes 0.3 ms
#: for each value of a list.
MAX_SETTINGS = 64 << 10


@attrs.frozen(eq=False, repr=False)
class Update:
    """Whether this node takes over settings from its Panel."""

    applied: Annotated[bool, "False where `ignore_panel_config_updates` is true."]
    restart: Annotated[
        list[str] | None, "Changed keys whose values are used from the next restart on."
    ] = None


class UpdateEndpoint(Endpoint):
    """`/api/update`."""

    topic = Topic.NODE

    async def handle(self, request: StreamingRequest, call: Call) -> None:
        """Run the call, and put the settings in force when it is answered.

        Panels compare the answer with the node's old `token_id`. Raises `Unauthorized`,
        `Forbidden`.
        """
        await super().handle(request, call)
        self._node.updates.apply()

    @call(
        "POST",
        Success(HTTPStatus.OK, "The settings are saved, unless `applied` is false."),
        fails=(
            HTTPStatus.CONFLICT,
            HTTPStatus.UNPROCESSABLE_ENTITY,
            HTTPStatus.INTERNAL_SERVER_ERROR,
        ),
    )
    async def update_settings(self, request: StreamingRequest, body: NodeSettings) -> Update:
        """Save the node's settings in its configuration file, and put them in force.

        Directories and all other keys that are not described here are not taken over, and named in
        the log. Nodes of Calagopus take over `app_name`, `allowed_origins`,
        `allow_cors_private_network` and `ignore_panel_config_updates`, the others `uuid`,
        `token_id`, `token`, `remote` and `allowed_mounts`. Of `api.ssl`, paths below
        `/etc/letsencrypt/live/` do not replace the node's own. The log and the answer
        name the changes that need a restart. When a value is invalid nothing is changed.
        """
        content = request.content.getvalue()
        if len(content) > MAX_SETTINGS:
            raise BodyTooLarge(MAX_SETTINGS)
        sent = decode(content, request.media)
        waiting = await self._node.updates.save(body, unknown_keys(sent, NodeSettings))
        return Update(applied=waiting is not None, restart=list(waiting or ()) or None)
