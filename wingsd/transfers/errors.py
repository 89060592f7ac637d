"""The errors of transfers: of uploads received, of the destination, and of the Panel's answers.

The documented texts of `POST /api/transfers` are here.
"""

from __future__ import annotations

from wingsd.errors import BadRequest, Conflict, ServerBusy, TransferCancelled, WingsdError

__all__ = [
    "ArchiveNotFirst",
    "ChecksumMismatch",
    "ContainerNameTaken",
    "DaemonRestarted",
    "DestinationDisconnected",
    "DestinationError",
    "DestinationRefused",
    "DestinationTimeout",
    "DestinationUnreachable",
    "FinalPassStalled",
    "InvalidContentType",
    "InvalidDestination",
    "InvalidForm",
    "SeedAdopted",
    "StoragePoolConflict",
    "StreamMismatch",
    "StreamMissing",
    "TooManyTransfers",
    "TransferInProgress",
    "TransferNotActive",
    "TransferRevoked",
    "UploadPartMissing",
    "UploadTruncated",
    "is_refusal",
]


class TransferInProgress(ServerBusy):
    """A transfer of the server from this node is under way (409)."""

    code = "transfer-in-progress"


class TransferNotActive(Conflict):
    """The server has no transfer that could be cancelled (409)."""

    code = "transfer-not-active"


class SeedAdopted(TransferCancelled):
    """A transfer of the server has taken the place of its seed, and goes on with the copy."""

    code = "seed-adopted"

    def __init__(self) -> None:
        WingsdError.__init__(
            self, "a transfer of the server has begun", "it takes the place of the copy"
        )


class ContainerNameTaken(Conflict):
    """Another node's container on the same engine has the server's name (409)."""

    code = "container-name-taken"


class StoragePoolConflict(Conflict):
    """The storage pools of the two nodes do not fit each other (409)."""

    code = "storage-pool-conflict"


class InvalidForm(BadRequest):
    """The upload is not valid multipart/form-data, or one of its parts is invalid."""

    code = "form-invalid"


class InvalidDestination(BadRequest):
    """The destination's URL or token is invalid."""

    code = "destination-invalid"


class InvalidContentType(BadRequest):
    """Not multipart/form-data with a boundary."""

    code = "content-type-invalid"

    def __init__(self, detail: str) -> None:
        super().__init__("invalid content type", detail)


class ArchiveNotFirst(BadRequest):
    """The checksum came first, so nothing could be hashed against it; or another part did."""

    code = "archive-not-first"

    def __init__(self, part: str = "checksum") -> None:
        super().__init__(
            f"archive must be sent before the {part}",
            f'send the part named "archive" first and the part named "{part}" after it',
        )


class StreamMismatch(BadRequest):
    """One of several requests with one server is not one that belongs to the others."""

    code = "stream-mismatch"

    def __init__(self, detail: str) -> None:
        super().__init__("the streams of this transfer do not match", detail)


class StreamMissing(BadRequest):
    """Not all of the requests have come that one server is sent in."""

    code = "stream-missing"

    def __init__(self, detail: str) -> None:
        super().__init__("a stream of this transfer is missing", detail)


class UploadPartMissing(BadRequest):
    """The body is complete, but one of the parts that must be there is not in it."""

    code = "upload-part-missing"

    def __init__(self, detail: str) -> None:
        super().__init__("missing archive or checksum", detail)


class ChecksumMismatch(BadRequest):
    """The digest of the bytes that arrived is not the one that was sent."""

    code = "checksum-mismatch"

    def __init__(self, sent: str, received: str, what: str = "archive") -> None:
        super().__init__(
            "checksums don't match",
            f"the sender's SHA-256 is {sent}, that of the {what} received is {received}; "
            f"the {what} was changed on its way, send it again",
        )


class UploadTruncated(BadRequest):
    """The connection or the body ended before the upload was complete."""

    code = "upload-truncated"


class TooManyTransfers(WingsdError):
    """As many servers as this node takes are on their way to it (503)."""

    code = "too-many-transfers"
    status = 503
    retry_after = 60.0

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"this node is already receiving {limit} servers",
            "send the server again in some minutes; system.transfers.concurrent and .waiting in "
            "this node's configuration set how many it takes",
        )


class TransferRevoked(Conflict):
    """The Panel says that no transfer brings the server to this node (409)."""

    code = "transfer-revoked"

    def __init__(self) -> None:
        super().__init__(
            "the Panel has closed this transfer",
            "it was cancelled, or the other node reported a failure; the server stays on the "
            "source",
        )


class DaemonRestarted(WingsdError):
    """The daemon ended in the middle of it."""

    code = "daemon-restarted"

    def __init__(self) -> None:
        super().__init__("this node was restarted during the transfer", "start the transfer again")


class DestinationError(WingsdError):
    """The node a server is sent to did not take it (502).

    `may_complete` tells that it may still be at work, and have the server in the end.
    """

    code = "destination-failed"
    status = 502
    may_complete = False

    @property
    def cause(self) -> str:
        """The event alone, without the advice for a transfer that has failed by it."""
        return str(self)

    @property
    def is_refusal(self) -> bool:
        """True if it is certain by this that the destination never has the server."""
        return False


class DestinationUnreachable(DestinationError):
    """Nothing could be sent to it: there is no connection, or its certificate is no good."""

    code = "destination-unreachable"
    is_refusal = True


class DestinationRefused(DestinationError):
    """It answered, and the answer was no: its status in `response_status`, its words in ours."""

    code = "destination-refused"

    def __init__(
        self, message: str, detail: str, response_status: int, *, may_complete: bool = False
    ) -> None:
        super().__init__(message, detail)
        self.response_status = response_status
        self.may_complete = may_complete
        #: The code of the answer, empty where it is not known.
        self.answer_code = ""
        #: Whether it only was not able to answer now: nothing is said about the server.
        self.is_temporary = False
        #: Whether it is refused until a person has changed something there.
        self.is_final = False
        #: Whether it may be of a proxy: an answer to a move that is not the node's own.
        self.is_foreign = False

    @property
    def is_refusal(self) -> bool:
        """True if the node itself has refused the server."""
        return not (self.may_complete or self.is_temporary or self.is_foreign)


class DestinationDisconnected(DestinationError):
    """The connection to it ended without an answer.

    With `body_sent` it may have everything, and may even have reported it to the Panel.
    """

    code = "destination-disconnected"
    may_complete = True

    def __init__(self, reason: str, *, body_sent: bool) -> None:
        sent = (
            "it may have received the whole server; check in the Panel where the server is now"
            if body_sent
            else "it had not received everything; transfer the server again"
        )
        super().__init__("the destination node did not answer", f"{reason}; {sent}")
        self.body_sent = body_sent
        self._reason = reason

    @property
    def cause(self) -> str:
        """The reason why there is no answer."""
        return f"{self.message}: {self._reason}"


class DestinationTimeout(DestinationDisconnected):
    """It had everything, and gave no answer for as long as this node waits for one."""

    code = "destination-timeout"
    may_complete = False

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer for {seconds:g} s", body_sent=True)


class FinalPassStalled(DestinationError):
    """It took nothing of the last round of a server that was stopped for its move."""

    code = "final-pass-stalled"

    def __init__(self, seconds: float) -> None:
        super().__init__(
            "the last round of the move came to a halt",
            f"nothing was taken for {seconds:g} s; see the destination's log, and the line to it",
        )


def is_refusal(error: Exception) -> bool:
    """Return whether it is certain by an error that the destination never has the server."""
    return isinstance(error, DestinationError) and error.is_refusal
