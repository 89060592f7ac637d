"""The scenario of a node that restores backups of a server, and dies."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.kills.engine import Broken, Kill, is_finished
from tests.support.backups import packed_backup
from tests.support.node_process import NodeProcess
from tests.support.nodes import NodeError
from tests.support.panel import Panel
from tests.support.sample_server import UUID
from tests.support.settings import process_configuration, server_settings

__all__ = ["Restores"]

#: Seconds at most from the beginning of a restore to a kill, and after a line of the log.
LATEST, LINGER = 1.0, 0.04
#: Lines of the log: an archive is read, and has been; it is in place; the Panel knows.
MOMENTS = (
    "restoring the backup",
    "the backup is read and verified",
    "the backup is read and verified",
    "Completed server restoration",
    "the Panel knows that the backup",
)
BACKUPS = [f"5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c1{number}" for number in range(2)]
#: Files of a backup, and bytes of each.
FILES, SIZE = 80, 20_000

Content = dict[str, bytes]


def _content(backup: str) -> Content:
    """Return the files of a backup. Half of the names are in each of them."""
    names = [f"world/region/{n}" if n % 2 else f"{backup[-1]}/{n % 7}/{n}" for n in range(FILES)]
    return {name: hashlib.shake_128(f"{backup}{name}".encode()).digest(SIZE) for name in names}


class Restores:
    """After each kill the server has its old content or the new one, whole, as the Panel says.

    Nothing is staged or unfinished. Replaced files are whole in quarantine where all were to be
    replaced, and the backups are as they were.
    """

    def __init__(self, directory: Path) -> None:
        self._panel = Panel()
        self._node = NodeProcess(directory, self._panel)
        self._backups = {uuid: _content(uuid) for uuid in BACKUPS}
        self._archives = {uuid: packed_backup(each) for uuid, each in self._backups.items()}
        self._number = 0
        self._accepted = False
        self._truncates = False
        self._before: Content = {}
        self._after: Content = {}

    @property
    def nodes(self) -> Mapping[str, NodeProcess]:
        """There is only this one."""
        return {"node": self._node}

    async def start(self) -> None:
        self._panel.add_server(server_settings(UUID), self._node.node, process_configuration())
        self._write(self._backups[BACKUPS[0]])
        place = self._node.directory / "backups"
        place.mkdir()
        for uuid, archive in self._archives.items():
            (place / f"{uuid}.tar.gz").write_bytes(archive)
        await self.restart(self._node)

    async def close(self) -> None:
        await self._node.close()
        await self._panel.close()

    def plan(self, rng: random.Random) -> Kill:
        """Return the next kill; a third of them are at random moments."""
        variant = rng.choice(["replacing all", "laid over"])
        if rng.random() < 1 / 3:
            return Kill(("node",), rng.uniform(0, LATEST), variant=variant)
        return Kill(("node",), rng.choice(MOMENTS), (rng.uniform(0, LINGER),), variant)

    async def begin(self, variant: str = "") -> None:
        """Have the Panel restore the other backup, after the server has written a file."""
        shutil.rmtree(self._node.staging / ".quarantine", ignore_errors=True)
        self._number += 1
        self._write({f"later/{self._number % 5}": str(self._number).encode()})
        backup = BACKUPS[self._number % 2]
        self._truncates = variant == "replacing all"
        self._before = self._read(self._node.files())
        kept = {} if self._truncates else self._before
        self._after = {**kept, **self._backups[backup]}
        self._accepted = False
        with suppress(NodeError):
            await self._panel.restore(UUID, backup, truncate_directory=self._truncates)
            self._accepted = True

    async def restart(self, node: NodeProcess) -> None:
        await node.start_loaded()
        node.node.address = node.url

    async def unsettled(self) -> str:
        """Return what has not ended yet."""
        if self._panel.restoring(UUID):
            return "the Panel shows the server as being restored"
        if not is_finished(self._node):
            return "the node does not finish what it has begun"
        left = {path.name for path in self._node.staging.iterdir()} - {".lock", ".quarantine"}
        return f"something stays staged: {sorted(left)}" if left else ""

    async def check(self) -> None:
        if self._panel.forgotten:
            raise Broken("the Panel ended the state of a server that was being restored")
        found = self._read(self._node.files())
        told = self._panel.restored(UUID) if self._accepted else found == self._after
        if found != (self._after if told else self._before):
            raise Broken(f"the Panel has heard {told}, and the server has something else")
        for uuid, archive in self._archives.items():
            if (self._node.directory / "backups" / f"{uuid}.tar.gz").read_bytes() != archive:
                raise Broken("a backup is not as it was")
        self._check_quarantine(replaced=bool(told) and self._truncates)

    def check_success(self) -> None:
        """Check that the backup is restored."""
        if self._read(self._node.files()) != self._after:
            raise Broken("the next restore does not go well")

    def _check_quarantine(self, *, replaced: bool) -> None:
        place = self._node.staging / ".quarantine"
        kept = list(place.iterdir()) if place.is_dir() else []
        if len(kept) != replaced or any(self._read(each) != self._before for each in kept):
            raise Broken(f"the replaced files are not whole in quarantine: {len(kept)}")

    def _write(self, files: Content) -> None:
        for name, content in files.items():
            path = self._node.files() / name
            path.parent.mkdir(parents=True, exist_ok=True)
            # As a game does it: what is a hard link in quarantine keeps its content.
            path.unlink(missing_ok=True)
            path.write_bytes(content)

    def _read(self, directory: Path) -> Content:
        found = {}
        for parent, _, names in os.walk(directory):
            for name in names:
                path = Path(parent, name)
                found[str(path.relative_to(directory))] = path.read_bytes()
        return found
