"""Tests for `wingsd.docker.engine`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingsd.docker.engine import console_lines, container_state, foreign_container, parse_time
from wingsd.docker.runtime import ContainerState

HOME = "/var/lib/pterodactyl/volumes/uuid"
INSPECTED: dict[str, Any] = {
    "Id": "0123",
    "State": {
        "Status": "exited",
        "Running": False,
        "OOMKilled": True,
        "ExitCode": 137,
        "StartedAt": "2026-11-25T09:16:14.15351676Z",
    },
    "Config": {"StopSignal": "SIGINT"},
    "Mounts": [
        {"Type": "bind", "Source": "/mnt/maps", "Destination": "/home/container/maps"},
        {"Type": "bind", "Source": HOME, "Destination": "/home/container"},
        {"Type": "bind", "Source": "/run/ids/uuid", "Destination": "/etc/machine-id"},
    ],
}


def test_what_an_inspection_says() -> None:
    assert container_state(INSPECTED) == ContainerState(
        id="0123",
        home=HOME,
        machine_id="/run/ids/uuid",
        running=False,
        exit_status=137,
        out_of_memory=True,
        started=datetime(2026, 11, 25, 9, 16, 14, 153516, UTC),
        stop_signal="SIGINT",
    )


@pytest.mark.parametrize(
    "inspected",
    [
        {"Id": "0123"},
        {"Id": "0123", "State": None, "Config": None, "Mounts": None},
        {"Id": "0123", "State": {"StartedAt": "0001-01-01T00:00:00Z"}, "Mounts": []},
        {"Id": "0123", "Config": {"StopSignal": ""}, "Mounts": [{"Destination": "/data"}]},
    ],
)
def test_what_an_inspection_leaves_out(inspected: dict[str, Any]) -> None:
    assert container_state(inspected) == ContainerState(id="0123")


@pytest.mark.parametrize("status", ["removing", "dead"])
def test_what_the_engine_is_removing_is_seen(status: str) -> None:
    assert container_state({"Id": "0123", "State": {"Status": status}}).is_removed


@pytest.mark.parametrize("home", [HOME, HOME + "/", "/var/lib/pterodactyl//volumes/./uuid"])
def test_the_files_say_that_it_is_ours(home: str) -> None:
    assert foreign_container(ContainerState("0123", home=home), "uuid", HOME) == ""


@pytest.mark.parametrize(
    ("home", "words"),
    [
        ("/srv/node2/uuid", "the files at /srv/node2/uuid"),
        (HOME + "-2", "the files at"),
        ("", "no server's files"),
    ],
)
def test_other_files_say_that_it_is_not(home: str, words: str) -> None:
    why_not = foreign_container(ContainerState("0123", home=home), "uuid", HOME)
    assert "named uuid" in why_not
    assert words in why_not
    assert HOME in why_not


@pytest.mark.parametrize("text", [None, "", "soon", "0001-01-01T00:00:00Z", "2026-01-01T00:00:00"])
def test_an_invalid_time_is_none(text: object) -> None:
    assert parse_time(text) is None


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        (b"", []),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        (b"one\n\nthree", ["one", "", "three"]),
        (b"50%\r100%\r\n", ["50%100%"]),
        ("ä\u2028ö\x0bü\n".encode(), ["ä\u2028ö\x0bü"]),
        (b"\xff\n", ["\ufffd"]),
    ],
)
def test_the_lines_of_a_console(written: bytes, lines: list[str]) -> None:
    assert console_lines(written) == lines


@given(st.binary())
def test_any_bytes_are_read_as_lines(written: bytes) -> None:
    assert not any("\n" in line or "\r" in line for line in console_lines(written))
