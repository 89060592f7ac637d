"""What the Panel asks for when it has a server sent: where to, and in what form."""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import Enum
from typing import TypeVar

import attrs

from wingsd.archive import ArchiveFormat, Compression
from wingsd.config import CALAGOPUS, PELICAN

__all__ = ["JOINS_STREAMS", "TransferOrder", "UploadFormat", "form_of", "streams_of"]

#: What a destination says that it does, when it takes all requests of a server for one transfer.
JOINS_STREAMS = "streams"

_Choice = TypeVar("_Choice", bound=Enum)


@attrs.frozen
class TransferOrder:
    """`token` is the whole `Authorization` header for there.

    The others are in the words of Calagopus' Panel, and empty where another one says nothing.
    """

    url: str
    token: str = attrs.field(repr=False)
    archive_format: str = ""
    compression_level: str = ""
    #: The UUIDs of the local backups that are to come along.
    backups: tuple[str, ...] = ()
    #: Whether those are to be removed here once the server has moved.
    delete_backups: bool = False
    #: In how many requests beside the first it is to be sent.
    streams: int = 0

    @property
    def family(self) -> str:
        """Whose nodes the destination is one of: Calagopus' Panel alone asks for a form."""
        form = self.archive_format or self.compression_level or self.streams
        return CALAGOPUS if form or self.delete_backups else PELICAN


@attrs.frozen
class UploadFormat:
    """In what form an archive is sent."""

    archive: ArchiveFormat
    compression: Compression


def form_of(
    order: TransferOrder, compression: Compression, tell: Callable[[str], None]
) -> UploadFormat:
    """Return the form that is asked for; for `compression` the node's own, where none is.

    What this node does not know it does not refuse, since every node reads a tar.gz: it goes as
    without being asked, and `tell` gets a line about it.
    """
    return UploadFormat(
        _choice(order.archive_format, ArchiveFormat.TAR_GZ, "the archive format", tell),
        _choice(order.compression_level, compression, "the compression level", tell),
    )


def streams_of(
    order: TransferOrder, most: int, features: Collection[str], tell: Callable[[str], None]
) -> int:
    """Return in how many requests beside the first the server is sent; `most` is the node's own.

    A node that says which `features` it has, and not that it joins streams, takes only one.
    Where it is not as asked, `tell` gets a line about it.
    """
    asked, sent = order.streams, min(order.streams, most)
    if features and JOINS_STREAMS not in features:
        sent = 0
    if sent < asked:
        whose = "this node sends" if sent else "the destination takes"
        tell(f"{asked} streams are asked for beside the first: {whose} {sent or 'none'}")
    return max(sent, 0)


def _choice(asked: str, usual: _Choice, what: str, tell: Callable[[str], None]) -> _Choice:
    if not asked:
        return usual
    try:
        return type(usual)(asked)
    except ValueError:
        tell(f"{what} {asked[:40]!r} is none that this node writes: it sends {usual.value}")
        return usual
