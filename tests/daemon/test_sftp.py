"""SFTP of a whole daemon, by OpenSSH's client."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater
from twisted.internet.utils import getProcessOutputAndValue

from tests.daemon.test_metrics import LOOPBACK, scraped
from tests.metrics.exposed import Samples
from tests.support import process_configuration, server_settings
from tests.support.node_process import free_port, reactor
from tests.support.reactor import until
from tests.support.receiving_node import ReceivingNode
from tests.support.sftp_users import SftpUser

pytestmark = pytest.mark.promise("sftp-access-ends-at-once")

UUID = "5b0c7a6e-95c1-4a5b-8a53-7f6c5d2e4b22"
USER = "3f1f0f0e-6f8e-4b43-9a55-0d6b3b1f3a11"


@attrs.define
class Client:
    """OpenSSH's `sftp` and `ssh`, with a key."""

    directory: Path
    port: int
    name: str

    async def run(self, *lines: str) -> tuple[int, str]:
        """Run commands; return the exit status, and what it printed."""
        batch = self.directory / "batch"
        batch.write_text("".join(f"{line}\n" for line in lines))
        return await self.command("/usr/bin/sftp", "-b", str(batch), f"{self.name}@127.0.0.1")

    def stay(self) -> Deferred[tuple[int, str]]:
        """Be connected; return a Deferred of how that ends."""
        words = ("-s", f"{self.name}@127.0.0.1", "sftp")
        return ensureDeferred(self.command("/usr/bin/ssh", *words))

    async def command(self, program: str, *arguments: str) -> tuple[int, str]:
        options = [
            "-oConnectTimeout=20",
            f"-oPort={self.port}",
            f"-oIdentityFile={self.directory / 'key'}",
            f"-oUserKnownHostsFile={self.directory / 'known'}",
            "-oStrictHostKeyChecking=accept-new",
            "-oIdentitiesOnly=yes",
            "-oPasswordAuthentication=no",
            "-F/dev/null",
        ]
        out, err, status = await getProcessOutputAndValue(
            program, [*options, *arguments], os.environ
        )
        return status, (out + err).decode()


async def key_pair(directory: Path) -> str:
    """Make a pair of keys; return the public one."""
    command = ["-q", "-t", "ed25519", "-N", "", "-f", str(directory / "key")]
    _, err, status = await getProcessOutputAndValue("/usr/bin/ssh-keygen", command)
    assert status == 0, err
    return " ".join((directory / "key.pub").read_text().split()[:2])


async def started(
    daemon: ReceivingNode,
    directory: Path,
    permissions: Sequence[str] = ("*",),
    wrapper: Sequence[str] = (),
    **sftp: Any,
) -> Client:
    daemon.panel.add_server(server_settings(UUID), daemon.node, process_configuration())
    (daemon.volumes / UUID).mkdir(parents=True)
    key = await key_pair(directory)
    user = SftpUser(USER, keys={key}, permissions={UUID: list(permissions)})
    daemon.panel.sftp_users.add("anna", user)
    port = free_port()
    given = {"enabled": True, "bind_address": "127.0.0.1", "bind_port": port, **sftp}
    await daemon.start(*wrapper, system={"sftp": given}, metrics=LOOPBACK)
    await daemon.loaded()
    return Client(directory, port, f"anna.{UUID[:8]}")


async def ask(daemon: ReceivingNode, path: str, *arguments: str) -> None:
    """Make a call as the Panel does."""
    token = daemon.node.token
    assert await daemon.curl(*arguments, token=token, path=path) == (204, None)


def processes_of(daemon: ReceivingNode) -> list[int]:
    """Return the child processes of the daemon."""
    return [
        int(child)
        for children in Path(f"/proc/{daemon.pid}/task").glob("*/children")
        for child in children.read_text().split()
    ]


