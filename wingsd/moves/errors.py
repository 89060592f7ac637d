"""The errors of moves that resume. Each says whether the same request may be sent again."""

from __future__ import annotations

from http import HTTPStatus

from wingsd.errors import BadRequest, Conflict, StorageError, WingsdError

__all__ = [
    "BatchConflict",
    "BatchDamaged",
    "BatchInvalid",
    "FrameRefused",
    "HeldTreeInvalid",
    "LedgerDamaged",
    "LedgerVersionUnknown",
    "MoveBatchTooLarge",
    "MoveVersionUnknown",
    "RootMismatch",
    "RoundIncomplete",
    "ShapeMissing",
    "SourceFileChanged",
    "damaged",
    "invalid",
    "refused",
]


class BatchInvalid(BadRequest):
    """The batch is not one: cut short, with lying lengths or counts, or not canonical (400)."""

    code = "move-batch-invalid"

    def __init__(self, detail: str) -> None:
        super().__init__("the batch of a move is invalid", detail)


class BatchDamaged(BatchInvalid):
    """A digest does not fit: the bytes were changed on the way, or while they were read (400)."""

    code = "move-batch-damaged"


class FrameRefused(BatchInvalid):
    """A frame names a path or a number that it may not, or is beyond the limits (400)."""

    code = "move-frame-refused"


class MoveVersionUnknown(BadRequest):
    """The move or the batch is of a version that this node does not know (400)."""

    code = "move-version-unknown"

    def __init__(self, version: int, known: int) -> None:
        super().__init__(
            "the move is of an unknown version",
            f"it has version {version}, this node knows {known}; update the older node",
        )


class MoveBatchTooLarge(WingsdError):
    """The body is longer than this node takes (413)."""

    code = "move-batch-too-large"
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE

    def __init__(self, limit: int) -> None:
        super().__init__("the batch is too large", f"send {limit} bytes at most")


class BatchConflict(Conflict):
    """The batch does not fit what was received: sending it again does not help (409)."""

    code = "move-batch-conflict"

    def __init__(self, detail: str) -> None:
        super().__init__("the batch does not fit the move", detail)


class ShapeMissing(Conflict):
    """Another batch comes before this one; it may be sent again after that (409)."""

    code = "move-shape-missing"

    def __init__(self, detail: str) -> None:
        super().__init__("the batch comes too early", detail)


class RoundIncomplete(Conflict):
    """The round cannot be closed: some of it is missing (409)."""

    code = "move-round-incomplete"

    def __init__(self, detail: str) -> None:
        super().__init__("the round of a move is incomplete", detail)


class RootMismatch(Conflict):
    """The trees of source and destination differ (409)."""

    code = "move-root-mismatch"

    def __init__(self, detail: str) -> None:
        super().__init__("the two nodes have different trees", detail)


class LedgerDamaged(StorageError):
    """The ledger of a partial copy is damaged: it proves nothing."""

    code = "move-ledger-damaged"

    def __init__(self, position: int, detail: str) -> None:
        super().__init__(
            f"at byte {position}: {detail}; check this node's disk and memory, remove the partial "
            "copy, and move the server again",
            "the ledger of a partial copy is damaged",
        )


class LedgerVersionUnknown(StorageError):
    """The ledger of a partial copy was written by another version of wingsd. It is left alone."""

    code = "move-ledger-version-unknown"

    def __init__(self, version: int, known: int) -> None:
        super().__init__(
            f"it has version {version}, this node knows {known}; it is kept as it is: update "
            "wingsd, or remove the partial copy",
            "the ledger of a partial copy is of an unknown version",
        )


class SourceFileChanged(StorageError):
    """A file was changed, replaced or deleted while it was read for a move."""

    code = "move-file-changed"

    def __init__(self, shown: str) -> None:
        super().__init__(
            f"{shown} was changed while it was read; find out what writes to the stopped server's "
            "files, and move it again",
            "the server's files changed during the move",
        )


class HeldTreeInvalid(WingsdError):
    """The destination says that it holds what it cannot: the move cannot go on with that (502)."""

    code = "move-held-tree-invalid"
    status = 502

    def __init__(self, detail: str) -> None:
        super().__init__(
            "the destination's description of its partial copy is invalid",
            f"{detail}; remove the partial copy on that node, update both nodes, and move the "
            "server again",
        )


def invalid(reason: str) -> BatchInvalid:
    """Return the error of a batch that no source makes."""
    return BatchInvalid(f"{reason}; send the batch again, and update both nodes if that fails")


def damaged(what: str) -> BatchDamaged:
    """Return the error of a digest that does not fit `what`."""
    return BatchDamaged(f"{what} does not fit its digest; send the batch again")


def refused(reason: str) -> FrameRefused:
    """Return the error of a frame that is not applied."""
    return FrameRefused(f"{reason}; the batch of the move is refused")
