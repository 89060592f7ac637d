"""An upload with curl, as documented: a server that does not come from a node."""

from __future__ import annotations

import shutil
from pathlib import Path

from twisted.internet.threads import deferToThread

from demo import trees
from demo.node import OWNER, RunningNode
from demo.output import Failed, check, line, mib
from demo.process import Process
from demo.testbed import Testbed
from tests.support import server_settings

__all__ = ["CurlUpload"]

#: What curl prints when it is done, in place of its progress.
_STATUS_LINE = r"HTTP/%{http_version} %{http_code}\n"


class CurlUpload:
    """An archive of a server's files, and the command that sends it to a node."""

    def __init__(self, testbed: Testbed, server: str, files: Path, node: RunningNode) -> None:
        self._testbed = testbed
        self._server = server
        self._files = files
        self._node = node
        self._archive = testbed.directory / "server-archive.tar.gz"
        self._checksum = ""

    async def prepare(self) -> None:
        """Pack the archive, and open the transfer on the Panel."""
        if not self._archive.exists():
            await deferToThread(trees.pack, self._files, self._archive)
            line("archive", f"{self._archive.name}, {mib(self._archive.stat().st_size)}")
        self._checksum = await deferToThread(trees.sha256, self._archive)
        panel, game = self._testbed.panel, self._testbed.game
        nowhere = panel.add_node("https://source.invalid:8080")
        settings = server_settings(
            self._server, image=f"~{game.image}", invocation=game.invocation
        )
        panel.add_server(settings, nowhere, game.process)
        panel.open_transfer(self._server, self._node.node)

    def command(self, token: str, directory: str = "") -> list[str]:
        """Return curl's command line; `directory` is the directory of its files."""
        return [
            *("curl", "-X", "POST", f"{self._node.node.address}/api/transfers"),
            *("-H", f"Authorization: Bearer {token}"),
            *("-F", f"archive=@{directory}{self._archive.name}"),
            *("-F", f"checksum={self._checksum}"),
            *("--cacert", f"{directory}{self._node.authority.name}"),
        ]

    def token(self) -> str:
        """Return a new token for it."""
        return self._testbed.panel.transfer_token(self._server, self._node.node)

    async def send(self) -> None:
        """Run the command, and check the result. Raises `Failed`."""
        await self.prepare()
        print(shown(self.command("$JWT_TOKEN")), flush=True)
        quiet = ["--silent", "--show-error", "--fail-with-body", "-w", _STATUS_LINE]
        shutil.copy(self._node.authority, self._testbed.directory)
        command = [shutil.which("curl") or "curl", *self.command(self.token())[1:], *quiet]
        status = await Process(self._testbed.reactor, command, self._testbed.directory).ended
        if status:
            raise Failed(f"curl ended with the status {status}")
        await self._verify()

    async def _verify(self) -> None:
        received = self._node.files(self._server)
        found = await deferToThread(lambda: list(trees.differences(self._files, received, OWNER)))
        check("files", not found, "\n".join(found[:10]) or "equal to the packed ones")
        heard = (self._server, "success") in self._testbed.panel.reports()
        check(
            "Panel",
            heard,
            "got a report of success" if heard else "got no report of success",
        )
        home = await deferToThread(self._testbed.engine.home, self._server)
        check("container", home == str(received), f"created, with the files in {home}")
        line("transfer", self._node.speed(self._server))


def shown(command: list[str]) -> str:
    """Return a curl command as a person would type it."""
    words = [f"'{word}'" if set(word) & set(' ="{') else word for word in command]
    # A `$NAME` is for the shell to fill in.
    words = [word.replace("'", '"') if "$" in word else word for word in words]
    lines = [" ".join(words[:4]), *(" ".join(words[i : i + 2]) for i in range(4, len(words), 2))]
    return "  " + " \\\n    ".join(lines) + "\n"