async def test_openssh_uploads_downloads_and_lists(daemon: ReceivingNode, tmp_path: Path) -> None:
    client = await started(daemon, tmp_path)
    data = os.urandom(3_000_001)
    (tmp_path / "local").write_bytes(data)
    status, output = await client.run(
        f"put -p {tmp_path}/local /world/level.dat",
        f"get /world/level.dat {tmp_path}/back",
        "mkdir /plugins",
        "rename /world/level.dat /plugins/level.dat",
        "symlink level.dat /plugins/link",
        "ls -la /plugins",
        "df /",
    )
    assert status == 0, output
    assert "lrwxrwxrwx" in output
    assert (tmp_path / "back").read_bytes() == data
    stored = daemon.volumes / UUID / "plugins" / "level.dat"
    assert stored.read_bytes() == data
    assert int(stored.stat().st_mtime) == int((tmp_path / "local").stat().st_mtime)


async def test_a_user_without_a_right_key_is_refused_and_the_log_says_why(
    daemon: ReceivingNode, tmp_path: Path
) -> None:
    client = await started(daemon, tmp_path)
    daemon.panel.sftp_users.add("anna", SftpUser(USER, password="other"))
    status, output = await client.run("ls")
    assert status == 255
    assert "Permission denied" in output
    line = await daemon.wait_for_line(f"sftp: login of '{client.name}' from 127.0.0.1")
    assert "panel-refused" in line


async def metrics(daemon: ReceivingNode, hold: Callable[[Samples], bool]) -> None:
    """Return when this holds of the metrics."""
    for _ in range(600):
        if hold(Samples(await scraped(daemon))):
            return
        await deferLater(reactor, 0.1)
    raise AssertionError("it never came to that")


async def test_sessions_refused_logins_and_bytes_are_in_the_metrics(
    daemon: ReceivingNode, tmp_path: Path
) -> None:
    client = await started(daemon, tmp_path)
    assert not Samples(await scraped(daemon)).having("wingsd_sftp_bytes_total")
    (tmp_path / "local").write_bytes(bytes(1_000_000))
    status, output = await client.run(f"put {tmp_path}/local /a", f"get /a {tmp_path}/b")
    assert status == 0, output
    ended = client.stay()
    await daemon.wait_for_line("begins", len(daemon.log))
    daemon.panel.sftp_users.add("anna", SftpUser(USER, password="other"))
    assert (await client.run("ls"))[0] == 255

    def are_counted(found: Samples) -> bool:
        return (
            found.get("wingsd_sftp_sessions") == 1
            and found.get("wingsd_sftp_logins_refused_total", kind="public_key") == 1
            and (found.get("wingsd_sftp_bytes_total", direction="in") or 0) > 1_000_000
            and (found.get("wingsd_sftp_bytes_total", direction="out") or 0) > 1_000_000
        )

    await metrics(daemon, are_counted)
    await ask(daemon, "/api/deauthorize-user", "-d", json.dumps({"user": USER, "servers": []}))
    await ended
    await metrics(daemon, lambda found: found.get("wingsd_sftp_sessions") == 0)


async def test_a_deauthorized_user_is_disconnected(daemon: ReceivingNode, tmp_path: Path) -> None:
    client = await started(daemon, tmp_path)
    ended = client.stay()
    await daemon.wait_for_line("sftp session of")
    body = {"user": USER, "servers": [UUID]}
    await ask(daemon, "/api/deauthorize-user", "-d", json.dumps(body))
    assert (await ended)[0] == 255
    await daemon.wait_for_line("1 SFTP sessions closed")


async def test_sessions_of_a_suspended_and_of_a_deleted_server_are_closed(
    daemon: ReceivingNode, tmp_path: Path
) -> None:
    client = await started(daemon, tmp_path)
    ended = client.stay()
    await daemon.wait_for_line("sftp session of")
    daemon.panel.settings_of(UUID)["suspended"] = True
    path = f"/api/servers/{UUID}"
    await ask(daemon, f"{path}/sync")
    assert (await ended)[0] == 255
    assert (await client.run("ls"))[0] == 255
    daemon.panel.settings_of(UUID)["suspended"] = False
    await ask(daemon, f"{path}/sync")
    since = len(daemon.log)
    ended = client.stay()
    await daemon.wait_for_line("sftp session of", since)
    await ask(daemon, path, "-X", "DELETE")
    assert (await ended)[0] == 255


