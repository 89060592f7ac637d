"""The catalogue of a backup: a file beside its archive with its server, state and checksums.

`UUID.catalogue.json` is one JSON object; docs/backups.md has its keys. It tells whose a backup is,
and by its checksums whether the archive is still what was made. Other programs do not know it, and
a backup without it is as good as any, but for that. Blocking.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from contextlib import suppress

import attrs

from wingsd.config import not_empty, not_negative, one_of
from wingsd.errors import InvalidData
from wingsd.util.serialization import InvalidField, structure, unknown_keys, unstructure
from wingsd.util.text import canonical_uuid

VERSION = 1
#: The states: the archive is as it was made, or was found to be something else.
COMPLETE, DAMAGED = "complete", "damaged"
#: Bytes of the file at most.
_MAX_SIZE = 64 << 10
_HEX = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def _uuid(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    """A UUID in lower case."""
    if canonical_uuid(value) != value:
        raise InvalidField(attribute.name, "expected a UUID in lower case")


def _version(_: object, attribute: attrs.Attribute[int], value: int) -> None:
    """The version of this format."""
    if value != VERSION:
        raise InvalidField(attribute.name, f"expected {VERSION}, found {value}")


def _digest(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    """A checksum in hexadecimal, or an empty text."""
    if value and not _HEX.fullmatch(value):
        raise InvalidField(attribute.name, "expected a checksum in hexadecimal")


def _file_name(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    """The name of a file beside the catalogue."""
    if not value or "/" in value or value.startswith("."):
        raise InvalidField(attribute.name, "expected the name of a file")


@attrs.frozen
class Catalogue:
    """The description of a backup's archive, the file `archive` beside the catalogue.

    `files` are its regular files, `checksum` is the one sent to the Panel; both may be unknown.
    `made` and `checked`, the time of the last check, are in seconds since the epoch, 0 for never;
    `fault` is what it found.
    """

    version: int = attrs.field(validator=_version)
    backup: str = attrs.field(validator=_uuid)
    server: str = attrs.field(validator=_uuid)
    state: str = attrs.field(validator=one_of(COMPLETE, DAMAGED))
    archive: str = attrs.field(validator=_file_name)
    bytes: int = attrs.field(validator=not_negative)
    sha256: str = attrs.field(validator=[not_empty, _digest])
    made: float
    checksum_type: str = attrs.field(default="", validator=one_of("", "sha1", "sha256"))
    checksum: str = attrs.field(default="", validator=_digest)
    files: int | None = None
    checked: float = 0.0
    fault: str = ""


def catalogue_name(backup: str) -> str:
    """Return the name of a backup's catalogue."""
    return f"{backup}.catalogue.json"


def parse_catalogue(content: bytes) -> Catalogue:
    """Return the catalogue in the content of a file. Raises `InvalidData`."""
    if len(content) > _MAX_SIZE:
        raise InvalidData(f"it is larger than {_MAX_SIZE >> 10} KiB")
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidData(f"it is not JSON: {error}") from error
    if isinstance(data, dict) and (unknown := unknown_keys(data, Catalogue)):
        raise InvalidData(f"{', '.join(sorted(unknown))}: not a key of version {VERSION}")
    return structure(data, Catalogue)


@attrs.frozen
class CatalogueFiles:
    """The catalogues in one directory, by its descriptor. Methods raise `OSError`."""

    directory: int

    def read(self, backup: str) -> Catalogue | None:
        """Return the catalogue of a backup; None where there is none.

        Raises `InvalidData` for a file that is not one.
        """
        try:
            fd = os.open(catalogue_name(backup), _READ, dir_fd=self.directory)
        except FileNotFoundError:
            return None
        with open(fd, "rb", buffering=0) as file:
            found = parse_catalogue(file.read(_MAX_SIZE + 1))
        if found.backup != backup:
            raise InvalidData(f"it is that of {found.backup}")
        return found

    def write(self, catalogue: Catalogue) -> None:
        """Write a catalogue in place of the one before it; at no time is it half written."""
        name = f".{catalogue.backup}.{secrets.token_hex(4)}.json"
        fd = os.open(name, _NEW, 0o600, dir_fd=self.directory)
        try:
            with open(fd, "wb") as file:
                file.write(json.dumps(unstructure(catalogue), indent=2).encode() + b"\n")
                file.flush()
                os.fsync(fd)
            os.rename(
                name,
                catalogue_name(catalogue.backup),
                src_dir_fd=self.directory,
                dst_dir_fd=self.directory,
            )
        except BaseException:
            with suppress(OSError):
                os.unlink(name, dir_fd=self.directory)
            raise

    def remove(self, backup: str) -> None:
        """Remove the catalogue of a backup, if there is one, and what a daemon died writing."""
        with suppress(FileNotFoundError):
            os.unlink(catalogue_name(backup), dir_fd=self.directory)
        self.remove_unfinished(backup)

    def remove_unfinished(self, backup: str) -> None:
        """Remove what a daemon died writing of the catalogue of a backup."""
        for name in os.listdir(self.directory):
            if name.startswith(f".{backup}.") and name.endswith(".json"):
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=self.directory)
