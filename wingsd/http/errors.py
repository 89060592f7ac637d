"""The errors of the HTTP interface, and the body of every answer with an error."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

import attrs

from wingsd.errors import WingsdError
from wingsd.http.error_codes import ERROR_CODES
from wingsd.util.serialization import Keywords

__all__ = [
    "BodyTooLarge",
    "Error",
    "HeaderTooLong",
    "InvalidHttpRequest",
    "MethodNotAllowed",
    "PathNotFound",
    "UpgradeRequired",
]


class InvalidHttpRequest(WingsdError):
    """The bytes received are not an HTTP request."""

    code = "http-request-invalid"
    status = HTTPStatus.BAD_REQUEST

    def __init__(self, message: str = "this is not a valid HTTP request") -> None:
        super().__init__(message)


class PathNotFound(WingsdError):
    """The interface has no such path."""

    code = "path-not-found"
    status = HTTPStatus.NOT_FOUND

    def __init__(self, path: str, detail: str = "") -> None:
        super().__init__(f"this node has no path {path}", detail)


class MethodNotAllowed(WingsdError):
    """The path does not have the request's method."""

    code = "method-not-allowed"
    status = HTTPStatus.METHOD_NOT_ALLOWED


class BodyTooLarge(WingsdError):
    """The request's body is longer than `limit` bytes."""

    code = "body-too-large"
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE

    def __init__(self, limit: int) -> None:
        super().__init__(
            "the request body is too large",
            f"send {limit} bytes at most; an upload goes to /api/transfers",
        )


class UpgradeRequired(WingsdError):
    """The path is a WebSocket, and the request does not ask for one."""

    code = "upgrade-required"
    status = HTTPStatus.UPGRADE_REQUIRED

    def __init__(self) -> None:
        super().__init__("this path is a WebSocket", "send the headers of RFC 6455")


class HeaderTooLong(WingsdError):
    """A line of the request's headers is too long."""

    code = "header-too-long"
    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE

    def __init__(self) -> None:
        super().__init__("a header line is too long")


@attrs.frozen(eq=False, repr=False)
class Error:
    """The body of every answer to a request that is refused or fails."""

    error: Annotated[str, "What went wrong.", Keywords(minLength=1)]
    code: Annotated[
        str,
        "The kind of error. Codes stay the same across versions; messages may change.",
        Keywords(enum=ERROR_CODES),
    ]
    request_id: Annotated[str, "The `X-Request-Id` of the answer.", Keywords(format="uuid")]
    detail: Annotated[str, "What to do, where that is not plain.", Keywords(minLength=1)] = ""
    offset: Annotated[int | None, "With `move-offset-wrong`: where to go on."] = None

    @classmethod
    def of(cls, error: WingsdError, request_id: str) -> Error:
        """Return the body that answers a request with `error`."""
        offset = getattr(error, "offset", None)
        return cls(error.message, error.code, request_id, error.detail, offset)