@pytest.mark.promise("sftp-process-is-confined", "sftp-process-is-restarted")
async def test_the_process_ends_when_idle_and_another_one_follows_when_it_dies(
    daemon: ReceivingNode, tmp_path: Path
) -> None:
    client = await started(daemon, tmp_path, idle_timeout=1)
    assert processes_of(daemon) == []
    assert (await client.run("ls"))[0] == 0
    await until(lambda: processes_of(daemon) == [])
    ended = client.stay()
    await daemon.wait_for_line("begins", len(daemon.log))
    (process,) = processes_of(daemon)
    assert os.sched_getscheduler(process) == os.SCHED_IDLE
    assert "NoNewPrivs:\t1" in Path(f"/proc/{process}/status").read_text()
    os.kill(process, signal.SIGKILL)
    assert (await ended)[0] == 255
    await daemon.wait_for_line("the process that serves SFTP has failed")
    await daemon.wait_for_line(f"{UUID}: sftp session of '{client.name}' ends")
    assert (await client.run("ls"))[0] == 0


@pytest.mark.promise("sftp-process-is-restarted")
async def test_the_process_ends_with_the_daemon(daemon: ReceivingNode, tmp_path: Path) -> None:
    client = await started(daemon, tmp_path)
    ended = client.stay()
    await daemon.wait_for_line("begins")
    (process,) = processes_of(daemon)
    await daemon.kill()
    assert (await ended)[0] == 255
    await until(lambda: not Path(f"/proc/{process}").exists())
    await daemon.start_loaded()


async def test_a_node_stops_with_open_sessions_in_order(
    daemon: ReceivingNode, tmp_path: Path
) -> None:
    client = await started(daemon, tmp_path)
    ended = client.stay()
    await daemon.wait_for_line("begins")
    daemon.signal("TERM")
    assert await daemon.ended() == -signal.SIGTERM
    assert (await ended)[0] == 255
    assert daemon.lines_with("failed") == []


@pytest.mark.promise("sftp-host-key-is-kept")
async def test_a_damaged_host_key_and_a_port_in_use_leave_the_node_running(
    daemon: ReceivingNode, tmp_path: Path
) -> None:
    key = daemon.volumes / ".sftp" / "id_ed25519"
    key.parent.mkdir(parents=True)
    key.write_bytes(bytes(119))
    await started(daemon, tmp_path)
    line = await daemon.wait_for_line("sftp-host-key-unusable")
    assert "is damaged" in line
    assert key.read_bytes() == bytes(119)
    daemon.signal("TERM")
    await daemon.ended()
    key.unlink()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        given = {"enabled": True, "bind_address": "127.0.0.1", "bind_port": port}
        await daemon.start_loaded(system={"sftp": given})
        assert "SFTP is off" in await daemon.wait_for_line("sftp: SFTP is off")


@pytest.mark.promise("sftp-host-key-is-kept")
async def test_an_empty_host_key_is_replaced_and_the_log_says_so(
    daemon: ReceivingNode, tmp_path: Path
) -> None:
    key = daemon.volumes / ".sftp" / "id_ed25519"
    key.parent.mkdir(parents=True)
    key.touch()
    client = await started(daemon, tmp_path)
    line = await daemon.wait_for_line("sftp: the host key was an empty file")
    assert f"{key}.empty." in line
    assert (await client.run("ls"))[0] == 0


async def test_what_users_do_reaches_the_panel(daemon: ReceivingNode, tmp_path: Path) -> None:
    client = await started(daemon, tmp_path)
    (tmp_path / "local").write_text("x")
    assert (await client.run(f"put {tmp_path}/local /one", "rename /one /two", "rm /two"))[0] == 0
    daemon.signal("TERM")
    await daemon.ended()
    await daemon.start_loaded(system={"activity_send_interval": 1})
    await until(lambda: len(daemon.panel.activity) == 3)
    events = {entry["event"]: entry for entry in daemon.panel.activity}
    assert events["server:sftp.create"]["metadata"] == {"files": ["/one"]}
    assert events["server:sftp.rename"]["metadata"] == {"files": [{"from": "/one", "to": "/two"}]}
    assert events["server:sftp.delete"]["metadata"] == {"files": ["/two"]}
    assert {entry["user"] for entry in events.values()} == {USER}
