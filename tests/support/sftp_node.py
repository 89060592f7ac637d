"""A node whose server's files are reached by SFTP, with a key and a password."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.utils import getProcessOutputAndValue

from tests.support.receiving_node import ReceivingNode
from tests.support.settings import process_configuration, server_settings
from tests.support.sftp_users import SftpUser

__all__ = ["PASSWORD", "SERVER", "SftpNode", "has", "sftp_node"]

SERVER = "5b0c7a6e-95c1-4a5b-8a53-7f6c5d2e4b22"
PASSWORD = "correct horse battery"
_USER = "3f1f0f0e-6f8e-4b43-9a55-0d6b3b1f3a11"


def has(program: str) -> bool:
    """Return whether tests can use a program; where they must, they fail without it."""
    return shutil.which(program) is not None or os.environ.get("CI") == "true"


@attrs.frozen
class SftpNode:
    """The node's port, the name to log in with, a private key, and where the files are."""

    port: int
    name: str
    key: Path
    files: Path
    #: Of the programs that are run: they find no configuration of this account.
    home: Path

    async def run(
        self,
        program: str,
        *arguments: str,
        password: bool = False,
        variables: Mapping[str, str] | None = None,
    ) -> tuple[int, str]:
        """Run a program; return its exit status and all that it printed.

        With `password` OpenSSH's programs get it, as from a person.
        """
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.home), "LANG": "C.UTF-8"}
        environment["XDG_CONFIG_HOME"] = str(self.home)
        if password:
            environment["SSH_ASKPASS"] = str(self.home / "askpass")
            environment["SSH_ASKPASS_REQUIRE"] = "force"
        path = shutil.which(program) or program
        environment.update(variables or {})
        out, err, status = await getProcessOutputAndValue(path, arguments, environment)
        return status, (out + err).decode("utf-8", "replace")

    def options(self, *, password: bool = False) -> list[str]:
        """Return the options of OpenSSH's programs."""
        options = [f"Port={self.port}", f"UserKnownHostsFile={self.home / 'known'}"]
        options += ["StrictHostKeyChecking=accept-new", "IdentitiesOnly=yes"]
        if password:
            options += ["PubkeyAuthentication=no", "NumberOfPasswordPrompts=1"]
        else:
            options += ["PasswordAuthentication=no", f"IdentityFile={self.key}"]
        return ["-F/dev/null", *(f"-o{option}" for option in options)]

    async def sftp(self, *lines: str, password: bool = False) -> tuple[int, str]:
        """Run commands of OpenSSH's `sftp`."""
        batch = self.home / "batch"
        batch.write_text("".join(f"{line}\n" for line in lines))
        # A batch file switches passwords off, unless it is said otherwise before.
        options = ["-oBatchMode=no", *self.options(password=password), "-b", str(batch)]
        return await self.run("sftp", *options, f"{self.name}@127.0.0.1", password=password)


async def sftp_node(
    daemon: ReceivingNode,
    directory: Path,
    permissions: Sequence[str] = ("*",),
    **system: Any,
) -> SftpNode:
    """Start a daemon with a server and a user, whose key is in `directory`.

    The egg denies files `*.key`.
    `system` are further settings.
    """
    egg = {"id": SERVER, "file_denylist": ["*.key"]}
    settings = server_settings(SERVER) | {"egg": egg}
    daemon.panel.add_server(settings, daemon.node, process_configuration())
    files = daemon.volumes / SERVER
    files.mkdir(parents=True)
    key = directory / "key"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
    subprocess.run(command, check=True)
    public = " ".join((directory / "key.pub").read_text().split()[:2])
    user = SftpUser(_USER, PASSWORD, {public}, {SERVER: list(permissions)})
    daemon.panel.sftp_users.add("anna", user)
    askpass = directory / "askpass"
    askpass.write_text(f"#!/bin/sh\necho '{PASSWORD}'\n")
    askpass.chmod(0o700)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = int(taken.getsockname()[1])
    sftp = {"enabled": True, "bind_address": "127.0.0.1", "bind_port": port}
    await daemon.start_loaded(system={"sftp": sftp, **system})
    await daemon.wait_for_line("sftp: serves")
    return SftpNode(port, f"anna.{SERVER[:8]}", key, files, directory)
