"""Errors of archives that users have extracted: each says what is wrong with the archive.

The messages of Wings are letter for letter; a user can act on all of them.
"""

from __future__ import annotations

from wingsd.errors import BadRequest, WingsdError
from wingsd.filesystem.errors import NameTooLong
from wingsd.user_archives.frames import Reason, Refusal

__all__ = [
    "ArchiveDamaged",
    "ArchiveEncrypted",
    "ArchiveExcessive",
    "ArchiveFormatUnknown",
    "ArchiveInParts",
    "ArchiveMethodUnsupported",
    "ArchiveNotParsed",
    "OverwritesFileInUse",
    "archive_error",
]


class ArchiveFormatUnknown(BadRequest):
    """The file is no archive that can be extracted here (400)."""

    code = "archive-format-unknown"

    def __init__(self) -> None:
        super().__init__("The archive provided is in a format Wings does not understand.")


class OverwritesFileInUse(BadRequest):
    """A file that is to be replaced is in use (400)."""

    code = "archive-overwrites-file-in-use"

    def __init__(self, detail: str) -> None:
        super().__init__(
            "One or more files this archive is attempting to overwrite are currently in use by "
            "another process. Please try again.",
            detail,
        )


class ArchiveDamaged(BadRequest):
    """The archive's bytes are not what its format demands (400)."""

    code = "archive-damaged"

    def __init__(self, detail: str) -> None:
        super().__init__("The archive is damaged or incomplete; upload it again.", detail)


class ArchiveEncrypted(BadRequest):
    """The archive needs a password (400)."""

    code = "archive-encrypted"

    def __init__(self) -> None:
        super().__init__(
            "The archive is encrypted, and this node knows no password; upload it without one."
        )


class ArchiveInParts(BadRequest):
    """The file is one part of an archive that was divided (400)."""

    code = "archive-in-parts"

    def __init__(self, detail: str) -> None:
        super().__init__(
            "The file is one of several parts of an archive; upload it undivided.", detail
        )


class ArchiveMethodUnsupported(BadRequest):
    """The archive is compressed in a way that cannot be read here (400)."""

    code = "archive-method-unsupported"

    def __init__(self, detail: str) -> None:
        super().__init__(
            "The archive is compressed by a method that this node does not have; make it a zip, "
            "a 7z or a tar.gz by the usual methods.",
            detail,
        )


class ArchiveExcessive(BadRequest):
    """The archive has too many members, or takes too much memory or time (400)."""

    code = "archive-excessive"

    def __init__(self, detail: str) -> None:
        super().__init__(
            "The archive takes more than this node gives to one; divide it, or make it with a "
            "dictionary of at most 64 MiB.",
            detail,
        )


class ArchiveNotParsed(WingsdError):
    """The process that parses the archive has failed (500)."""

    code = "archive-not-parsed"

    def __init__(self, detail: str) -> None:
        super().__init__("the archive could not be read", detail)


def archive_error(refusal: Refusal, *, is_part: bool) -> BadRequest:
    """Return the error of a refusal; `is_part` tells that the name is that of one part."""
    reason, detail = refusal.reason, refusal.detail
    if is_part and reason in (Reason.UNKNOWN_FORMAT, Reason.DAMAGED):
        return ArchiveInParts(detail)
    errors = {
        Reason.UNKNOWN_FORMAT: ArchiveFormatUnknown,
        Reason.ENCRYPTED: ArchiveEncrypted,
    }
    if reason in errors:
        return errors[reason]()
    with_detail = {
        Reason.DAMAGED: ArchiveDamaged,
        Reason.UNSUPPORTED: ArchiveMethodUnsupported,
        Reason.EXCESSIVE: ArchiveExcessive,
        Reason.LONG_NAME: NameTooLong,
    }
    return with_detail[reason](detail)
