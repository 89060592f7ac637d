"""A game's settings downloaded, changed and uploaded by SFTP, with OpenSSH's client."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from twisted.internet.threads import deferToThread

from demo.game import NAME_SETTING
from demo.node import RunningNode
from demo.output import Failed, check
from demo.process import Process, run
from demo.testbed import Testbed
from tests.support.sftp_users import SftpUser

__all__ = ["SftpUpload"]

_USER = "2f0c0b1e-5d0a-4d57-8d0c-6b1f3c7a9e21"


class SftpUpload:
    """A user of the Panel with a key, who changes a server's settings on a node."""

    def __init__(self, testbed: Testbed, server: str, node: RunningNode) -> None:
        self._testbed = testbed
        self._server = server
        self._node = node
        self._directory = testbed.directory / "user"

    async def rename(self, name: str) -> None:
        """Give the server another name in its settings. Raises `Failed`."""
        await deferToThread(self._make_user)
        settings = self._testbed.game.settings
        copy = self._directory / settings
        print(f'  sftp {" ".join(self._address())} <<<"get {settings}"\n', flush=True)
        await self._sftp(f"get {settings} {copy}")
        text = copy.read_text()
        changed = re.sub(f"(?m)^{NAME_SETTING}.*$", f"{NAME_SETTING}{name}", text)
        copy.write_text(changed)
        await self._sftp(f"put {copy} {settings}")
        place = self._node.files(self._server) / settings
        found = await deferToThread(place.read_text)
        check("settings", text != found == changed, f"{settings}, downloaded, changed, uploaded")

    def _make_user(self) -> None:
        self._directory.mkdir()
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "key"]
        run(*command, cwd=self._directory)
        key = " ".join((self._directory / "key.pub").read_text().split()[:2])
        user = SftpUser(_USER, keys={key}, permissions={self._server: ["*"]})
        self._testbed.panel.sftp_users.add("anna", user)

    def _address(self) -> list[str]:
        return ["-P", str(self._node.sftp_port), f"anna.{self._server[:8]}@127.0.0.1"]

    async def _sftp(self, batch: str) -> None:
        lines: Path = self._directory / "batch"
        lines.write_text(f"{batch}\n")
        options = ["StrictHostKeyChecking=accept-new", "IdentitiesOnly=yes", "LogLevel=ERROR"]
        options += [f"UserKnownHostsFile={self._directory / 'known_hosts'}"]
        command = [
            shutil.which("sftp") or "sftp",
            "-q",
            "-b",
            str(lines),
            "-F/dev/null",
            "-i",
            "key",
        ]
        command += [*(f"-o{option}" for option in options), *self._address()]
        log = self._directory / "sftp.log"
        if await Process(self._testbed.reactor, command, self._directory, log).ended:
            raise Failed(f"sftp could not do it: {await deferToThread(log.read_text)}")
