"""Where the log goes, by twistd's options, and from which level on."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, Logger
from twisted.python.failure import Failure
from twisted.python.log import LogPublisher
from twisted.python.syslog import SyslogObserver

from tests.systemd.listeners import Journal
from wingsd.app.logging import EscapingObserver, LogOutput
from wingsd.errors import ConfigError, StorageError
from wingsd.systemd.journald import Journald, JournalObserver

USUAL = {"logfile": None, "logger": None, "nodaemon": 1, "prefix": "twisted", "syslog": 0}


def a_reactor() -> Any:
    return ReactorClock()


def log(logs: LogOutput, **options: Any) -> Logger:
    observer: Any = logs.observer(USUAL | options, a_reactor())
    assert ILogObserver.providedBy(observer)
    return Logger("wingsd.some.Place", observer=observer)


class ReactorClock(Clock):
    """A clock that does at once what it is told from elsewhere."""

    def callFromThread(self, function: Any, *args: object) -> None:
        function(*args)


def test_lines_look_as_twistd_writes_them(capsys: pytest.CaptureFixture[str]) -> None:
    log(LogOutput(debug=False)).info("{server}: here", server="a")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT[\d:]+[+-]\d{4} \[wingsd\.some\.Place#info\] a: here\n",
        capsys.readouterr().out,
    )


ESCAPES = "\x1b[2J\x9b\u202e\u2028\r\n2026-01-01T00:00:00+0000 [wingsd.app.daemon#info] forged"
ESCAPED = (
    "\\x1b[2J\\x9b\\u202e\\u2028\\r\\n2026-01-01T00:00:00+0000 [wingsd.app.daemon#info] forged"
)


class Foreign(Exception):
    """An error whose words are another's."""


def lines_of(text: str) -> list[str]:
    """Return what a terminal, or any reader of text, takes for the lines of a log."""
    assert text.endswith("\n")
    return text.splitlines()


@pytest.mark.promise("log-lines-cannot-be-forged")
@pytest.mark.parametrize(
    ("form", "values"),
    [
        ("{it}", {"it": ESCAPES}),
        ("{it}", {"it": Foreign(ESCAPES)}),
        ("{it.args[0]}", {"it": Foreign(ESCAPES)}),
        ("{it()}", {"it": lambda: ESCAPES}),
        ("{it.lower}", {"it": type("", (), {"lower": ESCAPES})()}),
        ("{it!s:>5}", {"it": ESCAPES}),
    ],
)
def test_no_value_of_an_event_makes_a_line_of_its_own(
    capsys: pytest.CaptureFixture[str], form: str, values: dict[str, Any]
) -> None:
    log(LogOutput(debug=False)).info(f"from outside: {form}, {{count:.1f}}", count=2, **values)
    (line,) = lines_of(capsys.readouterr().out)
    assert line.endswith(f"] from outside: {ESCAPED}, 2.0")


def test_a_long_value_is_cut_and_what_follows_stays(capsys: pytest.CaptureFixture[str]) -> None:
    log(LogOutput(debug=False)).info("{it}: {why}", it="x" * 10**6, why="too long")
    (line,) = lines_of(capsys.readouterr().out)
    assert line.endswith("xx…: too long")
    assert len(line) < 3000


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"error": StorageError("no room")}, "storage-failed"),
        ({"why": ConfigError("no room")}, "invalid-configuration"),
        ({"error": StorageError("no room"), "code": "internal-error"}, "internal-error"),
    ],
)
def test_a_line_about_an_error_ends_with_its_code(
    capsys: pytest.CaptureFixture[str], values: dict[str, Any], code: str
) -> None:
    log(LogOutput(debug=False)).warn("not stored: no room", **values)
    (line,) = lines_of(capsys.readouterr().out)
    assert line.endswith(f"] not stored: no room ({code})")


def test_a_number_by_the_name_of_a_code_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    log(LogOutput(debug=False)).info("its program ended, exit code {code}", code=1)
    (line,) = lines_of(capsys.readouterr().out)
    assert line.endswith("] its program ended, exit code 1")


