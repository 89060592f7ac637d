"""The control socket: who may open it, and what is said where there can be none."""

from __future__ import annotations

import grp
import os
import socket
import stat
from pathlib import Path

import pytest

from tests.support.logged_errors import Logged
from tests.support.node_in_process import NodePair
from wingsd.config import Control
from wingsd.control import ControlListener

pytestmark = pytest.mark.promise("control-socket-is-for-one-group")


def listener(nodes: NodePair, path: Path | str, group: str = "") -> ControlListener:
    return nodes.source.control_socket(Control(socket=str(path), group=group))


def abandoned(path: Path) -> None:
    """Leave a socket there as a daemon does that is killed."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


async def test_root_and_one_group_may_open_it(nodes: NodePair, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    opened = listener(nodes, path, grp.getgrgid(os.getgid()).gr_name)
    opened.open()
    found = path.lstat()
    assert stat.S_ISSOCK(found.st_mode)
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, os.getgid())
    await opened.close()
    assert not path.exists()


async def test_the_socket_belongs_to_the_configured_group(nodes: NodePair, tmp_path: Path) -> None:
    if os.getuid():
        pytest.skip("only root may give it to any group")
    path = tmp_path / "control.sock"
    opened = listener(nodes, path, "nogroup")
    opened.open()
    assert path.stat().st_gid == grp.getgrnam("nogroup").gr_gid
    await opened.close()


async def test_an_unknown_group_is_logged(nodes: NodePair, tmp_path: Path, logged: Logged) -> None:
    opened = listener(nodes, tmp_path / "control.sock", "no-such-group")
    opened.open()
    assert any("not given to the group no-such-group" in line for line in logged.lines)
    await opened.close()


async def test_the_socket_of_a_dead_daemon_is_replaced(nodes: NodePair, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    abandoned(path)
    opened = listener(nodes, path)
    opened.open()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    await opened.close()


async def test_a_socket_of_a_running_daemon_is_left_alone(
    nodes: NodePair, tmp_path: Path, logged: Logged
) -> None:
    path = tmp_path / "control.sock"
    first, second = listener(nodes, path), listener(nodes, path)
    first.open()
    before = path.stat().st_ino
    second.open()
    await second.close()
    assert path.stat().st_ino == before
    assert any("another daemon listens on it" in line for line in logged.lines)
    await first.close()


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("no/such/place", "there is no directory"),
        ("file", "it exists and is not a socket"),
        ("file/control.sock", "there is no directory"),
        ("x" * 150, "too long"),
    ],
)
async def test_a_socket_that_cannot_be_made_is_logged_with_the_reason(
    nodes: NodePair, tmp_path: Path, logged: Logged, path: str, says: str
) -> None:
    (tmp_path / "file").write_text("precious")
    opened = listener(nodes, tmp_path / path)
    opened.open()
    lines = [line for line in logged.lines if "no control socket at" in line]
    assert says in " ".join(lines)
    assert [line for line in logged.lines if str(tmp_path) in line] == lines
    assert (tmp_path / "file").read_text() == "precious"
    await opened.close()


async def test_a_missing_control_socket_is_logged(nodes: NodePair, logged: Logged) -> None:
    opened = listener(nodes, "")
    opened.open()
    assert any("control.socket is empty" in line for line in logged.lines)
    await opened.close()
