"""The errors of moves to this node. Each says what the source does, by its status and code."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from wingsd.errors import (
    BadRequest,
    Conflict,
    ServerNotFound,
    StorageError,
    TransferCancelled,
    Unauthorized,
    WingsdError,
    error_code,
)
from wingsd.moves.entry_store import is_full
from wingsd.panel.http_client import ServerNotAssigned

__all__ = [
    "AttachmentMissing",
    "AttachmentOffsetWrong",
    "AttachmentsIncomplete",
    "MoveAbandoned",
    "MoveBusy",
    "MoveCommitted",
    "MoveGivenUp",
    "MoveKeyInvalid",
    "MoveNoSpace",
    "MoveNotFound",
    "MoveOver",
    "MoveRequestInvalid",
    "MoveResumeNeeded",
    "MoveSuperseded",
    "SeedForgotten",
    "failure_state",
    "keeps_copy",
    "recorded_failure",
    "room_errors",
    "space_error",
]


class MoveKeyInvalid(Unauthorized):
    """The key is not that of the move (401)."""

    code = "move-key-invalid"

    def __init__(self) -> None:
        super().__init__(
            "the key of the move is wrong",
            "only the source that began the move has its key; transfer the server again",
        )


class MoveNotFound(WingsdError):
    """There is no such move on this node (404)."""

    code = "move-not-found"
    status = HTTPStatus.NOT_FOUND

    def __init__(self) -> None:
        super().__init__(
            "this node has no such move",
            "it ended more than 90 days ago, or was never begun here; transfer the server again",
        )


class MoveOver(WingsdError):
    """The move has ended (410)."""

    code = "move-over"
    status = HTTPStatus.GONE

    def __init__(self) -> None:
        super().__init__("the move has ended", "ask for its outcome")


class MoveResumeNeeded(Conflict):
    """The request is of an earlier session, or of none (409)."""

    code = "move-resume-needed"

    def __init__(self, detail: str = "another session has begun; resume the move") -> None:
        super().__init__("the session of the move has ended", detail)


class MoveCommitted(Conflict):
    """The server is being put into place: nothing of the move can be changed (409)."""

    code = "move-committed"

    def __init__(self) -> None:
        super().__init__("the move is being completed", "ask for its outcome")


class AttachmentOffsetWrong(Conflict):
    """The piece does not begin where the attachment ends; the answer has `offset` (409)."""

    code = "move-offset-wrong"

    def __init__(self, offset: int, reason: str = "") -> None:
        super().__init__(
            "the piece does not begin where the attachment ends",
            f"{reason or 'send it again'} from byte {offset} on",
        )
        self.offset = offset


class AttachmentMissing(WingsdError):
    """The move was begun without an attachment of that name (404)."""

    code = "move-attachment-unknown"
    status = HTTPStatus.NOT_FOUND

    def __init__(self) -> None:
        super().__init__(
            "the move has no such attachment", "it must be announced when the move is begun"
        )


class AttachmentsIncomplete(Conflict):
    """The commit was asked for before all attachments are here (409)."""

    code = "move-attachments-incomplete"

    def __init__(self, names: str) -> None:
        super().__init__("attachments of the move are missing", f"send the rest of {names}")


class MoveBusy(WingsdError):
    """The node is busy with others, or not ready yet (503)."""

    code = "move-busy"
    status = HTTPStatus.SERVICE_UNAVAILABLE
    retry_after = 5.0

    def __init__(self, detail: str) -> None:
        super().__init__("the node cannot take this now", detail)


class MoveNoSpace(StorageError):
    """There is no space on the disk now; what has arrived is kept (507)."""

    code = "move-no-space"
    status = HTTPStatus.INSUFFICIENT_STORAGE
    retry_after = 30.0


class MoveAbandoned(WingsdError):
    """Nothing was heard of the source for a long time."""

    code = "move-abandoned"

    def __init__(self, seconds: float) -> None:
        super().__init__(
            "the source of the move fell silent",
            f"nothing was heard of it for {seconds:g} s; transfer the server again, which goes on "
            "with what has arrived",
        )


class MoveGivenUp(WingsdError):
    """The source says that the move has failed; `keeps` is whether what is here stays."""

    code = "move-given-up"

    def __init__(self, *, keeps: bool) -> None:
        super().__init__("the source has ended the move", "its own log says why")
        self.keeps = keeps


class SeedForgotten(MoveGivenUp):
    """Somebody has removed the copy of a seed at this node."""

    code = "seed-forgotten"

    def __init__(self) -> None:
        WingsdError.__init__(
            self,
            "the copy that followed the server was removed",
            "by wingsctl forget; for another one run wingsctl receive with --follow",
        )
        self.keeps = False


class MoveSuperseded(Conflict):
    """A later transfer of the server has taken the place of the move (409)."""

    code = "move-superseded"

    def __init__(self) -> None:
        super().__init__(
            "a later transfer of the server has begun", "it goes on with what has arrived"
        )


class MoveRequestInvalid(BadRequest):
    """A part of a request of a move is not valid (400)."""

    code = "move-request-invalid"

    def __init__(self, detail: str) -> None:
        super().__init__("the request of the move is invalid", detail)


#: By whose kind it is decided what a failure leaves, and who hears of it.
_DECISIVE = (MoveGivenUp, MoveSuperseded, SeedForgotten, ServerNotFound, TransferCancelled)


def keeps_copy(reason: Exception | None) -> bool:
    """Return whether what has arrived stays after a failure: not after a person's cancel.

    Nor where the Panel does not know the server any more; but it does where the Panel only knows
    of no transfer to this node: that has failed while this node was away.
    """
    if isinstance(reason, MoveGivenUp):
        return reason.keeps
    is_gone = isinstance(reason, ServerNotFound) and not isinstance(reason, ServerNotAssigned)
    return not is_gone and not isinstance(reason, TransferCancelled)


def failure_state(error: Exception) -> str:
    """Return what is recorded of a move that has failed, for its source: a JSON object."""
    message, detail = "internal error", "see the log of this node"
    if isinstance(error, WingsdError):
        message, detail = error.message, error.detail
    found = {"error": message, "detail": detail, "code": error_code(error)}
    return json.dumps(found | {"keeps": keeps_copy(error)})


def recorded_failure(state: str) -> WingsdError | None:
    """Return the error that an earlier daemon has recorded as `failure_state`, None without."""
    found = json.loads(state)
    if "error" not in found:
        return None
    kind = next((each for each in _DECISIVE if each.code == found["code"]), WingsdError)
    error = kind.__new__(kind)
    WingsdError.__init__(error, found["error"], found["detail"])
    error.code = found["code"]
    if isinstance(error, MoveGivenUp):
        error.keeps = found.get("keeps", True)
    return error


def space_error(error: StorageError) -> StorageError:
    """Return the error of a full disk as `MoveNoSpace`, and any other as it is."""
    cause = error.__cause__
    is_no_space = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
    if is_no_space or is_full(cause):
        return MoveNoSpace(error.detail)
    return error


@contextmanager
def room_errors() -> Iterator[None]:
    """Raise a `StorageError`, that of a look for space, as `MoveNoSpace`."""
    try:
        yield
    except StorageError as error:
        raise MoveNoSpace(error.detail) from error
