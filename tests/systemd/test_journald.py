"""What goes to the journal, over a socket as journald has one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.systemd.journal import Journal, parse
from wingsd.systemd import journald
from wingsd.systemd.journald import Journald, entry, is_journal, own_field


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path) as made:
        yield made


def test_a_field_is_a_line() -> None:
    assert entry({"MESSAGE": "hello", "PRIORITY": "6"}) == b"MESSAGE=hello\nPRIORITY=6\n"


def test_a_value_with_a_line_break_comes_by_its_length() -> None:
    assert entry({"MESSAGE": "a\nb"}) == b"MESSAGE\n\x03\0\0\0\0\0\0\0a\nb\n"


def test_a_name_of_a_file_that_is_no_text_is_shown_escaped() -> None:
    assert entry({"MESSAGE": os.fsdecode(b"caf\xe9")}) == b"MESSAGE=caf\\udce9\n"


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True), st.text()))
def test_any_fields_are_read_as_they_were(fields: dict[str, str]) -> None:
    assert parse(entry(fields)) == {
        name: value.encode("utf-8", "backslashreplace").decode() for name, value in fields.items()
    }


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("server", "WINGSD_SERVER"),
        ("has_2", "WINGSD_HAS_2"),
        ("ä", None),
        ("a b", None),
        ("x" * 57, "WINGSD_" + "X" * 57),
        ("x" * 58, None),
    ],
)
def test_a_key_is_a_field_where_it_can_be(key: str, name: str | None) -> None:
    assert own_field(key) == name


def test_an_entry_is_one_datagram(journal: Journal) -> None:
    sender = Journald(journal.address)
    assert sender.send(entry({"MESSAGE": "hello"}))
    assert journal.read() == {"MESSAGE": "hello"}
    assert journal.files == 0


def test_a_large_one_is_a_file_that_nobody_can_change(journal: Journal) -> None:
    sender = Journald(journal.address)
    text = "x" * (4 << 20)
    assert sender.send(entry({"MESSAGE": text}))
    assert journal.read() == {"MESSAGE": text}
    assert journal.files == 1
    before = len(os.listdir("/proc/self/fd"))
    assert sender.send(entry({"MESSAGE": text}))
    journal.read()
    assert len(os.listdir("/proc/self/fd")) == before


def test_without_a_journal_nothing_is_raised_and_the_loss_is_counted(tmp_path: Path) -> None:
    sender = Journald(str(tmp_path / "none"))
    assert not sender.send(b"MESSAGE=a\n")
    assert not sender.send(b"MESSAGE=b\n")
    assert sender.lost == 2


def test_a_busy_journal_delays_once(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journald, "_SEND_TIMEOUT", 0.01)
    sender = Journald(journal.address)
    while sender.send(b"MESSAGE=a\n"):
        pass
    monkeypatch.setattr(journald, "_SEND_TIMEOUT", 3600.0)
    for _ in range(3):
        assert not sender.send(b"MESSAGE=b\n")
    assert sender.lost == 4
    journal.read()
    assert sender.send(b"MESSAGE=c\n")


def test_the_journal_is_known_by_the_file_itself(tmp_path: Path) -> None:
    with open(tmp_path / "file", "w") as file:
        status = os.fstat(file.fileno())
        environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert is_journal(file.fileno(), environ)
        assert not is_journal(file.fileno(), {})
        # Inherited by a program whose output goes elsewhere.
        assert not is_journal(file.fileno(), {"JOURNAL_STREAM": "1:2"})
        closed = file.fileno()
    assert not is_journal(closed, environ)
