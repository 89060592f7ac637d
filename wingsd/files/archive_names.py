"""The archives that `compress` makes: their formats, extensions and types in each family."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import attrs

from wingsd.archive import ArchiveFormat
from wingsd.errors import ArchiveFormatUnsupported
from wingsd.files.copies import rfc_3339

__all__ = ["ArchiveKind", "default_name", "kind_of_extension", "kind_of_format"]


class _Type(Enum):
    """The MIME types of archives."""

    TAR = "application/x-tar"
    GZIP = "application/gzip"
    BZIP2 = "application/x-bzip2"
    XZ = "application/x-xz"
    LZ4 = "application/x-lz4"
    ZSTD = "application/zstd"
    ZIP = "application/zip"


@attrs.frozen
class ArchiveKind:
    """A kind of archive: with `tar` a tar in that format, else a zip. `suffix` has no dot."""

    tar: ArchiveFormat | None
    suffix: str
    mime: str

    @classmethod
    def of(cls, tar: ArchiveFormat, mime: _Type) -> ArchiveKind:
        """Return that of a tar."""
        return cls(tar, tar.suffix, mime.value)


_ZIP = ArchiveKind(None, "zip", _Type.ZIP.value)
#: By the names in Calagopus' Panel. Left out are `tar_lzip` and `seven_zip`, for which the
#: standard library has no compressor.
_FORMATS: Mapping[str, ArchiveKind] = {
    "tar": ArchiveKind.of(ArchiveFormat.TAR, _Type.TAR),
    "tar_gz": ArchiveKind.of(ArchiveFormat.TAR_GZ, _Type.GZIP),
    "tar_xz": ArchiveKind.of(ArchiveFormat.TAR_XZ, _Type.XZ),
    "tar_bz2": ArchiveKind.of(ArchiveFormat.TAR_BZ2, _Type.BZIP2),
    "tar_lz4": ArchiveKind.of(ArchiveFormat.TAR_LZ4, _Type.LZ4),
    "tar_zstd": ArchiveKind.of(ArchiveFormat.TAR_ZSTD, _Type.ZSTD),
    "zip": _ZIP,
}
#: By the extensions in Pelican's Panel; the file of a `tgz` is named `tar.gz`.
_EXTENSIONS: Mapping[str, ArchiveKind] = {
    "zip": _ZIP,
    **dict.fromkeys(("tar.gz", "tgz"), _FORMATS["tar_gz"]),
    **dict.fromkeys(("tar.bz2", "tbz2"), _FORMATS["tar_bz2"]),
    **dict.fromkeys(("tar.xz", "txz"), _FORMATS["tar_xz"]),
}


def kind_of_format(name: str) -> ArchiveKind:
    """Return the kind by its name in Calagopus' Panel. Raises `ArchiveFormatUnsupported`."""
    try:
        return _FORMATS[name]
    except KeyError:
        raise ArchiveFormatUnsupported(name, _FORMATS) from None


def kind_of_extension(extension: str) -> ArchiveKind:
    """Return the kind by an extension of Pelican's Panel; any other is a tar.gz, as there."""
    return _EXTENSIONS.get(extension.lower().removeprefix("."), _FORMATS["tar_gz"])


def default_name(now: float) -> bytes:
    """Return the name, without its suffix, of an archive that the user has not named."""
    return f"archive-{rfc_3339(now).replace(':', '')}".encode()
