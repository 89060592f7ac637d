"""What goes to the journal, over a socket as journald has one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from tests.systemd.listeners import Journal, parse
from wingsd.errors import StorageError
from wingsd.systemd import journald
from wingsd.systemd.journald import Journald, JournalObserver, entry, is_journal, own_field


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


# Log events as the journal gets them


UUID = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"


@pytest.fixture
def sender(journal: Journal) -> Journald:
    return Journald(journal.address)


@pytest.fixture
def log(sender: Journald) -> Logger:
    return Logger("wingsd.some.Place", observer=JournalObserver(sender))


def test_an_event_comes_with_what_it_is_about(journal: Journal, log: Logger) -> None:
    log.warn(
        "{server}: {count} of {rate:.1f}, {error}",
        server=UUID,
        count=2,
        rate=0.5,
        error=StorageError("no room"),
        code="storage-failed",
        other=object(),
    )
    entry = journal.read()
    code = {name: entry.pop(name) for name in ("CODE_FILE", "CODE_LINE", "CODE_FUNC")}
    assert entry == {
        "MESSAGE": f"{UUID}: 2 of 0.5, {StorageError('no room')}",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "wingsd",
        "WINGSD_NAMESPACE": "wingsd.some.Place",
        "WINGSD_SERVER": UUID,
        "WINGSD_COUNT": "2",
        "WINGSD_RATE": "0.5",
        "WINGSD_ERROR": str(StorageError("no room")),
        "WINGSD_CODE": "storage-failed",
    }
    assert code["CODE_FILE"] == __file__
    assert code["CODE_FUNC"] == "test_an_event_comes_with_what_it_is_about"
    with open(__file__) as source:
        assert source.readlines()[int(code["CODE_LINE"]) - 1].strip() == "log.warn("


@pytest.mark.parametrize(
    ("level", "priority"),
    [("debug", "7"), ("info", "6"), ("warn", "4"), ("error", "3"), ("critical", "2")],
)
def test_levels_have_priorities(journal: Journal, log: Logger, level: str, priority: str) -> None:
    log.emit(LogLevel.lookupByName(level), "x")
    assert journal.read()["PRIORITY"] == priority


def test_a_failure_comes_with_its_traceback(journal: Journal, log: Logger) -> None:
    try:
        os.environ["WHICH_NOBODY_HAS_SET"]
    except KeyError:
        log.failure("{server}: a mistake", Failure(), server=UUID)
    entry = journal.read()
    first, *rest = entry["MESSAGE"].splitlines()
    assert first == f"{UUID}: a mistake"
    assert rest[-1] == "builtins.KeyError: 'WHICH_NOBODY_HAS_SET'"
    assert (entry["PRIORITY"], entry["WINGSD_SERVER"]) == ("2", UUID)
    assert entry["CODE_FUNC"] == "test_a_failure_comes_with_its_traceback"


def test_events_of_others_have_their_message_alone(journal: Journal) -> None:
    observer = JournalObserver(Journald(journal.address))
    Logger("twisted.web", observer=observer).info("{peer} came", peer="someone")
    entry = journal.read()
    assert entry["MESSAGE"] == "someone came"
    assert not [name for name in entry if name == "WINGSD_PEER"]


def test_an_event_without_words_is_none(journal: Journal) -> None:
    JournalObserver(Journald(journal.address))({"log_level": LogLevel.info})
    with pytest.raises(BlockingIOError):
        journal.read()


def test_lost_lines_are_reported_when_the_journal_is_back(
    journal: Journal, sender: Journald, log: Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journald, "_SEND_TIMEOUT", 0.01)
    sent = 0
    while not sender.lost:
        sent += 1
        log.info("line {number}", number=sent)
    log.info("line {number}", number=sent + 1)
    for number in range(1, sent):
        assert journal.read()["MESSAGE"] == f"line {number}"
    log.info("the next")
    assert journal.read()["MESSAGE"] == "the next"
    told = journal.read()
    assert told["MESSAGE"].startswith("2 log entries were lost")
    assert (told["PRIORITY"], told["SYSLOG_IDENTIFIER"]) == ("4", "wingsd")
    log.info("and on")
    assert journal.read()["MESSAGE"] == "and on"
