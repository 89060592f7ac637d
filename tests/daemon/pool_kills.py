"""Kills nodes of one storage pool at every step of a move, and sees that no file is touched.

    python -m tests.daemon.pool_kills --count 200 --seed 1

A server moves to and fro between two real daemons that have one volume. Each time one of them, or
both, are killed with SIGKILL, at a step of the journal or anywhere. They are started again, and
then the server's directory must be the very same as before, file by file, where it was. Nothing
else is on the volume, neither node has anything of the server among its own, nothing is unfinished
in the journals, and the next move must go well.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from tests.archives import seen
from tests.daemon.harness import UUID
from tests.daemon.kills import Broken, Harness, arguments_of, kill_often
from tests.daemon.pair import Pair

__all__ = ["PoolHarness"]

POOLS = ("attic", "Attic")


class PoolHarness(Harness):
    """Two nodes with one volume, and one server on that."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, pair=Pair(directory, POOLS))
        self._volumes = self.pair.source.volumes
        self._inodes: dict[Path, int] = {}

    async def start(self) -> None:
        """Start the Panel and both nodes."""
        await super().start()
        self._inodes = self._identities()

    def _identities(self) -> dict[Path, int]:
        paths = [self._volumes / UUID, *(self._volumes / UUID).rglob("*")]
        return {path: path.lstat().st_ino for path in paths}

    def check(self) -> None:
        """Raise `Broken` where anything is not as it was."""
        if not (self._volumes / UUID).is_dir():
            raise Broken("the server is lost: its directory is not in the pool")
        if seen(self._volumes / UUID) != self.before or self._identities() != self._inodes:
            raise Broken("the server's files are not those that were there")
        on_volume = sorted(path.name for path in self._volumes.iterdir())
        if on_volume != [UUID]:
            raise Broken(f"something else is on the volume: {on_volume}")
        for peer in self.ends:
            staged = [path.name for path in peer.staging.iterdir() if path.name != ".lock"]
            if staged or peer.left():
                raise Broken(f"something is left over: {staged}, {peer.left()}")
            if any("Traceback" in line for line in (*peer.past, *peer.log)):
                raise Broken("a node has met what nobody foresaw")


def main() -> None:
    """Kill as often as asked for."""
    arguments = arguments_of(__doc__, 200).parse_args()
    with tempfile.TemporaryDirectory() as name:
        running = kill_often(PoolHarness(Path(name)), arguments.count, arguments.seed)
        react(lambda _: Deferred.fromCoroutine(running))


if __name__ == "__main__":
    main()
