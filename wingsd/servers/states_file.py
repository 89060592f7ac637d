"""The states of this node's servers on the disk: `states.json`, which Wings keeps as well.

It says which servers ran, for a start after the machine's. The daemons of all families read it at
their start and write it while they run, Wings once a minute, so it tells whichever daemon is
started next. Its content is one JSON object: a state by server, in the words of `PowerState`.

Source: Wings, `server/manager.go`; Calagopus, `server/manager.rs`, which takes no keys but UUIDs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from wingsd.errors import StorageError
from wingsd.threadio import Workers
from wingsd.util.durable import replace_file, storage_errors

#: Its name in `system.root_directory`.
NAME = "states.json"
#: Bytes of a file that are read at most: those of 100,000 servers.
MOST = 8 << 20


def parse_states(data: bytes) -> dict[str, str]:
    """Return the states in the content of a file; Wings makes an empty one before its first.

    Raises `ValueError`.
    """
    if not data.strip():
        return {}
    states = json.loads(data)
    if not isinstance(states, dict) or not all(isinstance(one, str) for one in states.values()):
        raise ValueError("expected an object with texts")
    return states


class StatesFile:
    """The file in the directory `root`. `disk` are the threads that read and write it.

    Changes are written one after another, those that come meanwhile together. A file that is
    right already is not touched.
    """

    _log = Logger()

    def __init__(self, root: str, disk: Workers) -> None:
        self._path = Path(root) / NAME
        self._disk = disk
        self._states: dict[str, str] = {}
        self._written: dict[str, str] = {}
        self._writing = DeferredLock()

    async def load(self) -> Mapping[str, str]:
        """Return the states in the file, by server. One that cannot be read is logged."""
        try:
            data = await self._disk.run(self._read)
            self._states = parse_states(data)
        except (StorageError, ValueError, RecursionError) as error:
            self._log.warn(
                "{path} cannot be used, so no server counts as running before: {error}",
                path=str(self._path),
                error=error.detail if isinstance(error, StorageError) else error,
            )
        self._written = dict(self._states)
        return dict(self._states)

    def record(self, server: str, state: str | None) -> None:
        """Write the state of a server, None for one that is gone, in the background."""
        if state is None:
            self._states.pop(server, None)
        else:
            self._states[server] = state
        if not self._writing.locked and self._states != self._written:
            writing = self._writing.run(self._write_all)
            writing.addErrback(lambda failure: self._log.failure("states not written", failure))

    async def flush(self) -> None:
        """Return when all changes are written, or could not be."""
        await self._writing.run(lambda: None)

    async def _write_all(self) -> None:
        try:
            while self._states != self._written:
                states = dict(self._states)
                await self._disk.run(self._write, states)
                self._written = states
        except StorageError as error:
            self._log.error(
                "not recorded which servers run, for a restart of the machine: {error}",
                error=error.detail,
            )

    def _read(self) -> bytes:
        with storage_errors(self._path):
            try:
                with self._path.open("rb") as file:
                    return file.read(MOST)
            except FileNotFoundError:
                return b""

    def _write(self, states: Mapping[str, str]) -> None:
        # As Go writes it.
        text = json.dumps(states, sort_keys=True, separators=(",", ":"))
        with storage_errors(self._path):
            replace_file(self._path, text.encode(), mode=0o644)
