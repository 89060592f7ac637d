"""A file downloaded with curl by a signed URL, as a browser does after a click in the Panel."""

from __future__ import annotations

import shutil
from pathlib import Path

from twisted.internet.threads import deferToThread

from demo import trees
from demo.node import RunningNode
from demo.output import Failed, check
from demo.process import Process
from demo.testbed import Testbed
from tests.support.tokens import signed_url_token

__all__ = ["CurlDownload"]


class CurlDownload:
    """The largest file of a server on a node, and the command that downloads it."""

    def __init__(self, testbed: Testbed, server: str, node: RunningNode) -> None:
        self._testbed = testbed
        self._server = server
        self._node = node

    async def fetch(self) -> None:
        """Download the file, then try its address again. Raises `Failed`."""
        place = self._node.files(self._server)
        file = await deferToThread(largest, place)
        path = str(file.relative_to(place))
        token = signed_url_token(
            self._node.node.token, self._server, "file-download", file_path=path
        )
        address = f"{self._node.node.address}/download/file?token="
        print(f'  curl -OJ "{address}$TOKEN"\n', flush=True)
        saved = self._testbed.directory / "downloads"
        saved.mkdir()
        if await self._curl(saved, f"{address}{token}"):
            raise Failed("curl could not download it")
        (downloaded,) = saved.iterdir()
        equal = await deferToThread(trees.sha256, downloaded) == trees.sha256(file)
        check("file", equal and downloaded.name == file.name, f"{path}, equal to the node's")
        again = await self._curl(saved, f"{address}{token}", "--silent")
        check("once more", again, "refused: an address is good once")

    async def _curl(self, directory: Path, address: str, *options: str) -> int:
        command = [shutil.which("curl") or "curl", "--fail", "--no-progress-meter", "-OJ"]
        command += ["--cacert", str(self._node.authority), *options, address]
        return await Process(self._testbed.reactor, command, directory).ended


def largest(directory: Path) -> Path:
    """Return the largest file below a directory."""
    files = (path for path in directory.rglob("*") if path.is_file() and not path.is_symlink())
    return max(files, key=lambda path: path.stat().st_size)
