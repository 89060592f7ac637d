"""The upload's body: an archive and its checksum as multipart/form-data, read and written.

The multipart grammar is a library's; here are the rules of `POST /api/transfers` about its parts:
which there must be, in which order, which may not be lost, and that all others are skipped. What
is written is what Go's mime/multipart writes, to the byte, since that is what all other nodes
have always been sent.
Pure: bytes in, bytes out.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import attrs
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from wingsd.config import Form
from wingsd.errors import (
    BadRequest,
    ChecksumFirst,
    IncompleteUpload,
    UploadCutShort,
    WrongContentType,
)

__all__ = ["FormFrame", "UploadForm"]

#: Bytes. A SHA-256 in hexadecimal has 64; whatever is longer is not one.
MAX_CHECKSUM = 256
#: The checksum's names: Pterodactyl's and Calagopus' nodes speak of the first, Pelican's of the
#: second, and each skips what it does not know.
CHECKSUM_PARTS = ("checksum", "checksum_archive")
#: How the names of parts begin that are a server's backups: Pelican's and Calagopus'. After a
#: success they go at the source, so they must not be skipped like a log.
BACKUP_PARTS = ("backup_", "backup-")


class UploadForm:
    """One upload. Feed it the body piece by piece, then `close` it for the checksum."""

    def __init__(
        self, content_type: str, user_agent: str = "", bounds: Form | None = None
    ) -> None:
        """Raise `WrongContentType` when `content_type` is not that of a form with a boundary."""
        # The document's own Python example breaks the document's rule: requests writes `data`
        # before `files`, whatever the caller does. Its users cannot help it, so it may.
        self._any_order = user_agent.startswith("python-requests/")
        bounds = bounds or Form()
        self._parser = PushMultipartParser(
            _boundary(content_type),
            max_segment_count=bounds.parts,
            max_header_count=bounds.headers,
            max_header_size=bounds.header_bytes,
        )
        self._part = ""
        self._checksums: dict[str, bytearray] = {}
        self._archive_seen = False
        #: True from the archive's last byte on.
        self.archive_complete = False

    def receive(self, chunk: bytes) -> Iterator[bytes]:
        """Take a piece of the body and yield what it holds of the archive.

        Raises `BadRequest` for parts in the wrong order or number and for what is not multipart.
        """
        try:
            for event in self._parser.parse(chunk) if chunk else ():
                if isinstance(event, MultipartSegment):
                    self._start(event.name)
                elif event is None:
                    self._end()
                elif self._part == "archive":
                    yield bytes(event)
                elif self._part in CHECKSUM_PARTS:
                    self._add_to_checksum(event)
        except MultipartError as error:
            raise BadRequest(
                "the request body is not valid multipart/form-data", str(error.args[0])
            ) from error

    def close(self) -> str:
        """Say that the body has ended and return the checksum as it was sent, without its case.

        Raises `BadRequest` when a part is missing or there are two checksums, `UploadCutShort`
        when the last part is not whole.
        """
        if self._archive_seen:
            self._require_end()
        if not self.archive_complete:
            raise IncompleteUpload('the body has no part named "archive"')
        checksums = {
            each.decode("ascii", "replace").strip().lower() for each in self._checksums.values()
        }
        if not checksums:
            raise IncompleteUpload('the body has no part named "checksum"')
        if len(checksums) > 1:
            raise BadRequest(
                f"the parts {' and '.join(CHECKSUM_PARTS)} differ", "send the archive's SHA-256"
            )
        return checksums.pop()

    def _require_end(self) -> None:
        try:
            self._parser.close()
        except MultipartError as error:
            raise UploadCutShort(
                "the upload ended before it was complete", "send the server again"
            ) from error

    def _start(self, name: str) -> None:
        if name == "archive":
            if self._archive_seen:
                raise BadRequest("the part archive was sent twice", "send it once")
            self._archive_seen = True
        elif name in CHECKSUM_PARTS:
            if not self.archive_complete and not self._any_order:
                raise ChecksumFirst
            if name in self._checksums:
                raise BadRequest(f"the part {name} was sent twice", "send it once")
            self._checksums[name] = bytearray()
        elif name.startswith(BACKUP_PARTS):
            raise BadRequest(
                "this node cannot take backups along with a server",
                "transfer it without them; a backup that is to be kept must be moved by hand",
            )
        self._part = name

    def _end(self) -> None:
        if self._part == "archive":
            self.archive_complete = True
        self._part = ""

    def _add_to_checksum(self, data: bytes | bytearray) -> None:
        checksum = self._checksums[self._part]
        checksum += data
        if len(checksum) > MAX_CHECKSUM:
            raise BadRequest("the checksum is too long", "send the SHA-256 in hexadecimal")


@attrs.frozen
class FormFrame:
    """What is written before and after an archive. `boundary` is a fresh one by default."""

    boundary: str = attrs.field(factory=lambda: secrets.token_hex(30))

    @property
    def content_type(self) -> str:
        """The request's Content-Type."""
        return f"multipart/form-data; boundary={self.boundary}"

    def before(self) -> bytes:
        """Return the bytes that precede the archive's."""
        return (
            f"--{self.boundary}\r\n"
            'Content-Disposition: form-data; name="archive"; filename="archive.tar.gz"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()

    def after(self, checksum: str) -> bytes:
        """Return the bytes that follow it: its SHA-256 in hexadecimal, and the form's end."""
        parts = [
            f"\r\n--{self.boundary}\r\n"
            f'Content-Disposition: form-data; name="{name}"\r\n\r\n{checksum}'
            for name in CHECKSUM_PARTS
        ]
        return f"{''.join(parts)}\r\n--{self.boundary}--\r\n".encode()


def _boundary(content_type: str) -> str:
    kind, options = parse_options_header(content_type)
    if kind.lower() != "multipart/form-data":
        raise WrongContentType(f"send multipart/form-data, not {kind or 'nothing'}")
    boundary = options.get("boundary", "")
    # RFC 2046, section 5.1.1: 1 to 70 characters. Some senders are more generous.
    if not 0 < len(boundary) <= 200 or "\n" in boundary or "\r" in boundary:  # noqa: PLR2004
        raise WrongContentType("the header Content-Type must name a boundary")
    return str(boundary)
