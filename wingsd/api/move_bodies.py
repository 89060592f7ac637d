"""The bodies and queries of the requests of moves; see `docs/moves.md`."""

from __future__ import annotations

from typing import Annotated

import attrs

from wingsd.util.serialization import Keywords

__all__ = [
    "Durable",
    "KeepQuery",
    "MoveBegin",
    "MoveBegun",
    "MoveCommit",
    "MovePrepare",
    "MoveResume",
    "MoveSession",
    "MoveStatus",
    "MovedBackup",
    "Offset",
    "PieceQuery",
    "PreparationStatus",
    "Root",
    "RoundEnd",
    "SessionQuery",
    "TreePageQuery",
    "WaitQuery",
]

Number = Annotated[int, Keywords(minimum=0)]
Digest = Annotated[str, "A SHA-256 in hexadecimal digits.", Keywords(pattern="^[0-9a-f]{64}$")]


@attrs.frozen(eq=False, repr=False)
class MovedBackup:
    """A local backup that comes with the server; `path` is its path among the backups."""

    uuid: Annotated[str, Keywords(format="uuid")]
    path: str
    bytes: Number


@attrs.frozen(eq=False, repr=False)
class MoveBegin:
    """What a move is."""

    version: Annotated[int, "The version of these requests: 1 or 2."]
    key: Annotated[
        str,
        "32 random bytes in hexadecimal digits, by which all other requests are authorized.",
        Keywords(pattern="^[0-9a-f]{64}$"),
    ] = attrs.field(repr=False)
    family: Annotated[str, "The family of the source."] = ""
    bytes: Annotated[int, "The size of the server's files; 0 where it is not known."] = 0
    disk_bytes: Annotated[
        int, "What they take on the disk, without holes; 0 where it is not known."
    ] = 0
    files: Annotated[
        int, "The number of its files, directories and symlinks; 0 where it is not known."
    ] = 0
    backups: Annotated[tuple[MovedBackup, ...], "Local backups that come with it."] = ()
    log: Annotated[int | None, "Bytes of its installation log."] = None
    encodings: Annotated[tuple[str, ...], "How the source can compress batches: `zstd`."] = ()
    running: Annotated[bool, "Whether the server runs at the source."] = False
    follow: Annotated[
        bool, "Whether the copy follows the server until another transfer, or its own end."
    ] = False
    only_known: Annotated[
        bool, "Whether nothing is begun: without a move of this token it is used up (404)."
    ] = False


@attrs.frozen(eq=False, repr=False)
class MoveBegun:
    """A move that has begun."""

    id: Annotated[str, "Its id, in hexadecimal digits."]
    version: int
    attributes: Annotated[
        list[str], "With version 2, the extended attributes that are kept: `user` and `acl`."
    ]
    batch: Annotated[int, "Bytes that a body may have."]
    streams: Annotated[int, "Requests with batches that may be under way at once."]
    encodings: Annotated[list[str], "How batches may be compressed."]


@attrs.frozen(eq=False, repr=False)
class MoveResume:
    """Nothing, so far."""


@attrs.frozen(eq=False, repr=False)
class MoveSession:
    """A session of a move, and what this node holds."""

    session: str
    round: Number
    next: Annotated[int, "The number of the next batch."]
    shape: Annotated[int, "The number of the last shape batch, or 0."]
    file: Annotated[int, "The highest number of a file, or 0."]
    pages: Annotated[int, "The pages of what is held."]
    bytes: Number


@attrs.frozen(eq=False, repr=False)
class Durable:
    """How far a move is on stable storage."""

    durable: Annotated[int, "All batches up to this number are on stable storage."]


@attrs.frozen(eq=False, repr=False)
class RoundEnd:
    """The end of a round."""

    last: Annotated[int, "The number of its last batch.", Keywords(minimum=0)]
    root: Digest


@attrs.frozen(eq=False, repr=False)
class Root:
    """The root of what is held."""

    root: Digest


@attrs.frozen(eq=False, repr=False)
class Offset:
    """How much of an attachment is here."""

    offset: Annotated[int, "Bytes of it."]


@attrs.frozen(eq=False, repr=False)
class MoveCommit:
    """What is to be put into place."""

    round: Annotated[int, "The round that was closed last."]
    root: Digest
    running: Annotated[bool, "Whether the server ran at the source when the move began."] = False


@attrs.frozen(eq=False, repr=False)
class MovePrepare:
    """The present size of the server's files; 0 where it is not known."""

    disk_bytes: Annotated[int, "Bytes on the disk, without holes."] = 0
    files: Annotated[int, "Files, directories and symlinks."] = 0


@attrs.frozen(eq=False, repr=False)
class PreparationStatus:
    """How far the last preparation is; why it has failed."""

    state: Annotated[str, Keywords(enum=("under way", "ready", "failed"))]
    error: str = ""
    detail: str = ""
    code: str = ""
    final: Annotated[bool, "Whether it fails again until a person has changed something."] = False
    container_seconds: Annotated[
        float, "What it took to make the server's container, its image being there; 0 before."
    ] = 0.0


@attrs.frozen(eq=False, repr=False)
class MoveStatus:
    """How far a move is."""

    phase: Annotated[str, Keywords(enum=("open", "commit", "over"))]
    step: str
    text: Annotated[str, "What is done in this step."]
    tag: Annotated[str, "Names this state, for `since`."]
    session: str | None
    round: int
    received: Annotated[int, "All batches up to this number are here."]
    durable: Annotated[int, "All batches up to this number are on stable storage."]
    steps: Annotated[int, "Grows while this node works on what was asked."]
    preparation: Annotated[PreparationStatus | None, "Of `prepare`; null before."]
    outcome: Annotated[str | None, Keywords(enum=("success", "failure", None))]
    error: Annotated[str, "Why it has failed, or why the last commit came to nothing."] = ""
    detail: str = ""
    code: str = ""


@attrs.frozen(eq=False, repr=False)
class SessionQuery:
    """In which session."""

    session: Annotated[str, "The session, from the answer to `resume`."] = ""


@attrs.frozen(eq=False, repr=False)
class TreePageQuery:
    """Which page of which session."""

    session: Annotated[str, "The session, from the answer to `resume`."] = ""
    page: Annotated[str, "The number of the page, from 1."] = "1"


@attrs.frozen(eq=False, repr=False)
class PieceQuery:
    """Which piece of an attachment."""

    session: Annotated[str, "The session, from the answer to `resume`."] = ""
    offset: Annotated[str, "How many bytes come before the piece."] = "0"
    sha256: Annotated[str, "With the last piece: the SHA-256 of the whole."] = ""


@attrs.frozen(eq=False, repr=False)
class WaitQuery:
    """Whether to wait for a change."""

    wait: Annotated[str, "Seconds to wait for a change, 30 at most."] = "0"
    since: Annotated[str, "The `tag` of the state that is known."] = ""


@attrs.frozen(eq=False, repr=False)
class KeepQuery:
    """Whether what has arrived is kept."""

    keep: Annotated[str, "`1` keeps it for the next transfer of the server."] = ""
