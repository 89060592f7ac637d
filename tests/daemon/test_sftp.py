"""SFTP of a whole daemon, by OpenSSH's client."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path

import attrs
from twisted.internet.utils import getProcessOutputAndValue

from tests.support import process_configuration, server_settings
from tests.support.receiving_node import ReceivingNode
from tests.support.sftp_users import SftpUser

UUID = "5b0c7a6e-95c1-4a5b-8a53-7f6c5d2e4b22"
USER = "3f1f0f0e-6f8e-4b43-9a55-0d6b3b1f3a11"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@attrs.define
class Client:
    """OpenSSH's `sftp`, with a key."""

    directory: Path
    port: int
    name: str

    async def run(self, *lines: str) -> tuple[int, str]:
        """Run commands; return the exit status, and what it printed."""
        batch = self.directory / "batch"
        batch.write_text("".join(f"{line}\n" for line in lines))
        return await self.command("/usr/bin/sftp", "-b", str(batch), f"{self.name}@127.0.0.1")

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


async def started(daemon: ReceivingNode, directory: Path, permissions: Sequence[str]) -> Client:
    daemon.panel.add_server(server_settings(UUID), daemon.node, process_configuration())
    (daemon.volumes / UUID).mkdir(parents=True)
    key = await key_pair(directory)
    user = SftpUser(USER, keys={key}, permissions={UUID: list(permissions)})
    daemon.panel.sftp_users.add("anna", user)
    port = free_port()
    sftp = {"enabled": True, "bind_address": "127.0.0.1", "bind_port": port}
    await daemon.start_loaded(system={"sftp": sftp})
    await daemon.wait_for_line("sftp: serves")
    return Client(directory, port, f"anna.{UUID[:8]}")


async def test_openssh_uploads_downloads_and_lists(daemon: ReceivingNode, tmp_path: Path) -> None:
    client = await started(daemon, tmp_path, ["*"])
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
    assert (tmp_path / "back").read_bytes() == data
    assert (daemon.volumes / UUID / "plugins" / "level.dat").read_bytes() == data
