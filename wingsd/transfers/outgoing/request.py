"""The request to send a server: where to, and in which format."""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import Enum
from typing import TypeVar

import attrs

from wingsd.archive import ArchiveFormat, Compression
from wingsd.config import CALAGOPUS, PELICAN

__all__ = [
    "FOLLOWS",
    "JOINS_STREAMS",
    "KEEPS_ATTRIBUTES",
    "MOVES",
    "MOVES_ATTRIBUTES",
    "TransferRequest",
    "UploadFormat",
    "streams_of",
    "upload_format",
]

#: The feature of a destination that takes all requests of a server for one transfer.
JOINS_STREAMS = "streams"
#: That of one that keeps the extended attributes and ACLs in archives.
KEEPS_ATTRIBUTES = "attributes"
#: That of one that takes moves which resume.
MOVES = "move-1"
#: That of one that takes moves with extended attributes and ACLs.
MOVES_ATTRIBUTES = "move-2"
#: That of one that keeps the copy of a seed, and starts the server when it has moved.
FOLLOWS = "follow-1"

_Choice = TypeVar("_Choice", bound=Enum)


@attrs.frozen(repr=False)
class TransferRequest:
    """`token` is the whole `Authorization` header for the destination.

    The optional fields are in the words of Calagopus' Panel, and empty for other Panels.
    """

    url: str
    token: str = attrs.field(repr=False)
    archive_format: str = ""
    compression_level: str = ""
    #: The UUIDs of the local backups that are sent with the server.
    backups: tuple[str, ...] = ()
    #: Whether those are to be removed here once the server has moved.
    delete_backups: bool = False
    #: The number of HTTP requests beside the first.
    streams: int = 0

    @property
    def family(self) -> str:
        """The family of the destination: only Calagopus' Panel requests a format."""
        form = self.archive_format or self.compression_level or self.streams
        return CALAGOPUS if form or self.delete_backups else PELICAN


@attrs.frozen(eq=False, repr=False)
class UploadFormat:
    """The format in which an archive is sent."""

    archive: ArchiveFormat
    compression: Compression


def upload_format(
    request: TransferRequest, compression: Compression, warn: Callable[[str], None]
) -> UploadFormat:
    """Return the requested format; `compression` is the node's own, used where none is requested.

    A format that this node does not know is not refused, since every node reads a tar.gz: the
    default is sent, and `warn` gets a line about it.
    """
    return UploadFormat(
        _choice(request.archive_format, ArchiveFormat.TAR_GZ, "the archive format", warn),
        _choice(request.compression_level, compression, "the compression level", warn),
    )


def streams_of(
    request: TransferRequest, most: int, features: Collection[str], warn: Callable[[str], None]
) -> int:
    """Return the number of requests beside the first; `most` is the largest of this node.

    A destination that lists its `features` without joining streams takes only one request. Where
    the result is not what was requested, `warn` gets a line about it.
    """
    asked, sent = request.streams, min(request.streams, most)
    if features and JOINS_STREAMS not in features:
        sent = 0
    if sent < asked:
        whose = "this node sends" if sent else "the destination takes"
        warn(f"{asked} streams are asked for beside the first: {whose} {sent or 'none'}")
    return max(sent, 0)


def _choice(asked: str, default: _Choice, what: str, warn: Callable[[str], None]) -> _Choice:
    if not asked:
        return default
    try:
        return type(default)(asked)
    except ValueError:
        warn(f"{what} {asked[:40]!r} is not one that this node writes: it sends {default.value}")
        return default
