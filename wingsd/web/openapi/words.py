"""What the document says that is not of one call: of all of them, of tokens, of failures. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import attrs

from wingsd.web.calls import Access

__all__ = ["FAILURES", "HEADERS", "INFO", "PARAMETERS", "SCHEMES", "Failure"]

#: The version is that of the interface: which release of wingsd a node runs is told to those who
#: have its token.
INFO: Mapping[str, Any] = {
    "title": "wingsd",
    "version": "1",
    "summary": "A game server node daemon for Pterodactyl and Pelican Panels.",
    "description": (
        "Paths, bodies and answers are those that Panels and other nodes count on. Every error is "
        "JSON with an `error`, and where that does not tell what to do, a `detail`. Any path may "
        "answer 400 to what is not HTTP, 413 to a body over 1 MiB (an upload may be of any size), "
        "431 to a header line over 16 KiB, and 503 while the node goes down. OPTIONS is answered "
        "everywhere, with `Allow`. Null is the same as nothing; names that are not known are not "
        "looked at. Every answer has `X-Request-Id`, a UUID that names it in the node's log."
    ),
    "license": {"name": "MIT", "identifier": "MIT"},
}

SCHEMES: Mapping[Access, Mapping[str, str]] = {
    Access.PANEL: {
        "type": "http",
        "scheme": "bearer",
        "description": "The node's own `token`, which its Panel knows.",
    },
    Access.TRANSFER: {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "Issued by the Panel for the transfer of one server to this node.",
    },
    Access.HAND: {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "Issued by this node for moving one server here by hand.",
    },
}

#: The parts of paths that are not the same in every request.
PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "uuid": {"description": "The server's.", "schema": {"type": "string", "format": "uuid"}},
}


#: The headers of every failure, by the names that the document refers to them by.
HEADERS: Mapping[str, Mapping[str, Any]] = {
    "X-Request-Id": {
        "description": "Names the request in the node's log.",
        "required": True,
        "schema": {"type": "string", "format": "uuid"},
    },
}


@attrs.frozen
class Failure:
    """A kind of refusal: its name, what it means, and headers that come with it."""

    name: str
    meaning: str
    headers: Mapping[str, str] = attrs.field(factory=dict)


FAILURES: Mapping[HTTPStatus, Failure] = {
    HTTPStatus.BAD_REQUEST: Failure(
        "BadRequest", "It is not of the form it should have, or cannot be done to this server."
    ),
    HTTPStatus.UNAUTHORIZED: Failure(
        "NotAuthorized",
        "There is no token, or none that is good.",
        {"WWW-Authenticate": "`Bearer`."},
    ),
    HTTPStatus.FORBIDDEN: Failure(
        "Forbidden", "It is not the token, or not the web page, that this needs."
    ),
    HTTPStatus.NOT_FOUND: Failure("NotFound", "There is no such server or transfer here."),
    HTTPStatus.CONFLICT: Failure(
        "Conflict", "It does not go together with what the server is doing."
    ),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: Failure("TooLarge", "The body is over 1 MiB."),
    HTTPStatus.UNPROCESSABLE_ENTITY: Failure("Unprocessable", "One of the values makes no sense."),
    HTTPStatus.UPGRADE_REQUIRED: Failure(
        "UpgradeRequired", "The headers of RFC 6455 are missing.", {"Upgrade": "`websocket`."}
    ),
    HTTPStatus.INTERNAL_SERVER_ERROR: Failure(
        "Failed", "The node could not do it; its log tells more."
    ),
    HTTPStatus.BAD_GATEWAY: Failure("NotRunning", "The server does not run."),
    HTTPStatus.SERVICE_UNAVAILABLE: Failure(
        "Unavailable",
        "The Panel cannot be reached, or has not told yet which servers there are; or the node is "
        "going down, or takes no more transfers for now.",
        {"Retry-After": "Seconds, where it is known."},
    ),
}
