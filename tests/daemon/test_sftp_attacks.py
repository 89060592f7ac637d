"""Attacks on SFTP of a whole daemon: others are served meanwhile, and no limit is passed."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults
from twisted.internet.threads import deferToThread

from tests.support.faults import Answer
from tests.support.receiving_node import ReceivingNode
from tests.support.sftp_node import PASSWORD, SERVER, SftpNode, sftp_node

pytestmark = pytest.mark.promise("sftp-attacks-block-none")

MIB = 1 << 20


@pytest_twisted.async_yield_fixture
async def node(daemon: ReceivingNode, tmp_path: Path) -> AsyncIterator[SftpNode]:
    yield await sftp_node(daemon, tmp_path)


def said_to(port: int, sent: bytes) -> bytes:
    """Return what the node says to a connection that sends this, and that the node closes."""
    said = b""
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        try:
            connection.sendall(sent)
            while data := connection.recv(4096):
                said += data
        except (BrokenPipeError, ConnectionResetError):
            return said
    return said


async def test_who_sends_no_version_of_ssh_is_cut_off(node: SftpNode) -> None:
    began = time.monotonic()
    for sent in (b"x" * (8 * MIB), b"not SSH\r\n" * 100_000, b"SSH-1.5-old\r\n", b"\0" * MIB):
        assert await deferToThread(said_to, node.port, sent) in (b"", b"SSH-2.0-Go\r\n")
    assert time.monotonic() - began < 60  # and not only when the time to log in is over
    assert (await node.sftp("ls"))[0] == 0


async def test_a_client_that_changes_keys_all_the_time_is_served_and_others_are(
    node: SftpNode, tmp_path: Path
) -> None:
    (tmp_path / "big").write_bytes(bytes(2 * MIB))
    batch = tmp_path / "rekeying"
    batch.write_text(f"put {tmp_path / 'big'} /big\nget /big {tmp_path / 'back'}\n")
    words = [*node.options(), "-oRekeyLimit=32K", "-b", str(batch), f"{node.name}@127.0.0.1"]
    changing = ensureDeferred(node.run("sftp", *words))
    while not changing.called:
        assert (await node.sftp("ls"))[0] == 0
    status, output = await changing
    assert status == 0, output
    assert (tmp_path / "back").read_bytes() == bytes(2 * MIB)


async def test_a_panel_that_is_silent_or_answers_nonsense_costs_only_those_logins(
    daemon: ReceivingNode, node: SftpNode
) -> None:
    words = ("-s", f"{node.name}@127.0.0.1", "sftp")
    ended: Deferred[tuple[int, str]] = ensureDeferred(node.run("ssh", *node.options(), *words))
    await daemon.wait_for_line("sftp session of")
    nonsense = [
        b"<html>502</html>",
        b"[]",
        b"{}",
        b'{"user": 5, "server": [], "permissions": {"*": 1}}',
        b'{"user": "\\u0000", "server": "../..", "permissions": ["*"]}',
        b"[" * 100_000,
    ]
    for number, body in enumerate(nonsense):
        daemon.panel.inject("/sftp/auth", Answer(200, body))
        (node.home / "askpass").write_text(f"#!/bin/sh\necho 'wrong {number}'\n")
        status, output = await node.sftp("ls", password=True)
        assert (status, "Permission denied" in output) == (255, True), output
    (node.home / "askpass").write_text(f"#!/bin/sh\necho '{PASSWORD}'\n")
    hanging = daemon.panel.hold("/sftp/auth")
    waiting = ensureDeferred(node.sftp("ls", password=True))
    await daemon.panel.called("/sftp/auth", len(nonsense) + 2)
    # It is another address's turn meanwhile, or another one's of the same.
    assert (await node.sftp("ls"))[0] == 0
    assert not waiting.called
    hanging.release()
    assert (await waiting)[0] == 0
    assert not ended.called
    assert not daemon.lines_with("Traceback")
    daemon.signal("TERM")
    assert (await ended)[0] == 255


async def test_two_sessions_together_stay_within_the_disk_limit(
    daemon: ReceivingNode, node: SftpNode, tmp_path: Path
) -> None:
    daemon.panel.settings_of(SERVER)["build"]["disk_space"] = 8
    sync = f"/api/servers/{SERVER}/sync"
    assert await daemon.curl(token=daemon.node.token, path=sync) == (204, None)
    (tmp_path / "big").write_bytes(bytes(6 * MIB))
    results = await gatherResults(
        ensureDeferred(
            node.run("sftp", *node.options(), "-b", str(batch), f"{node.name}@127.0.0.1")
        )
        for batch in (uploads(tmp_path, name) for name in ("one", "two"))
    )
    assert any(status != 0 for status, _ in results)
    stored = sum(path.stat().st_size for path in node.files.iterdir())
    assert 2 * MIB < stored <= 8 * MIB


def uploads(directory: Path, name: str) -> Path:
    """Return a file of commands that upload a file by that name."""
    batch = directory / f"upload {name}"
    batch.write_text(f"put {directory / 'big'} /{name}\n")
    return batch


async def test_another_address_and_host_key_wait_for_a_restart(
    daemon: ReceivingNode, node: SftpNode
) -> None:
    words = ("-s", f"{node.name}@127.0.0.1", "sftp")
    ended: Deferred[tuple[int, str]] = ensureDeferred(node.run("ssh", *node.options(), *words))
    await daemon.wait_for_line("sftp session of")
    (daemon.volumes / ".sftp" / "id_ed25519").write_text("no key")
    sftp = {"enabled": True, "bind_address": "127.0.0.2", "bind_port": 1, "key_only": True}
    daemon.command(system={"sftp": sftp})
    daemon.signal("HUP")
    line = await daemon.wait_for_line("changes that need a restart")
    assert "system.sftp.bind_address" in line
    assert "system.sftp.bind_port" in line
    assert (await node.sftp("ls"))[0] == 0
    assert (await node.sftp("ls", password=True))[0] == 255
    assert not ended.called
    daemon.signal("TERM")
    assert (await ended)[0] == 255
