"""What is said when the daemon cannot be spoken to, or refuses."""

from __future__ import annotations

import grp
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from tests.cli.daemon import Command, Scripted
from wingsd.cli import client as module
from wingsd.cli.client import ControlClient, CtlError, Exit


def test_without_a_daemon_it_says_how_one_is_started(wingsctl: Command) -> None:
    ran = wingsctl("status")
    assert (ran.status, ran.out) == (Exit.NO_DAEMON, "")
    assert "wingsd is not running: there is no" in ran.err
    assert "systemctl start wingsd" in ran.err


def test_a_socket_of_a_dead_daemon_is_reported_as_no_daemon(wingsctl: Command) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(wingsctl.path))
    ran = wingsctl("transfers")
    assert ran.status == Exit.NO_DAEMON
    assert "no process listens on" in ran.err


def test_with_json_an_error_is_json_too(wingsctl: Command) -> None:
    ran = wingsctl("status", "--json")
    assert (ran.status, ran.out) == (Exit.NO_DAEMON, "")
    told = json.loads(ran.err)
    assert told["error"].startswith("wingsd is not running")
    assert "systemctl" in told["detail"]


def test_what_the_daemon_quotes_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    CtlError("it said \x1b[2J", "try\nagain").show()
    assert capsys.readouterr().err == "wingsctl: it said \\x1b[2J\n  try\\nagain\n"


def forbidden(path: Path, monkeypatch: pytest.MonkeyPatch) -> CtlError:
    """Return what is said to a user whom the kernel keeps out of the socket there."""
    monkeypatch.setattr(
        module._UnixConnection,
        "connect",
        Mock(side_effect=PermissionError(13, "Permission denied")),
    )
    with pytest.raises(CtlError) as caught:
        ControlClient(str(path)).ask("GET", "status")
    assert caught.value.exit_code == Exit.NOT_PERMITTED
    return caught.value


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a file to any group")
@pytest.mark.parametrize(
    ("group", "says"),
    [
        (
            grp.getgrnam("nogroup").gr_gid,
            "the group nogroup may open it: run wingsctl as root, or join",
        ),
        (4_000_000, "the group 4000000"),
        (0, "only root may open it"),
    ],
)
def test_who_may_not_open_it_reads_who_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int, says: str
) -> None:
    path = tmp_path / "control.sock"
    path.touch()
    os.chown(path, -1, group)
    assert says in forbidden(path, monkeypatch).detail


def test_a_closed_directory_is_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detail = forbidden(tmp_path / "closed" / "control.sock", monkeypatch).detail
    assert f"may enter {tmp_path / 'closed'}" in detail


def test_a_daemons_error_is_printed_with_its_code(scripted: Scripted, wingsctl: Command) -> None:
    answer = {"error": "no", "code": "conflict", "detail": "do better"}
    scripted.answers("GET", "status", answer, status=409)
    ran = wingsctl("status")
    assert (ran.status, ran.err) == (Exit.FAILED, "wingsctl: no (conflict)\n  do better\n")
    assert json.loads(wingsctl("status", "--json").err) == answer


def test_an_error_without_advice_names_its_explanation(
    scripted: Scripted, wingsctl: Command
) -> None:
    scripted.answers("GET", "status", {"error": "no", "code": "conflict"}, status=409)
    assert wingsctl("status").err.endswith("  wingsctl explain conflict says what to do\n")


def test_a_long_answer_is_refused(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER", 1024 * 1024)
    scripted.answers("GET", "fits", b'"%s"' % (b"x" * (1024 * 1024 - 2)))
    scripted.answers("GET", "longer", b" " * (1024 * 1024 + 1))
    client = ControlClient(str(scripted.path))
    assert len(client.ask("GET", "fits")) == 1024 * 1024 - 2
    with pytest.raises(CtlError, match="the answer is longer than 1 MiB") as caught:
        client.ask("GET", "longer")
    assert caught.value.exit_code == Exit.FAILED


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "control.sock"))
        made.listen()
        yield made


def test_a_silent_daemon_times_out(listening: socket.socket) -> None:
    with pytest.raises(CtlError, match="no answer from wingsd within") as caught:
        ControlClient(listening.getsockname(), timeout=0.05).ask("GET", "status")
    assert caught.value.exit_code == Exit.NO_DAEMON


def test_a_socket_that_click_cannot_read_is_one_without_permission(
    wingsctl: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    wingsctl.path.touch()
    denied = Mock(side_effect=PermissionError(13, "Permission denied"))
    monkeypatch.setattr(module._UnixConnection, "connect", denied)
    monkeypatch.setattr(os, "access", Mock(return_value=False))
    ran = wingsctl("status")
    assert (ran.status, ran.out) == (Exit.NOT_PERMITTED, "")
    assert "may open it" in ran.err


def test_a_daemon_that_hangs_up_is_shown_with_reasons(listening: socket.socket) -> None:
    def hang_up() -> None:
        connection, _ = listening.accept()
        connection.close()

    hanging_up = threading.Thread(target=hang_up)
    hanging_up.start()
    with pytest.raises(CtlError, match="closed the connection without an answer") as caught:
        ControlClient(listening.getsockname()).ask("GET", "status")
    hanging_up.join()
    assert "LimitNOFILE=" in caught.value.detail
    assert caught.value.exit_code == Exit.NO_DAEMON


@pytest.mark.parametrize(
    "words",
    [
        ["show"],
        ["what"],
        ["receive"],
        ["send", "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10", "--to", "https://x"],
    ],
)
def test_a_wrong_command_line_fails_without_a_request(wingsctl: Command, words: list[str]) -> None:
    ran = wingsctl(*words)
    assert (ran.status, ran.out) == (Exit.USAGE, "")
    assert "Error:" in ran.err
