"""Which part is what: of its name only a UUID and a known suffix become a path."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingsd.backups.store import (
    SUFFIXES,
    AttachedLog,
    Backup,
    BackupChecksum,
    attachment_of,
    backup_at,
)
from wingsd.config import CALAGOPUS, PELICAN
from wingsd.errors import BadRequest

UUID = "5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11"
SERVER = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"
WINGS = "backup/wings"


@pytest.mark.parametrize("name", ["install_logs", "install-logs"])
def test_a_log_has_either_name(name: str) -> None:
    assert attachment_of(name, "install.log", "text/plain") == AttachedLog()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_backup_goes_where_its_family_keeps_it(suffix: str) -> None:
    file = f"{UUID}.{suffix}"
    pelicans = attachment_of(f"backup_{file}", file)
    calagopus = attachment_of(f"backup-{UUID}", file, WINGS)
    assert pelicans == Backup(UUID, suffix, PELICAN)
    assert calagopus == Backup(UUID, suffix, CALAGOPUS)
    assert pelicans.path(SERVER) == f"{SERVER}/{file}"
    assert calagopus.path(SERVER) == file
    for backup in (pelicans, calagopus):
        assert backup_at(backup.path(SERVER)) == backup


def test_a_checksum_belongs_to_a_backup() -> None:
    assert attachment_of(f"checksum_backup_{UUID}.tar.gz") == BackupChecksum(UUID)
    assert attachment_of(f"backup-checksum-{UUID}", "x", "text/plain") == BackupChecksum(UUID)


@pytest.mark.parametrize(
    "name", [f"../../etc/{UUID}.tar.gz", f"/etc/{UUID.upper()}.tar.gz", f"..\\{UUID}.tar.gz"]
)
def test_directories_in_names_are_ignored(name: str) -> None:
    assert attachment_of(f"backup_{name}") == Backup(UUID, "tar.gz", PELICAN)
    assert attachment_of(f"backup-{UUID}", name, WINGS) == Backup(UUID, "tar.gz", CALAGOPUS)


@pytest.mark.promise("attached-backups-arrive-whole")
@pytest.mark.parametrize(
    ("name", "file", "kind"),
    [
        ("backup_", "", ""),
        ("backup_world.tar.gz", "world.tar.gz", ""),
        (f"backup_{UUID}", UUID, ""),
        (f"backup_{UUID}.tar.gz.exe", "", ""),
        (f"backup_{UUID}.tar.gz/", "", ""),
        (f"backup_{UUID}.TAR.GZ", "", ""),
        (f"backup_{UUID}.tar.gz\n", "", ""),
        (f"backup_{'-' * 36}.tar.gz", "", ""),
        (f"checksum_backup_{UUID}", "", ""),
        ("backup-x", f"{UUID}.tar", WINGS),
        (f"backup-{UUID}", "", WINGS),
        (f"backup-{UUID}", "passwd", WINGS),
        (f"backup-{UUID}", f"{UUID}.tar", "backup/restic"),
        (f"backup-{UUID}", f"{UUID}.tar", ""),
        ("backup-checksum-x", "", "text/plain"),
    ],
)
def test_a_backup_that_cannot_be_kept_is_refused(name: str, file: str, kind: str) -> None:
    with pytest.raises(BadRequest) as caught:
        attachment_of(name, file, kind)
    assert caught.value.detail.startswith(f"the part {name[:80]!r}: ")


@pytest.mark.parametrize("name", ["", "x", "archive", "backup", "backups", "install.log"])
def test_other_parts_are_not_attachments(name: str) -> None:
    assert attachment_of(name) is None


@given(
    st.sampled_from(["backup_", "backup-", f"backup-{UUID}"]),
    st.text() | st.builds("{}{}.{}".format, st.text(), st.just(UUID), st.sampled_from(SUFFIXES)),
)
def test_no_name_leads_out_of_its_directory(prefix: str, text: str) -> None:
    try:
        found = attachment_of(prefix if UUID in prefix else prefix + text, text, WINGS)
    except BadRequest:
        return
    assert isinstance(found, Backup)
    assert found.uuid == UUID
    assert found.path(SERVER) in {
        f"{where}{UUID}.{suffix}" for where in ("", f"{SERVER}/") for suffix in SUFFIXES
    }
