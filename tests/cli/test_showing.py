"""What people and programs are shown of the node and its transfers."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from tests.cli.daemon import UUID, Command, Scripted, found, past, running
from tests.support.command import WINGSCTL
from tests.support.configurations import LEAST
from wingsd.cli import diagnostics
from wingsd.cli.client import Exit
from wingsd.cli.output import duration, plain, size, when
from wingsd.cli.progress import TransferProgress

NOTHING: dict[str, Any] = {"running": [], "expected": [], "past": []}
GIB = 1024**3


def status(**changes: Any) -> dict[str, Any]:
    usual: dict[str, Any] = json.loads(Path(__file__).with_name("status.json").read_text())
    usual["panel"]["last_heard"] = time.time() - 90
    return usual | changes


def test_the_node_at_a_glance(scripted: Scripted, wingsctl: Command) -> None:
    scripted.answers("GET", "status", status())
    ran = wingsctl("status")
    assert (ran.status, ran.err) == (0, "")
    for text in (
        "1.2.3, up for 3 d 2 h",
        "https://panel.invalid is reachable",
        "Docker 27.1",
        "5, 2 running",
        "1 incoming, 2 outgoing, 3 expected",
        "4 to be sent to the Panel",
        "in 50 MiB/s, out unlimited",
        "5.0 GiB  10.0 GiB  /srv",
        "/gone (No such file or directory)",
    ):
        assert text in ran.out
    assert not [line for line in ran.out.splitlines() if line != line.rstrip()]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"panel": {"url": "u", "reachable": False, "error": "gone", "last_heard": None}},
            "u is NOT reachable: gone; last heard never",
        ),
        (
            {"panel": {"url": "u", "reachable": True, "error": "401", "last_heard": 1.0}},
            "u REFUSES this node: 401",
        ),
        ({"engine": {"enabled": False, "version": "", "error": ""}}, "docker.enabled is false"),
        ({"engine": {"enabled": True, "version": "", "error": "dead"}}, "NOT usable: dead"),
        ({"servers": {"loaded": False, "count": None, "running": None}}, "not loaded"),
        (
            {
                "containers_without_server": [
                    {
                        "container": UUID,
                        "server": UUID,
                        "status": "Up 3 hours",
                        "image": "java",
                        "remove": f"docker rm --force --volumes {UUID}",
                    }
                ]
            },
            f"docker rm --force --volumes {UUID}",
        ),
    ],
)
def test_status_names_each_problem(
    scripted: Scripted, wingsctl: Command, changes: dict[str, Any], says: str
) -> None:
    scripted.answers("GET", "status", status(**changes))
    assert says in wingsctl("status").out


def test_programs_get_what_the_daemon_says(scripted: Scripted, wingsctl: Command) -> None:
    told = status()
    scripted.answers("GET", "status", told)
    assert wingsctl("status", "--json").json == told


def used(name: str, **changes: Any) -> dict[str, Any]:
    """Return what `top` says of a server."""
    rates = ("read", "written", "received", "sent")
    return {
        "server": UUID,
        "name": name,
        "uptime_seconds": 60,
        "cpu_percent": 10.0,
        "cpu_limit_percent": None,
        "memory_bytes": 1 << 20,
        "memory_limit_bytes": 1 << 30,
        "pressure_percent": {"cpu": 1.0, "io": 30.4},
        **{f"{rate}_bytes_per_second": 1024 for rate in rates},
    } | changes


TOP = {
    "machine": {
        "cpu_percent": 33.3,
        "memory_bytes": 1 << 30,
        "memory_total_bytes": 4 << 30,
        "pressure_percent": {"cpu": 5.0},
    },
    "servers": [
        used("Lobby"),
        used("Busy \x1b[31m", cpu_percent=150.0, cpu_limit_percent=200, pressure_percent={}),
        used("Offline", uptime_seconds=0, cpu_percent=0.0),
        used("Large", memory_bytes=1 << 30, pressure_percent={"memory": 99.0}),
    ],
}


def test_what_servers_use_is_sorted(scripted: Scripted, wingsctl: Command) -> None:
    scripted.answers("GET", "top", TOP)
    ran = wingsctl("top")
    assert ran.status == 0
    assert "33 %" in ran.out
    assert "1.0 GiB of 4.0 GiB" in ran.out
    assert "cpu 5 %" in ran.out
    lines = [line for line in ran.out.splitlines() if UUID in line]
    assert [line.split(UUID)[1].split()[0] for line in lines] == ["Busy", "Lobby", "Large"]
    assert lines[0].startswith("150 %  200 %  1.0 MiB  1.0 GiB  -")
    assert "io 30 %" in lines[1]
    assert "\x1b" not in ran.out
    for order, first in (("memory", "Large"), ("pressure", "Large"), ("io", "Lobby")):
        sorted_ = wingsctl("top", "--sort", order, "--json").json["servers"]
        assert sorted_[0]["name"] == first
    unknown: dict[str, Any] = {
        "cpu_percent": None,
        "memory_bytes": None,
        "memory_total_bytes": None,
    }
    machine = unknown | {"pressure_percent": {}}
    scripted.answers("GET", "top", {"machine": machine, "servers": []})
    ran = wingsctl("top")
    assert "- of -" in ran.out
    assert ran.out.endswith("no server runs\n")


def test_transfers_now_and_past(scripted: Scripted, wingsctl: Command) -> None:
    failed = past(outcome="failure", reason="while x: \x1b[31mno\n", bytes=None, files=None)
    adopted = past(outcome="failure", reason="while keeping a copy: seed-adopted: gone on with")
    told = {
        "running": [running()],
        "expected": [{"server": UUID, "expires": 1_700_000_000.0}],
        "past": [failed, adopted, past(direction="in", by_hand=False)],
    }
    scripted.answers("GET", "transfers?past=20", told)
    ran = wingsctl("transfers")
    assert ran.status == 0
    assert "512.0 MiB  1.0 GiB  64.0 MiB/s  8 s   sending the archive" in ran.out
    assert ": expected until 2023-11-1" in ran.out
    # What comes from elsewhere moves no cursor.
    assert "failure: while x:  [31mno" in ran.out
    assert "taken over: while keeping a copy" in ran.out
    assert "3 min 20 s  1.0 GiB  12     success" in ran.out


OTHER = UUID.replace("8d2f5a14", "8d2f0000")
NAMES = {
    "servers": [{"server": UUID, "name": "Lobby"}, {"server": OTHER, "name": "Creative world"}]
}


@pytest.mark.parametrize("word", [UUID.upper(), UUID[:8], UUID[:5], "lobby", "Lobby"])
def test_a_server_is_named_by_its_uuid_its_beginning_or_its_name(
    scripted: Scripted, wingsctl: Command, word: str
) -> None:
    scripted.answers("GET", "servers", NAMES)
    scripted.answers("GET", "transfers", NOTHING)
    scripted.answers("DELETE", f"transfers/{UUID}", None, status=202)
    assert wingsctl("cancel", word).status == 0
    assert scripted.asked[-1][:2] == ("DELETE", f"/v1/transfers/{UUID}")


@pytest.mark.promise("ambiguous-name-does-nothing")
@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("8d2f", f"is that of several servers: {OTHER} (Creative world), {UUID} (Lobby)"),
        ("ffff", "is not a UUID, nor the beginning of one or the name of a server"),
        ("", "is not a UUID"),
    ],
)
def test_nothing_is_done_where_it_is_not_sure_which_server_is_meant(
    scripted: Scripted, wingsctl: Command, word: str, says: str
) -> None:
    scripted.answers("GET", "servers", NAMES)
    scripted.answers("GET", "transfers", NOTHING)
    ran = wingsctl("cancel", word)
    assert ran.status == Exit.USAGE
    assert says in ran.err
    assert not any(method == "DELETE" for method, *_ in scripted.asked)


def test_a_daemon_without_servers_is_no_proof_that_a_name_is_wrong(
    scripted: Scripted, wingsctl: Command
) -> None:
    scripted.answers("GET", "servers", {"servers": []})
    scripted.answers("GET", "transfers", NOTHING)
    assert "whether servers are loaded" in wingsctl("cancel", "lobby").err


def test_a_name_needs_the_daemon(scripted: Scripted, wingsctl: Command) -> None:
    scripted.stop()
    ran = wingsctl("cancel", "lobby")
    assert (ran.status, "is not running" in ran.err) == (Exit.NO_DAEMON, True)


def test_show_prints_a_server_with_its_transfers(scripted: Scripted, wingsctl: Command) -> None:
    told = {
        "uuid": UUID,
        "server": {
            "name": "Lobby [red]",
            "state": "offline",
            "hold": "it is being moved",
            "by_hand": True,
            "disk_bytes": GIB,
        },
        "running": running(resumed_bytes=256 << 20),
        "expected": {"server": UUID, "expires": 1_700_000_000.0},
        "past": [past()],
        "reports_waiting": [
            {"server": UUID, "outcome": "failure", "since": 1.0, "attempts": 3, "answer": "down"}
        ],
    }
    scripted.answers("GET", f"transfers/{UUID}", told)
    ran = wingsctl("show", UUID.upper())
    for text in (
        "Lobby [red]",
        "offline (it is being moved)",
        "received in a direct transfer",
        "out direct, for",
        "512.0 MiB of 1.0 GiB, 64.0 MiB/s, 8 s left",
        "resumed: 256.0 MiB of 1.0 GiB were there",
        "failure, not confirmed by the Panel since 1970-01-01",
        "3 attempts; down",
        "success",
    ):
        assert text in ran.out
    assert wingsctl("show", UUID, "--json").json == told


@pytest.mark.promise("shown-figures-are-true")
def test_an_unmeasured_size_is_not_shown_as_0(scripted: Scripted, wingsctl: Command) -> None:
    server = {
        "name": "Lobby",
        "state": "offline",
        "hold": "",
        "by_hand": False,
        "disk_bytes": None,
    }
    told = found(server=server)
    scripted.answers("GET", f"transfers/{UUID}", told)
    assert "files   not measured" in wingsctl("show", UUID).out
    server["disk_bytes"] = 0
    scripted.answers("GET", f"transfers/{UUID}", told)
    assert "files   0 B" in wingsctl("show", UUID).out


def test_what_is_pooled_is_shown_so(scripted: Scripted, wingsctl: Command) -> None:
    pooled = {"by_hand": False, "storage_pool": "attic"}
    told = found(running=running(**pooled), past=[past(**pooled, bytes=None, files=None)])
    scripted.answers("GET", f"transfers/{UUID}", told)
    shown = wingsctl("show", UUID).out
    assert "out in a pool, for" in shown
    assert "storage pool  attic" in shown
    assert "out in a pool  20" in shown


def test_a_server_that_is_gone_has_its_past(scripted: Scripted, wingsctl: Command) -> None:
    scripted.answers("GET", f"transfers/{UUID}", found(past=[past()]))
    assert "not on this node" in wingsctl("show", UUID).out


def test_an_unknown_server_exits_with_unknown(scripted: Scripted, wingsctl: Command) -> None:
    scripted.answers("GET", f"transfers/{UUID}", {"error": "unknown"}, status=404)
    assert wingsctl("show", UUID).status == Exit.UNKNOWN


def test_cancelling(scripted: Scripted, wingsctl: Command) -> None:
    scripted.answers("DELETE", f"transfers/{UUID}", b"", status=202)
    assert wingsctl("cancel", UUID).out == f"{UUID}: cancelling\n"
    assert wingsctl("cancel", UUID, "--json").json == {"server": UUID, "cancelled": True}
    assert scripted.asked == [("DELETE", f"/v1/transfers/{UUID}", None)] * 2


def test_forgetting(scripted: Scripted, wingsctl: Command) -> None:
    scripted.answers("DELETE", f"kept/{UUID}", b"", status=204)
    assert "nothing is kept" in wingsctl("forget", UUID).out
    assert wingsctl("forget", UUID, "--json").json == {"server": UUID, "forgotten": True}


def test_what_is_kept_of_failed_moves_is_listed(scripted: Scripted, wingsctl: Command) -> None:
    kept = [{"server": UUID, "bytes": 5 * GIB, "since": 0.0}]
    scripted.answers("GET", "transfers?past=20", NOTHING | {"kept": kept})
    assert f"{UUID}: 5.0 GiB of a failed move are kept" in wingsctl("transfers").out


def test_lines_are_printed_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    with TransferProgress(Console(file=out, width=200)).shown() as screen:
        screen.show([running(doing="one")])
        screen.show([running(doing="one", bytes=5)])
        screen.show([running(doing="two")])
        screen.show_result(past(outcome="failure", reason="while two: no"))
        screen.show([])
        screen.show([running(doing="two")])
    assert out.getvalue().splitlines() == [
        f"{UUID} out direct: one",
        f"{UUID} out direct: two",
        f"{UUID} out direct: failure: while two: no",
        f"{UUID} out direct: two",
    ]


def test_bars_are_drawn_where_there_is_one() -> None:
    out = io.StringIO()
    with TransferProgress(Console(file=out, width=160, force_terminal=True)).shown() as screen:
        screen.show([running(), running(server="11111111", total_bytes=None)])
        screen.show_result(past())
    drawn = out.getvalue()
    assert "512.0/1024.0 MiB" in drawn or "0.5/1.0 GiB" in drawn
    assert "━" in drawn
    assert f"{UUID} out direct: " in drawn


@pytest.fixture
def interruptible() -> Iterator[None]:
    """What is started can be left by SIGINT, also where the tests run in a shell's background.

    Such a shell has it ignored, and so would everything that is started.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def drawn(scripted: Scripted, words: list[str], until: bytes) -> str:
    """Return what a command draws on a terminal; it is interrupted when it has drawn `until`."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "150"}
    with subprocess.Popen(
        [*WINGSCTL, "--socket", str(scripted.path), *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        found = b""
        while until not in found:
            found += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        while True:
            try:
                found += os.read(ours, 65536)
            except OSError:  # what a terminal says that nobody is at any more
                break
        assert process.wait(30) == 0
    os.close(ours)
    assert b"Traceback" not in found
    return found.decode()


@pytest.mark.usefixtures("interruptible")
def test_watching_on_a_terminal_goes_on_until_it_is_left(scripted: Scripted) -> None:
    at_first = NOTHING | {"running": [running()]}
    scripted.answers("GET", "transfers?past=1", NOTHING)
    scripted.answers("GET", "transfers?past=100", at_first, at_first, NOTHING | {"past": [past()]})
    found = drawn(scripted, ["transfers", "--watch"], b"success")
    assert "sending the archive" in found
    assert "━" in found
    assert found.startswith("no transfers in progress")


def test_watching_by_a_program_is_a_line_for_each_look(
    scripted: Scripted, wingsctl: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.answers("GET", "transfers?past=20", NOTHING, NOTHING | {"running": [running()]})
    looks = iter([None, None])

    def sleep(_: float) -> None:
        if next(looks, "over") is not None:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    ran = wingsctl("transfers", "--watch", "--json")
    assert ran.status == 0
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert [len(line["running"]) for line in lines] == [0, 1, 1]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (59.9, "59 s"), (60, "1 min 0 s"), (3600, "1 h 0 min"), (90000, "1 d 1 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sizes_and_times_that_there_are_not() -> None:
    assert (size(None), size(0), size(1536)) == ("-", "0 B", "1.5 KiB")
    assert when(None) == "never"


def test_nothing_moves_the_cursor() -> None:
    assert plain("a\x1b[2J\nb\x07\u202e") == "a [2J b  "


def test_diagnostics_are_printed_as_they_are(wingsctl: Command, scripted: Scripted) -> None:
    path = "diagnostics?include_endpoints=true&include_logs=true&log_lines=7"
    scripted.answers("GET", path, {"report": "wingsd\n|\n"})
    ran = wingsctl("diagnostics", "--endpoints", "--log-lines", "7")
    assert (ran.status, ran.out) == (0, "wingsd\n|\n")
    ran = wingsctl("diagnostics", "--endpoints", "--log-lines", "7", "--json")
    assert ran.json == {"report": "wingsd\n|\n"}


def test_diagnostics_without_a_daemon_have_its_configuration(
    wingsctl: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = tmp_path / "config.yml"
    written.write_text(yaml.safe_dump(LEAST | {"debug": True, "token": "a-secret-of-the-node"}))
    monkeypatch.setattr(diagnostics, "find", lambda: str(written))
    ran = wingsctl("diagnostics", "--no-logs")
    assert ran.status == Exit.NO_DAEMON
    assert "wingsd is not running" in ran.err
    assert "not asked: wingsd does not run" in ran.out
    assert "debug: true" in ran.out
    assert "a-secret-of-the-node" not in ran.out
    written.write_text("debug: [")
    ran = wingsctl("diagnostics", "--no-logs")
    assert (ran.status, ran.out) == (Exit.NO_DAEMON, "")
    assert "its configuration: " in ran.err
