"""The failure of a move to this node: how it is recorded, and what stays of the copy."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager

from wingsd.errors import (
    MoveGivenUp,
    MoveNoSpace,
    MoveSuperseded,
    SeedForgotten,
    ServerNotAssigned,
    ServerNotFound,
    StorageError,
    TransferCancelled,
    WingsdError,
    error_code,
)
from wingsd.moves.entry_store import is_full

__all__ = ["failure_state", "keeps_copy", "recorded_failure", "room_errors", "space_error"]


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
