"""Every way a request can be refused or a transfer fail, as one tree.

Each error carries the HTTP status a client gets, the words it reads, and where the words alone
do not tell a person what to do, a detail that does. The documented words of
`POST /api/transfers` stand here and nowhere else.
"""

from __future__ import annotations

__all__ = [
    "ERROR_CODES",
    "AlreadyHere",
    "ArchiveError",
    "BadRequest",
    "ChecksumFirst",
    "ChecksumMismatch",
    "ConfigError",
    "Conflict",
    "ConsoleBlocked",
    "DaemonStopping",
    "DestinationError",
    "DestinationLost",
    "DestinationRefused",
    "DestinationSilent",
    "DestinationUnreachable",
    "DiskLimitExceeded",
    "EnvironmentFailed",
    "Forbidden",
    "IncompleteUpload",
    "Interrupted",
    "InvalidData",
    "NotAuthorized",
    "NotForThisNode",
    "NotLoaded",
    "NotOpenYet",
    "NotRunning",
    "NotWanted",
    "PanelError",
    "PanelRefused",
    "PanelUnreachable",
    "StorageError",
    "StreamMissing",
    "StreamRefused",
    "TokenRefused",
    "TooManyTransfers",
    "TransferCancelled",
    "TryAgain",
    "UnknownServer",
    "Unprocessable",
    "UploadCutShort",
    "WingsdError",
    "WrongContentType",
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

    def told_of(self, what: str) -> None:
        """Say in the detail which of several things it is about."""
        self.detail = f"{what}: {self.detail}" if self.detail else what


class NotAuthorized(WingsdError):
    """The token is missing or no good (401)."""

    code = "unauthorized"
    status = 401


class Forbidden(WingsdError):
    """There is a token, but it is not the one that this needs (403)."""

    code = "forbidden"
    status = 403


class UnknownServer(WingsdError):
    """The Panel does not know the server, or not for this node (404)."""

    code = "server-not-found"
    status = 404


class NotForThisNode(UnknownServer):
    """The Panel knows the server, but of no transfer that brings it to this node (404)."""

    code = "server-not-assigned"


class NotLoaded(WingsdError):
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


class NotRunning(WingsdError):
    """The server must run for this, and does not (502, Wings' own answer)."""

    code = "server-not-running"
    status = 502


class Conflict(WingsdError):
    """What is asked for does not go together with what the server is doing (409)."""

    code = "conflict"
    status = 409


class AlreadyHere(Conflict):
    """The server is on this node or being received right now (409)."""

    code = "server-already-exists"


class TransferCancelled(Conflict):
    """Somebody cancelled the transfer (409)."""

    code = "transfer-cancelled"

    def __init__(self) -> None:
        super().__init__("the transfer was cancelled", "start it again")


class BadRequest(WingsdError):
    """The request is not of the form it should have (400)."""

    code = "bad-request"
    status = 400


class WrongContentType(BadRequest):
    """Not multipart/form-data with a boundary."""

    code = "content-type-invalid"

    def __init__(self, detail: str) -> None:
        super().__init__("invalid content type", detail)


class ChecksumFirst(BadRequest):
    """The checksum came first, so nothing could be hashed against it; or another part did."""

    code = "archive-not-first"

    def __init__(self, part: str = "checksum") -> None:
        super().__init__(
            f"archive must be sent before the {part}",
            f'send the part named "archive" first and the part named "{part}" after it',
        )


class StreamRefused(BadRequest):
    """One of several requests with one server is not one that belongs to the others."""

    code = "stream-mismatch"

    def __init__(self, detail: str) -> None:
        super().__init__("the streams of this transfer do not belong together", detail)


class StreamMissing(BadRequest):
    """Not all of the requests have come that one server is sent in."""

    code = "stream-missing"

    def __init__(self, detail: str) -> None:
        super().__init__("a stream of this transfer is missing", detail)


class IncompleteUpload(BadRequest):
    """The body is complete, but one of the parts that must be there is not in it."""

    code = "upload-part-missing"

    def __init__(self, detail: str) -> None:
        super().__init__("missing archive or checksum", detail)


class ChecksumMismatch(BadRequest):
    """What arrived is not what was sent."""

    code = "checksum-mismatch"

    def __init__(self, sent: str, received: str, what: str = "archive") -> None:
        super().__init__(
            "checksums don't match",
            f"the sender's SHA-256 is {sent}, that of the {what} received is {received}; "
            f"the {what} was changed on its way, send it again",
        )


class DiskLimitExceeded(BadRequest):
    """The server may not have as much disk as this takes, in Wings' own words."""

    code = "disk-limit-exceeded"

    def __init__(self, detail: str) -> None:
        super().__init__(
            "There is not enough disk space available to perform that action.", detail
        )


class UploadCutShort(BadRequest):
    """The connection or the body ended before the upload was complete."""

    code = "upload-truncated"


class ArchiveError(WingsdError):
    """The archive cannot be extracted: damaged, of an unknown kind, or with a refused member."""

    code = "archive-invalid"

    def __init__(self, detail: str) -> None:
        super().__init__("the archive could not be extracted", detail)


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


class ConsoleBlocked(EnvironmentFailed):
    """The server does not take what is typed into its console; it may still do so."""

    code = "console-blocked"


class DaemonStopping(WingsdError):
    """The daemon is going down and takes nothing on (503)."""

    code = "daemon-stopping"
    status = 503

    def __init__(self) -> None:
        super().__init__("this node is shutting down", "send the server again when it is back")


class TryAgain(WingsdError):
    """What is asked is just being decided (503)."""

    code = "try-again"
    status = 503
    retry_after = 1.0


class TooManyTransfers(WingsdError):
    """As many servers as this node takes are on their way to it (503)."""

    code = "too-many-transfers"
    status = 503
    retry_after = 60.0

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"this node is receiving {limit} servers already",
            "send the server again in some minutes; system.transfers.concurrent and .waiting in "
            "this node's configuration set how many it takes",
        )


