"""Files as the pages show them."""

from __future__ import annotations

import stat
from datetime import UTC, datetime

import attrs
import pytest

from wingsd.files.entries import TEXT, FileEntry, entry_data, mode_text, time_text
from wingsd.filesystem.directory import Entry

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        (stat.S_IFREG | 0o644, "-rw-r--r--"),
        (stat.S_IFREG | 0o4755, "urwxr-xr-x"),
        (stat.S_IFREG, "----------"),
        (stat.S_IFDIR | 0o755, "drwxr-xr-x"),
        (stat.S_IFDIR | 0o3777, "dgtrwxrwxrwx"),
        (stat.S_IFLNK | 0o777, "Lrwxrwxrwx"),
        (stat.S_IFIFO | 0o600, "prw-------"),
        (stat.S_IFSOCK | 0o755, "Srwxr-xr-x"),
        (stat.S_IFBLK | 0o660, "Drw-rw----"),
        (stat.S_IFCHR | 0o666, "Dcrw-rw-rw-"),
        (stat.S_IFCHR | 0o4666, "Ducrw-rw-rw-"),
    ],
)
def test_a_mode_is_written_as_go_does(mode: int, text: str) -> None:
    assert mode_text(mode) == text


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_700_000_000 * SECOND, "2023-11-14T22:13:20Z"),
        (1_700_000_000 * SECOND + 120_000_000, "2023-11-14T22:13:20.12Z"),
        (1_700_000_000 * SECOND + 1, "2023-11-14T22:13:20.000000001Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (10**30, "9999-12-31T23:59:59Z"),
        (-(10**30), "0001-01-01T00:00:00Z"),
    ],
)
def test_a_time_is_written_as_rfc_3339_has_it(nanoseconds: int, text: str) -> None:
    assert time_text(nanoseconds) == text


def test_an_entry_has_all_that_the_pages_read() -> None:
    now = int(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()) * SECOND
    entry = Entry(b"caf\xe9", stat.S_IFREG | 0o640, 5, now, now + SECOND, 0, 1, 0, 0, 4096)
    data = entry_data(entry, TEXT)
    assert list(data) == list(attrs.fields_dict(FileEntry))
    assert data == {
        "name": "caf\U0010fee9",
        "created": "2026-01-02T03:04:06Z",
        "modified": "2026-01-02T03:04:05Z",
        "mode": "-rw-r-----",
        "mode_bits": "640",
        "size": 5,
        "directory": False,
        "file": True,
        "symlink": False,
        "mime": TEXT,
        "size_physical": 4096,
        "editable": True,
        "inner_editable": True,
        "virtual": False,
    }
