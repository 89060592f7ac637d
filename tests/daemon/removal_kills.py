"""Kills nodes while a server moves with backups that are to be deleted where they came from.

    python -m tests.daemon.removal_kills --count 200 --seed 1

A server moves to and fro between two real daemons, and with it two backups, which Calagopus'
Panel wants deleted at the source. Each time one of the nodes, or both, are killed with SIGKILL, at
a step of the journal or anywhere, and started again. Then both backups must be whole where the
server is, by the Panel's word, and nowhere else; and another at each node is as it was.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from tests.daemon.kills import Broken, Harness, arguments_of, kill_often
from tests.daemon.pair import Peer

__all__ = ["RemovalHarness"]

UUIDS = [f"5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c1{number}" for number in range(2)]
MOVING = {uuid: hashlib.shake_128(uuid.encode()).digest(50_000) for uuid in UUIDS}
STAYING = "5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c19.tar.gz"
PRECIOUS = b"another backup"


class RemovalHarness(Harness):
    """Two nodes, with one server between them that has two backups."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.asked = {"archive_format": "tar_gz", "backups": UUIDS, "delete_backups": True}

    async def start(self) -> None:
        """Start the Panel and both nodes."""
        for peer in (self.pair.source, self.pair.destination):
            _backups(peer).mkdir()
            (_backups(peer) / STAYING).write_bytes(PRECIOUS)
        for uuid, data in MOVING.items():
            (_backups(self.pair.source) / f"{uuid}.tar.gz").write_bytes(data)
        await super().start()

    def check(self) -> None:
        """Raise `Broken` where anything is not as it must be."""
        super().check()
        here, there = (
            {path.name: path.read_bytes() for path in _backups(peer).iterdir() if path.is_file()}
            for peer in self.ends
        )
        if here.pop(STAYING, b"") != PRECIOUS or there.pop(STAYING, b"") != PRECIOUS:
            raise Broken("a backup that nobody asked for is not as it was")
        if here != {f"{uuid}.tar.gz": data for uuid, data in MOVING.items()}:
            raise Broken(f"where the server is, its backups are not, or not whole: {list(here)}")
        if there:
            raise Broken(f"where the server is not, backups are left: {list(there)}")


def _backups(peer: Peer) -> Path:
    return peer.directory / "backups"


def main() -> None:
    """Kill as often as asked for."""
    arguments = arguments_of(__doc__, 200).parse_args()
    with tempfile.TemporaryDirectory() as name:
        running = kill_often(RemovalHarness(Path(name)), arguments.count, arguments.seed)
        react(lambda _: Deferred.fromCoroutine(running))


if __name__ == "__main__":
    main()