class PanelError(WingsdError):
    """The Panel did not do what was asked of it.

    `retry_after` is the seconds it asks to be left alone for, 0 when it does not.
    """

    code = "panel-failed"

    def __init__(self, message: str, detail: str = "", retry_after: float = 0.0) -> None:
        super().__init__(message, detail)
        self.retry_after = retry_after


class PanelRefused(PanelError):
    """The Panel answered, and the answer was no (a 4xx in `response_status`)."""

    code = "panel-refused"

    def __init__(
        self, message: str, detail: str, response_status: int, retry_after: float = 0.0
    ) -> None:
        super().__init__(message, detail, retry_after)
        self.response_status = response_status


class TokenRefused(PanelRefused):
    """The Panel refuses this node's own token (503): it has said nothing of any server.

    `answer` is what it said, with its status in `response_status`.
    """

    code = "node-token-refused"
    status = 503

    def __init__(self, answer: str, response_status: int, retry_after: float = 0.0) -> None:
        super().__init__(
            "the Panel does not accept this node's token",
            "copy the node's configuration from the Panel again, then restart this node; "
            f"{answer}",
            response_status,
            retry_after,
        )


class NotOpenYet(PanelError):
    """The Panel denies a transfer that it may still be about to commit.

    It is to be asked again in `pause` seconds.
    """

    code = "transfer-not-committed"

    def __init__(self, pause: float) -> None:
        super().__init__("the Panel does not know this transfer yet")
        self.pause = pause


class NotWanted(Conflict):
    """The Panel says that no transfer brings the server to this node (409)."""

    code = "transfer-revoked"

    def __init__(self) -> None:
        super().__init__(
            "the Panel does not want the server on this node",
            "it has cancelled the transfer, or the other node has told it of a failure; the "
            "server is where it was",
        )


class Interrupted(WingsdError):
    """The daemon ended in the middle of it."""

    code = "daemon-restarted"

    def __init__(self) -> None:
        super().__init__("this node was restarted meanwhile", "start the transfer again")


class PanelUnreachable(PanelError):
    """The Panel gave no answer that could be used: down, too slow, a 5xx, or nonsense (503)."""

    code = "panel-unreachable"
    status = 503


class DestinationError(WingsdError):
    """The node a server is sent to did not take it (502).

    `may_go_on` tells that it may still be at work, and have the server in the end.
    """

    code = "destination-failed"
    status = 502
    may_go_on = False


class DestinationUnreachable(DestinationError):
    """Nothing could be sent to it: there is no connection, or its certificate is no good."""

    code = "destination-unreachable"


class DestinationRefused(DestinationError):
    """It answered, and the answer was no: its status in `response_status`, its words in ours."""

    code = "destination-refused"

    def __init__(
        self, message: str, detail: str, response_status: int, *, may_go_on: bool = False
    ) -> None:
        super().__init__(message, detail)
        self.response_status = response_status
        self.may_go_on = may_go_on


class DestinationLost(DestinationError):
    """The connection to it ended without an answer.

    With `body_sent` it may have everything, and may even have told the Panel so.
    """

    code = "destination-disconnected"
    may_go_on = True

    def __init__(self, reason: str, *, body_sent: bool) -> None:
        sent = (
            "it may have received the whole server; see in the Panel where the server is now"
            if body_sent
            else "it had not received everything; transfer the server again"
        )
        super().__init__("the destination node gave no answer", f"{reason}; {sent}")
        self.body_sent = body_sent


class DestinationSilent(DestinationLost):
    """It had everything, and gave no answer for as long as this node waits for one."""

    code = "destination-timeout"
    may_go_on = False

    def __init__(self, seconds: float) -> None:
        super().__init__(f"it has said nothing for {seconds:g} s", body_sent=True)


#: The code of every `WingsdError`, those that only one package raises included. They are stable.
ERROR_CODES = (
    "archive-invalid",
    "archive-member-refused",
    "archive-not-first",
    "bad-request",
    "body-too-large",
    "checksum-mismatch",
    "conflict",
    "console-blocked",
    "content-type-invalid",
    "daemon-restarted",
    "daemon-stopping",
    "destination-disconnected",
    "destination-failed",
    "destination-refused",
    "destination-timeout",
    "destination-unreachable",
    "disk-limit-exceeded",
    "environment-failed",
    "forbidden",
    "header-too-long",
    "http-request-invalid",
    "internal-error",
    "method-not-allowed",
    "node-token-refused",
    "panel-failed",
    "panel-refused",
    "panel-unreachable",
    "path-not-found",
    "server-already-exists",
    "server-not-assigned",
    "server-not-found",
    "server-not-running",
    "servers-not-loaded",
    "storage-failed",
    "stream-mismatch",
    "stream-missing",
    "too-many-transfers",
    "transfer-cancelled",
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
