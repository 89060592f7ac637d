"""Every path of this node in one table, which is both what is served and what is described."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from http import HTTPStatus
from typing import Any

from wingsd.api import direct_transfers as byhand
from wingsd.api import server_actions as controls
from wingsd.api import servers, system, transfers
from wingsd.api.resource import Public, Services
from wingsd.http.answers import EncodedObject, to_json
from wingsd.http.openapi import document
from wingsd.http.operations import Success, Topic, call
from wingsd.http.request import StreamingRequest
from wingsd.http.site import Paths

__all__ = ["PATHS", "ApiRoot", "interface"]


class InterfaceEndpoint(Public):
    """`/openapi.json`: open to everybody.

    It is the same on every node of a version, and says nothing of this one. Tools that read such
    documents have no token of the node's, and should have none.
    """

    topic = Topic.NODE

    @call("GET", Success(HTTPStatus.OK, "This document."))
    async def get_interface(self, request: StreamingRequest) -> EncodedObject:
        """Describe all that can be called here, as OpenAPI 3.1 does."""
        return _encoded_interface()


PATHS: Mapping[str, type[Public]] = {
    "/api/system": system.SystemEndpoint,
    "/api/servers": servers.ServersEndpoint,
    "/api/servers/{uuid}": servers.ServerEndpoint,
    "/api/servers/{uuid}/power": controls.PowerEndpoint,
    "/api/servers/{uuid}/commands": controls.CommandsEndpoint,
    "/api/servers/{uuid}/logs": controls.LogsEndpoint,
    "/api/servers/{uuid}/sync": controls.SyncEndpoint,
    "/api/servers/{uuid}/transfer": transfers.OutgoingEndpoint,
    "/api/servers/{uuid}/ws": controls.SocketEndpoint,
    "/api/servers/{uuid}/ws/deny": controls.DenyEndpoint,
    "/api/transfers": transfers.TransfersEndpoint,
    "/api/transfers/{uuid}": transfers.IncomingEndpoint,
    "/api/transfers/{uuid}/by-hand": byhand.ByHandEndpoint,
    "/openapi.json": InterfaceEndpoint,
}


@cache
def interface() -> dict[str, Any]:
    """Return the description of all paths, in the form of OpenAPI 3.1."""
    return document({path: endpoint.calls for path, endpoint in PATHS.items()})


@cache
def _encoded_interface() -> EncodedObject:
    # Made once: it takes milliseconds, and everybody may ask for it.
    return EncodedObject(to_json(interface()))


class ApiRoot(Paths[Services]):
    """What is found below the root of the site."""

    def __init__(self, services: Services) -> None:
        super().__init__(PATHS, services)
