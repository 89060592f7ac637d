"""The recordings are what the families' nodes write, spelled out."""

from __future__ import annotations

import pytest

from tests.families.recordings import BACKUPS, LOG, RECORDINGS
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL

ONE, TWO = BACKUPS
#: With Go's multipart.Writer, CreateFormFile and WriteField.
GO = """\
--{boundary}
Content-Disposition: form-data; name="archive"; filename="archive.tar.gz"
Content-Type: application/octet-stream

{archive}
--{boundary}
Content-Disposition: form-data; name="%s"

{checksum}
"""
BODIES = {
    PTERODACTYL: GO % "checksum" + "--{boundary}--\n",
    PELICAN: GO % "checksum_archive"
    + """\
--{boundary}
Content-Disposition: form-data; name="backup_{one}.tar.gz"; filename="{one}.tar.gz"
Content-Type: application/octet-stream

{first}
--{boundary}
Content-Disposition: form-data; name="checksum_backup_{one}.tar.gz"

{first_checksum}
--{boundary}
Content-Disposition: form-data; name="backup_{two}.tar.gz"; filename="{two}.tar.gz"
Content-Type: application/octet-stream

{second}
--{boundary}
Content-Disposition: form-data; name="checksum_backup_{two}.tar.gz"

{second_checksum}
--{boundary}
Content-Disposition: form-data; name="install_logs"; filename="install.log"
Content-Type: application/octet-stream

{log}
--{boundary}--
""",
    CALAGOPUS: """\
--{boundary}
Content-Disposition: form-data; name="archive"; filename="archive.tar.gz"
Content-Type: application/x-tar

{archive}
--{boundary}
Content-Disposition: form-data; name="checksum"; filename="checksum"
Content-Type: text/plain

{checksum}
--{boundary}
Content-Disposition: form-data; name="install-logs"; filename="install.log"
Content-Type: text/plain

{log}
--{boundary}
Content-Disposition: form-data; name="backup-{one}"; filename="{one}.tar.gz"
Content-Type: backup/wings

{first}
--{boundary}
Content-Disposition: form-data; name="backup-checksum-{one}"; filename="backup-checksum-{one}"
Content-Type: text/plain

{first_checksum}
--{boundary}
Content-Disposition: form-data; name="backup-{two}"; filename="{two}.tar.gz"
Content-Type: backup/wings

{second}
--{boundary}
Content-Disposition: form-data; name="backup-checksum-{two}"; filename="backup-checksum-{two}"
Content-Type: text/plain

{second_checksum}
--{boundary}--
""",
}
#: As latin-1, in which a byte is a character.
FIELDS = {
    "one": ONE,
    "two": TWO,
    "first": BACKUPS[ONE].decode("latin-1"),
    "second": BACKUPS[TWO].decode("latin-1"),
    "first_checksum": "b493a503b5f3552bed4e18658820bf44ad55e0897d19d65e0d4833ee095eaff6",
    "second_checksum": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "log": LOG.decode("latin-1"),
}
HEADS = {
    PTERODACTYL: [
        b"POST /api/transfers HTTP/1.1",
        b"Host: node.invalid",
        b"User-Agent: Go-http-client/1.1",
        b"Transfer-Encoding: chunked",
        b"Authorization: Bearer a.b.c",
        b"Content-Type: multipart/form-data; boundary=%b",
        b"Accept-Encoding: gzip",
    ],
    CALAGOPUS: [
        b"POST /api/transfers HTTP/1.1",
        b"authorization: Bearer a.b.c",
        b"multiplex-stream-count: 0",
        b"content-type: multipart/form-data; boundary=%b",
        b"accept: */*",
        b"host: node.invalid",
        b"transfer-encoding: chunked",
    ],
}
HEADS[PELICAN] = HEADS[PTERODACTYL]


@pytest.mark.parametrize("family", RECORDINGS)
def test_each_body_is_what_its_family_writes(family: str) -> None:
    recording = RECORDINGS[family]
    text = BODIES[family].replace("\n", "\r\n")
    assert recording.body == text.format(
        boundary=recording.boundary,
        archive=recording.archive.decode("latin-1"),
        checksum=recording.checksum,
        **FIELDS,
    ).encode("latin-1")
    assert b"".join(recording.writes) == recording.body


@pytest.mark.parametrize("family", RECORDINGS)
def test_each_head_is_what_its_family_writes(family: str) -> None:
    recording = RECORDINGS[family]
    boundary = recording.boundary.encode()
    lines = [line.replace(b"%b", boundary) for line in HEADS[family]]
    assert recording.head("a.b.c") == b"\r\n".join([*lines, b"", b""])


def test_the_archives_are_as_their_families_pack_them() -> None:
    # Go's gzip writer has Go's own zero time and names no system.
    assert RECORDINGS[PTERODACTYL].archive[:10].hex() == "1f8b080000096e8804ff"
    assert RECORDINGS[PELICAN].archive == RECORDINGS[PTERODACTYL].archive
    assert RECORDINGS[CALAGOPUS].archive[:10].hex() == "1f8b0800000000000203"
