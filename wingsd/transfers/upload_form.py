"""The body of an upload as multipart/form-data: an archive, its checksum, and attachments.

Reading: `UploadForm` has the rules of `POST /api/transfers` about the parts: which there must be,
in which order, and that unknown ones are skipped. Writing: `FormFrame` writes what Go's
mime/multipart writes, to the byte, since that is what all other nodes have always been sent.
Pure: bytes in, bytes out.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping

import attrs
from multipart import MultipartError, MultipartSegment

from wingsd.backups.store import (
    LOG_PARTS,
    WINGS,
    Attachment,
    Backup,
    BackupChecksum,
    attachment_of,
)
from wingsd.config import CALAGOPUS, PELICAN, FormConfig
from wingsd.errors import (
    ArchiveNotFirst,
    InvalidContentType,
    InvalidForm,
    UploadPartMissing,
    UploadTruncated,
)
from wingsd.util.multipart_form import FormParts, form_boundary

_KEYS = "system.transfers.form"

#: Bytes. A SHA-256 in hexadecimal has 64; whatever is longer is not one.
MAX_CHECKSUM = 256
#: The checksum's names: Pterodactyl's and Calagopus' nodes speak of the first, Pelican's of the
#: second, and each skips what it does not know.
CHECKSUM_PARTS = ("checksum", "checksum_archive")
#: The content type of a file of which nothing is said.
_BYTES = "application/octet-stream"


@attrs.frozen(repr=False)
class Checksums:
    """The SHA-256 of the archive, and of each backup by its UUID, as sent but in lower case."""

    archive: str
    backups: Mapping[str, str] = attrs.field(factory=dict)


class UploadForm:
    """One upload. Feed it the body piece by piece, then `close` it for the checksums."""

    def __init__(
        self, content_type: str, user_agent: str = "", bounds: FormConfig | None = None
    ) -> None:
        """Raise `InvalidContentType` when `content_type` is not that of a form with a boundary."""
        # The document's own Python example breaks the document's rule: requests writes `data`
        # before `files`, whatever the caller does, so any order is accepted from it.
        self._any_order = user_agent.startswith("python-requests/")
        try:
            boundary = form_boundary(content_type)
        except MultipartError as error:
            raise InvalidContentType(str(error.args[0])) from error
        self._parts = FormParts(boundary, bounds or FormConfig(), _KEYS)
        #: Whether the bytes of the part that is being read are passed on, or a checksum.
        self._wanted = False
        self._checksum: bytearray | None = None
        self._checksums: dict[str | BackupChecksum, bytearray] = {}
        #: The UUIDs of the backups that have come, and an empty text for the log.
        self._attached: set[str] = set()
        self._archive_seen = False
        #: True from the archive's last byte on.
        self.archive_complete = False

    def receive(self, chunk: bytes) -> Iterator[bytes | Attachment]:
        """Take a piece of the body and yield its part of the archive, then of the attachments.

        The bytes that follow an attachment are its own. Raises `BadRequest` for parts in the
        wrong order or number, for a backup that cannot be kept, and for an invalid form.
        """
        try:
            for event in self._parts.parse(chunk):
                if isinstance(event, MultipartSegment):
                    attachment = self._start(event)
                    if attachment is not None:
                        yield attachment
                elif event is None:
                    self._end()
                elif self._wanted:
                    yield event
                elif self._checksum is not None:
                    self._checksum += event
                    if len(self._checksum) > MAX_CHECKSUM:
                        raise InvalidForm(
                            "the checksum is too long", "send the SHA-256 in hexadecimal"
                        )
        except MultipartError as error:
            raise InvalidForm(
                "the request body is not valid multipart/form-data", str(error.args[0])
            ) from error

    def close(self) -> Checksums:
        """Take the end of the body; return the checksums as they were sent.

        Raises `BadRequest` when a part is missing or the archive has two checksums,
        `UploadTruncated` when the last part is not whole.
        """
        if self._archive_seen and not self._parts.is_complete:
            raise UploadTruncated(
                "the upload ended before it was complete", "send the server again"
            )
        if not self.archive_complete:
            raise UploadPartMissing('the body has no part named "archive"')
        return Checksums(self._of_archive(), self._of_backups())

    def _of_archive(self) -> str:
        checksums = {_text(self._checksums[n]) for n in CHECKSUM_PARTS if n in self._checksums}
        if not checksums:
            raise UploadPartMissing('the body has no part named "checksum"')
        if len(checksums) > 1:
            raise InvalidForm(
                f"the parts {' and '.join(CHECKSUM_PARTS)} differ", "send the archive's SHA-256"
            )
        return checksums.pop()

    def _of_backups(self) -> dict[str, str]:
        came = self._attached - {""}
        found = {
            key.uuid: _text(checksum)
            for key, checksum in self._checksums.items()
            if isinstance(key, BackupChecksum)
        }
        for uuid in sorted(came ^ found.keys()):
            missing = "the checksum" if uuid in came else "the file"
            raise UploadPartMissing(f"the body lacks {missing} of the backup {uuid}")
        return found

    def _start(self, segment: MultipartSegment) -> Attachment | None:
        """Begin a part; return it if it is an attachment, whose bytes are passed on."""
        name = segment.name
        self._wanted, self._checksum = False, None
        if name == "archive":
            self._once(not self._archive_seen, name)
            self._archive_seen = self._wanted = True
        elif name in CHECKSUM_PARTS:
            self._expect_checksum(name, name)
        else:
            found = attachment_of(name, segment.filename or "", segment.content_type or "")
            if isinstance(found, BackupChecksum):
                self._expect_checksum(name, found)
            elif found is not None:
                self._add_attachment(name, found)
                return found
        return None

    def _expect_checksum(self, name: str, key: str | BackupChecksum) -> None:
        if not self.archive_complete and not self._any_order:
            raise ArchiveNotFirst
        self._once(key not in self._checksums, name)
        self._checksum = self._checksums[key] = bytearray()

    def _add_attachment(self, name: str, attachment: Attachment) -> None:
        if not self.archive_complete:
            raise ArchiveNotFirst(name)
        key = attachment.uuid if isinstance(attachment, Backup) else ""
        self._once(key not in self._attached, name)
        self._attached.add(key)
        self._wanted = True

    def _once(self, is_first: bool, name: str) -> None:
        if not is_first:
            raise InvalidForm(f"the part {name} was sent twice", "send it once")

    def _end(self) -> None:
        self.archive_complete = self._archive_seen
        self._wanted, self._checksum = False, None


@attrs.frozen(eq=False, repr=False)
class FormFrame:
    """The bytes of the form around an archive. `boundary` is a new one by default.

    `filename` is the archive's, by which Calagopus' nodes tell its format.
    """

    filename: str = "archive.tar.gz"
    boundary: str = attrs.field(factory=lambda: secrets.token_hex(30))

    @property
    def content_type(self) -> str:
        """The request's Content-Type."""
        return f"multipart/form-data; boundary={self.boundary}"

    def before(self) -> bytes:
        """Return the bytes that precede the archive's."""
        return self._file("archive", self.filename).removeprefix(b"\r\n")

    def after(self, checksum: str) -> bytes:
        """Return the bytes that follow it: its SHA-256 in hexadecimal."""
        return b"".join(self._field(name, checksum) for name in CHECKSUM_PARTS)

    def before_backup(self, backup: Backup) -> bytes:
        """Return the bytes that precede a backup's, in the form of its family."""
        filename = f"{backup.uuid}.{backup.suffix}"
        if backup.family == PELICAN:
            return self._file(f"backup_{filename}", filename)
        return self._file(f"backup-{backup.uuid}", filename, WINGS)

    def after_backup(self, backup: Backup, checksum: str) -> bytes:
        """Return the bytes that follow it: its SHA-256 in hexadecimal."""
        if backup.family == PELICAN:
            return self._field(f"checksum_backup_{backup.uuid}.{backup.suffix}", checksum)
        return self._field(f"backup-checksum-{backup.uuid}", checksum)

    def before_log(self, family: str) -> bytes:
        """Return the bytes that precede an installation's log, in the form of a family."""
        kind = "text/plain" if family == CALAGOPUS else _BYTES
        return self._file(LOG_PARTS[family], "install.log", kind)

    def end(self) -> bytes:
        """Return the last bytes."""
        return f"\r\n--{self.boundary}--\r\n".encode()

    def _file(self, name: str, filename: str, kind: str = _BYTES) -> bytes:
        return (
            f"\r\n--{self.boundary}\r\n"
            f'Content-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
            f"Content-Type: {kind}\r\n\r\n"
        ).encode()

    def _field(self, name: str, value: str) -> bytes:
        return (
            f"\r\n--{self.boundary}\r\n"
            f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'
        ).encode()


def _text(checksum: bytearray) -> str:
    return checksum.decode("ascii", "replace").strip().lower()
