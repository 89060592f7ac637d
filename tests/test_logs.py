"""Where the log goes, by twistd's options, and from which level on."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, Logger
from twisted.python.syslog import SyslogObserver

from wingsd.logs import Logs

USUAL = {"logfile": None, "logger": None, "nodaemon": 1, "prefix": "twisted", "syslog": 0}


@pytest.fixture(autouse=True)
def kept_signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


def log(logs: Logs, **options: Any) -> Logger:
    observer: Any = logs.observer(USUAL | options, ReactorClock())
    assert ILogObserver.providedBy(observer)
    return Logger("wingsd.some.Place", observer=observer)


class ReactorClock(Clock):
    """A clock that does at once what it is told from elsewhere."""

    def callFromThread(self, function: Any, *args: object) -> None:
        function(*args)


def test_lines_look_as_twistd_writes_them(capsys: pytest.CaptureFixture[str]) -> None:
    log(Logs(debug=False)).info("{server}: here", server="a")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT[\d:]+[+-]\d{4} \[wingsd\.some\.Place#info\] a: here\n",
        capsys.readouterr().out,
    )


def test_the_level_debug_is_shown_where_it_is_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs = Logs(debug=False)
    logger = log(logs)
    logger.debug("one")
    logs.show_debug(True)
    logger.debug("two")
    logs.show_debug(False)
    logger.debug("three")
    logger.warn("four")
    assert re.findall(r"\] (\w+)\n", capsys.readouterr().out) == ["two", "four"]


def test_it_is_shown_from_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    log(Logs(debug=True)).debug("one")
    assert capsys.readouterr().out


def test_a_file_that_is_named_gets_the_log_and_is_begun_anew_on_a_signal(tmp_path: Path) -> None:
    path = tmp_path / "node.log"
    logger = log(Logs(debug=False), logfile=str(path))
    logger.info("before")
    handler: Any = signal.getsignal(signal.SIGUSR1)
    handler(signal.SIGUSR1, None)
    logger.info("after")
    assert "before" in Path(f"{path}.1").read_text()
    assert "before" not in path.read_text()
    assert "after" in path.read_text()


def test_a_daemon_in_the_background_logs_to_twistds_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    log(Logs(debug=False), nodaemon=0).info("there")
    assert "there" in (tmp_path / "twistd.log").read_text()


@pytest.mark.parametrize(
    "options", [{"logger": "some.module.observer"}, {"logfile": "-", "nodaemon": 0}]
)
def test_what_twistd_has_to_say_is_left_to_it(options: dict[str, Any]) -> None:
    assert Logs(debug=False).observer(USUAL | options, ReactorClock()) is None


def test_syslog_is_filtered_too(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(SyslogObserver, "syslog", lambda _, priority, line: lines.append(line))
    logger = log(Logs(debug=False), syslog=1)
    logger.debug("one")
    logger.info("two")
    assert lines == ["[-] two"]
