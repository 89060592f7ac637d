"""The form of an upload, as a source writes it around an archive and what goes along."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transfers.test_upload_form import CHECKSUM, receive
from wingsd.backups.store import Backup
from wingsd.config import CALAGOPUS, PELICAN
from wingsd.transfers.upload_form import FormFrame


def test_an_upload_is_written_as_gos_multipart_writes_it() -> None:
    frame = FormFrame(boundary="b0")
    assert frame.content_type == "multipart/form-data; boundary=b0"
    assert frame.before() == (
        b"--b0\r\n"
        b'Content-Disposition: form-data; name="archive"; filename="archive.tar.gz"\r\n'
        b"Content-Type: application/octet-stream\r\n"
        b"\r\n"
    )
    assert frame.after("cafe") == (
        b"\r\n--b0\r\n"
        b'Content-Disposition: form-data; name="checksum"\r\n'
        b"\r\n"
        b"cafe"
        b"\r\n--b0\r\n"
        b'Content-Disposition: form-data; name="checksum_archive"\r\n'
        b"\r\n"
        b"cafe"
    )
    assert frame.end() == b"\r\n--b0--\r\n"


def test_backups_are_written_as_each_family_writes_them() -> None:
    frame = FormFrame(boundary="b0")
    uuid = "5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11"
    for family, before, after in (
        (
            PELICAN,
            f'form-data; name="backup_{uuid}.tar.gz"; filename="{uuid}.tar.gz"\r\n'
            "Content-Type: application/octet-stream",
            f'form-data; name="checksum_backup_{uuid}.tar.gz"',
        ),
        (
            CALAGOPUS,
            f'form-data; name="backup-{uuid}"; filename="{uuid}.tar.gz"\r\n'
            "Content-Type: backup/wings",
            f'form-data; name="backup-checksum-{uuid}"',
        ),
    ):
        backup = Backup(uuid, "tar.gz", family)
        start = "\r\n--b0\r\nContent-Disposition: "
        assert frame.before_backup(backup) == f"{start}{before}\r\n\r\n".encode()
        assert frame.after_backup(backup, "cafe") == f"{start}{after}\r\n\r\ncafe".encode()


@pytest.mark.parametrize(
    ("family", "name", "kind"),
    [
        (PELICAN, "install_logs", "application/octet-stream"),
        (CALAGOPUS, "install-logs", "text/plain"),
    ],
)
def test_a_log_is_written_as_each_family_writes_it(family: str, name: str, kind: str) -> None:
    head = f'Content-Disposition: form-data; name="{name}"; filename="install.log"'
    expected = f"\r\n--b0\r\n{head}\r\nContent-Type: {kind}\r\n\r\n"
    assert FormFrame(boundary="b0").before_log(family) == expected.encode()


@given(st.binary(max_size=400))
def test_what_is_written_can_be_read(archive: bytes) -> None:
    frame = FormFrame()
    whole = [frame.before(), archive, frame.after(CHECKSUM), frame.end()]
    assert receive(whole, frame.content_type) == (archive, CHECKSUM.lower())


def test_each_upload_has_a_boundary_of_its_own() -> None:
    first, second = FormFrame().boundary, FormFrame().boundary
    assert first != second
    assert len(first) == len(second) == 60