def test_the_code_of_an_error_is_a_field_of_the_journal(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        observer = EscapingObserver(JournalObserver(Journald(journal.address)))
        error = StorageError("no room")
        Logger("wingsd.some.Place", observer=observer).warn("{error}", error=error)
        entry = journal.read()
    assert entry["WINGSD_CODE"] == "storage-failed"
    assert entry["MESSAGE"].endswith("no room (storage-failed)")


def failed() -> Failure:
    def fail() -> None:
        raise Foreign(ESCAPES)

    try:
        fail()
    except Foreign:
        return Failure()
    raise AssertionError("it did not fail")


@pytest.mark.promise("log-lines-cannot-be-forged")
def test_a_traceback_is_readable_and_forges_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    log(LogOutput(debug=False)).failure("{it}: a mistake", failed(), it=ESCAPES)
    first, *rest = lines_of(capsys.readouterr().out)
    assert first.endswith(f"] {ESCAPED}: a mistake")
    assert rest[0] == "\tTraceback (most recent call last):"
    assert '", line ' in rest[1]
    # Lines that the exception begins are marked as all others of a traceback are.
    assert all(line.startswith("\t") and line[1:].isprintable() for line in rest)


def test_an_endless_traceback_is_cut_in_the_middle(capsys: pytest.CaptureFixture[str]) -> None:
    failure = failed()
    failure.value = Foreign("line\n" * 10**5)
    log(LogOutput(debug=False)).failure("it failed", failure)
    lines = lines_of(capsys.readouterr().out)
    assert len(lines) == 402
    assert any("lines omitted" in line for line in lines)


def test_what_is_logged_in_the_old_way_is_escaped_too(capsys: pytest.CaptureFixture[str]) -> None:
    observer: Any = LogOutput(debug=False).observer(USUAL, a_reactor())
    publisher = LogPublisher(publishPublisher=observer)
    publisher.msg(ESCAPES)
    publisher.msg(format="%(it)s", it=ESCAPES)
    publisher.msg(failure=failed(), why=ESCAPES, isError=1)
    one, other, error, *rest = lines_of(capsys.readouterr().out)
    assert one.endswith(f"] {ESCAPED}")
    assert other.endswith(f"] {ESCAPED}")
    assert error.endswith(f"] {ESCAPED}")
    assert rest[0] == "\tTraceback (most recent call last):"
    assert all(line.startswith("\t") for line in rest)


@pytest.mark.promise("log-lines-cannot-be-forged")
def test_syslog_and_journald_get_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    monkeypatch.setattr(SyslogObserver, "syslog", lambda _, priority, line: sent.append(line))
    log(LogOutput(debug=False), syslog=1).error("{it}", it=ESCAPES)
    assert sent == [f"[-] {ESCAPED}"]
    with Journal(tmp_path) as journal:
        observer = EscapingObserver(JournalObserver(Journald(journal.address)))
        logger = Logger("wingsd.some.Place", observer=observer)
        logger.warn("{why}", why=ESCAPES, error=Foreign(ESCAPES), count=2)
        entry = journal.read()
    assert entry["MESSAGE"] == entry["WINGSD_WHY"] == entry["WINGSD_ERROR"] == ESCAPED
    assert entry["WINGSD_COUNT"] == "2"
    assert entry["CODE_FILE"] == __file__


def test_debug_lines_are_shown_if_configured(capsys: pytest.CaptureFixture[str]) -> None:
    logs = LogOutput(debug=False)
    logger = log(logs)
    logger.debug("one")
    logs.show_debug(True)
    logger.debug("two")
    logs.show_debug(False)
    logger.debug("three")
    logger.warn("four")
    assert re.findall(r"\] (\w+)\n", capsys.readouterr().out) == ["two", "four"]


def test_a_file_that_is_named_gets_the_log_and_is_begun_anew_on_a_signal(tmp_path: Path) -> None:
    path = tmp_path / "node.log"
    logger = log(LogOutput(debug=False), logfile=str(path))
    logger.info("before")
    handler: Any = signal.getsignal(signal.SIGUSR1)
    handler(signal.SIGUSR1, None)
    logger.info("after")
    assert "before" in Path(f"{path}.1").read_text()
    assert "before" not in path.read_text()
    assert "after" in path.read_text()


def test_a_file_that_logrotate_has_moved_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "node.log"
    logger = log(LogOutput(debug=False), logfile=str(path))
    logger.info("before")
    moved = path.rename(tmp_path / "node.log.1")
    logger.info("between")
    handler: Any = signal.getsignal(signal.SIGUSR1)
    handler(signal.SIGUSR1, None)
    logger.info("after")
    assert ["before" in moved.read_text(), "between" in moved.read_text()] == [True, True]
    assert "after" in path.read_text()
    assert "between" not in path.read_text()


@pytest.mark.parametrize(
    "options", [{"logger": "some.module.observer"}, {"logfile": "-", "nodaemon": 0}]
)
def test_options_of_twistd_take_precedence(options: dict[str, Any]) -> None:
    assert LogOutput(debug=False).observer(USUAL | options, a_reactor()) is None
