"""Installations that another daemon, such as Wings, began before this one took its place.

Wings leaves its installers running when it ends, and has no record of them. The Panel shows such
a server as installing, and gets the report from the daemon that is there at the end.
"""

from __future__ import annotations

import json
from pathlib import Path

from twisted.logger import Logger

from wingsd.docker.runtime import InstallerState
from wingsd.errors import StorageError
from wingsd.servers.install_files import InstallDetails
from wingsd.servers.installation import InstallParts
from wingsd.statedb import InstallationRecord
from wingsd.util.durable import replace_file, storage_errors

__all__ = ["InstallingFile", "TakenOver"]

#: The record of Calagopus' nodes in `system.root_directory`.
NAME = "installing.json"
#: Bytes of it that are read at most; it has whole scripts.
MOST = 64 << 20


class InstallingFile:
    """The record of Calagopus' nodes: by server, whether it is a reinstallation, and the script.

    An entry that stays would make such a node, when it is back, go on with an installation that
    has ended long ago. Blocking. Source: Calagopus, `server/manager.rs`.
    """

    def __init__(self, root: str) -> None:
        self._path = Path(root) / NAME

    def take(self, uuid: str) -> bool | None:
        """Remove a server's entry; return whether it is of a reinstallation, None without one.

        Raises `StorageError`.
        """
        with storage_errors(self._path):
            try:
                with self._path.open("rb") as file:
                    entries = json.loads(file.read(MOST))
                entry = entries.pop(uuid)
                reinstall = entry[0] is True
            except FileNotFoundError:
                return None
            except (ValueError, RecursionError, AttributeError, LookupError, TypeError):
                return None  # Not what these nodes write, or nothing of this server.
            text = json.dumps(entries, separators=(",", ":"))
            replace_file(self._path, text.encode(), mode=0o644)
        return reinstall


class TakenOver:
    """Records installations that another daemon began, so that they go on as this node's."""

    _log = Logger()

    def __init__(self, parts: InstallParts, root: str) -> None:
        self._parts = parts
        self._installing = InstallingFile(root)

    async def record(self, uuid: str) -> InstallationRecord | None:
        """Return the record of an installation whose script another daemon has running.

        None where there is no such script. The output of one that has ended is in the log then,
        and its installer is to be removed. Raises `EnvironmentFailed`, `StorageError`.
        """
        state = await self._parts.containers.find_installer(uuid)
        if state is None or not state.is_foreign or not state.has_started:
            return None
        reinstall = await self._take_record(uuid)
        if state.is_running:
            record = await self._parts.database.begin_installation(
                uuid, reinstall=reinstall, start=False, runs=True
            )
            await self._begin_log(uuid, state)
            self._log.info("{server}: its installation was begun by another daemon", server=uuid)
            return record
        # With the restart, which is reported to the Panel, the server counts as installed.
        self._log.warn(
            "{server}: its installation was begun by another daemon, and ended with exit code "
            "{status} while no daemon ran; see its output in the installation log",
            server=uuid,
            status=state.exit_status,
        )
        await self._begin_log(uuid, state)
        await self._parts.containers.copy_output(uuid, self._parts.log(uuid).write)
        return None

    async def _take_record(self, uuid: str) -> bool:
        """Return whether it is a reinstallation: Wings writes the log at the end of each."""
        disk = self._parts.disk
        noted = await disk.run(self._installing.take, uuid)
        return await disk.run(self._parts.log(uuid).exists) if noted is None else noted

    async def _begin_log(self, uuid: str, state: InstallerState) -> None:
        details = InstallDetails(uuid, state.image, state.entrypoint, state.environment)
        try:
            await self._parts.disk.run(self._parts.log(uuid).begin, details)
        except StorageError as error:
            self._log.warn("{server}: {error}", server=uuid, error=error)
