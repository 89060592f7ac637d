"""Every way a request can be refused or a transfer fail, as one tree.

Each error carries the HTTP status a client gets, the words it reads, and where the words alone
do not tell a person what to do, a detail that does. The documented words of
`POST /api/transfers` stand here and nowhere else.
"""

from __future__ import annotations

__all__ = [
    "ERROR_CODES",
    "BadRequest",
    "ConfigError",
    "Conflict",
    "DaemonStopping",
    "EnvironmentFailed",
    "Forbidden",
    "InvalidData",
    "ServerAlreadyExists",
    "ServerBusy",
    "ServerNotFound",
    "ServerNotRunning",
    "ServersNotLoaded",
    "StorageError",
    "TransferCancelled",
    "Unauthorized",
    "Unprocessable",
    "WingsdError",
    "error_code",
]


class InvalidData(ValueError):
    """Data from outside (a file, the Panel) that is not of the form it should have.

    Its text has one line per fault: the path of the key, what was expected, what was found.
    """

    code = "invalid-data"


class ConfigError(Exception):
    """The configuration cannot be used; the text tells the file, the key and what it expects."""

    code = "invalid-configuration"


class WingsdError(Exception):
    """A failure with an answer: an HTTP status, words for the client, and optionally a detail.

    `message` is what the client reads as `error`; `detail` (may be empty) tells what to do;
    `retry_after` is the seconds to wait before another attempt, 0 where there is no telling.
    """

    code = "internal-error"
    status = 500
    retry_after: float = 0.0

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message, detail)
        self.message = message
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.message}: {self.detail}" if self.detail else self.message

    def add_context(self, subject: str) -> None:
        """Begin the detail with the one of several things that the error is about."""
        self.detail = f"{subject}: {self.detail}" if self.detail else subject


def error_code(error: BaseException) -> str:
    """Return the code of an error; any but a `WingsdError` is an internal one."""
    return error.code if isinstance(error, WingsdError) else WingsdError.code


class Unauthorized(WingsdError):
    """The token is missing or no good (401)."""

    code = "unauthorized"
    status = 401


class Forbidden(WingsdError):
    """There is a token, but it is not the one that this needs (403)."""

    code = "forbidden"
    status = 403


class ServerNotFound(WingsdError):
    """The Panel does not know the server, or not for this node (404)."""

    code = "server-not-found"
    status = 404


class ServersNotLoaded(WingsdError):
    """The node does not know its servers yet: the Panel has not told it (503)."""

    code = "servers-not-loaded"
    status = 503

    def __init__(self) -> None:
        super().__init__(
            "this node has not loaded its servers yet",
            "it goes on asking the Panel for them; try again in a minute",
        )


class Unprocessable(WingsdError):
    """The request is understood, but one of its values makes no sense (422)."""

    code = "unprocessable"
    status = 422


class ServerNotRunning(WingsdError):
    """The server must run for this, and does not (502, Wings' own answer)."""

    code = "server-not-running"
    status = 502


class Conflict(WingsdError):
    """What is asked for does not go together with what the server is doing (409)."""

    code = "conflict"
    status = 409


class ServerAlreadyExists(Conflict):
    """The server is on this node or being received right now (409)."""

    code = "server-already-exists"


class ServerBusy(Conflict):
    """Something else is being done with the server, or prevents its start (409)."""

    code = "server-busy"


class TransferCancelled(Conflict):
    """Somebody cancelled the transfer (409)."""

    code = "transfer-cancelled"

    def __init__(self) -> None:
        super().__init__("the transfer was cancelled", "start it again")


class BadRequest(WingsdError):
    """The request is not of the form it should have (400)."""

    code = "bad-request"
    status = 400


class StorageError(WingsdError):
    """The node's own disk failed: full, read-only, or not permitted."""

    code = "storage-failed"

    def __init__(
        self, detail: str, message: str = "the server's files could not be stored"
    ) -> None:
        super().__init__(message, detail)

    @classmethod
    def reading(cls, detail: str) -> StorageError:
        """What is to be sent cannot be read."""
        return cls(detail, "the server's files could not be read")


class EnvironmentFailed(WingsdError):
    """The server's Docker environment could not be made."""

    code = "environment-failed"

    def __init__(self, detail: str) -> None:
        super().__init__("the server's environment could not be configured", detail)


class DaemonStopping(WingsdError):
    """The daemon is going down and takes nothing on (503)."""

    code = "daemon-stopping"
    status = 503

    def __init__(self) -> None:
        super().__init__("this node is shutting down", "send the server again when it is back")


#: The code of every `WingsdError`, those that only one package raises included. They are stable.
ERROR_CODES = (
    "archive-invalid",
    "archive-member-refused",
    "archive-not-first",
    "backup-conflict",
    "backup-name-invalid",
    "bad-request",
    "body-too-large",
    "checksum-mismatch",
    "conflict",
    "console-blocked",
    "container-name-taken",
    "content-type-invalid",
    "daemon-restarted",
    "daemon-stopping",
    "destination-disconnected",
    "destination-failed",
    "destination-invalid",
    "destination-refused",
    "destination-timeout",
    "destination-unreachable",
    "disk-limit-exceeded",
    "environment-failed",
    "forbidden",
    "form-invalid",
    "header-too-long",
    "http-request-invalid",
    "internal-error",
    "method-not-allowed",
    "node-token-refused",
    "panel-failed",
    "panel-refused",
    "panel-unreachable",
    "path-not-found",
    "permission-missing",
    "server-already-exists",
    "server-busy",
    "server-moved",
    "server-not-assigned",
    "server-not-found",
    "server-not-running",
    "servers-not-loaded",
    "storage-failed",
    "storage-pool-conflict",
    "stream-mismatch",
    "stream-missing",
    "token-expired",
    "token-invalid",
    "token-missing",
    "token-used",
    "too-many-transfers",
    "too-many-websockets",
    "transfer-cancelled",
    "transfer-in-progress",
    "transfer-not-active",
    "transfer-not-committed",
    "transfer-revoked",
    "try-again",
    "unauthorized",
    "unprocessable",
    "upgrade-required",
    "upload-part-missing",
    "upload-truncated",
    "websocket-handshake-invalid",
)
