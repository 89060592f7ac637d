"""The disk limit of one server: it is not started above it, and stopped when it grows above it.

The limit is `build.disk_space` of its settings, and what counts is `ServerFiles.disk_bytes`. The
rules and the texts of console lines are those of Wings.
"""

from __future__ import annotations

from typing import Protocol

from wingsd.archive.quota import ArchiveLimits
from wingsd.errors import DiskLimitExceeded, StorageError
from wingsd.panel.schemas import Configuration
from wingsd.servers.disk_usage import ServerFiles
from wingsd.servers.files import BackgroundTasks
from wingsd.servers.run import Run
from wingsd.servers.runtime import ServerRuntime
from wingsd.util.text import readable_size

__all__ = ["DiskLimit", "LimitedServer"]

#: Seconds that a server may take to stop above its limit; Wings' figure.
EXCESS_GRACE = 60.0
CHECKING = "checking server disk space usage, this could take a few seconds..."
STOPPING = "Server is exceeding the assigned disk space limit, stopping process now."


class LimitedServer(Protocol):
    """The server that has the limit."""

    uuid: str
    configuration: Configuration

    async def stop_within(self, grace: float) -> None:
        """Stop it, or kill it after `grace` seconds."""


class DiskLimit:
    """Compares the disk usage of a server with its limit, which its quota gets as well."""

    def __init__(
        self,
        server: LimitedServer,
        runtime: ServerRuntime,
        files: ServerFiles,
        tasks: BackgroundTasks,
    ) -> None:
        self._server = server
        self._runtime = runtime
        self._files = files
        self._tasks = tasks
        #: The run that is being stopped, or was: once for each run.
        self._stopped: Run | None = None
        runtime.when_measured = self.check
        files.when_present = self.apply
        files.limit = lambda: self.bytes

    @property
    def bytes(self) -> int | None:
        """The limit in bytes, None for no limit."""
        return ArchiveLimits.disk_bytes(self._server.configuration.settings.build.disk_space)

    def apply(self) -> None:
        """Have the file system hold the limit, if it has quotas. Call it when the limit is new."""
        if self._files.exists:
            self._files.quota.request(self.bytes)

    async def check_start(self) -> None:
        """Count the files, and return if the server may be started.

        Without a limit nothing is waited for. Raises `DiskLimitExceeded`, and `StorageError` where
        a server with a limit cannot be measured.
        """
        if not self._files.is_counted:
            return
        self._runtime.daemon_line(CHECKING)
        is_known = self._files.as_received
        if self.bytes is None:
            if not is_known:
                self._files.measure()
            return
        try:
            used = self._files.disk_bytes if is_known else await self._files.measured()
            self._require(used or 0)
            # A program that cannot write would damage its files.
            self._require(await self._files.quota.used(), " on the disk")
        except StorageError as error:
            error.add_context("its disk limit cannot be checked")
            raise

    def _require(self, used: int, where: str = "") -> None:
        limit = self.bytes
        if limit is not None and used > limit:
            taken = f"{readable_size(used)}{where}"
            raise DiskLimitExceeded(
                f"the server's files take {taken}, and its disk limit is {readable_size(limit)}; "
                "delete files, or raise its disk limit in the Panel"
            )

    def check(self) -> None:
        """Stop the server in the background if it runs and is above the limit, once for each run.

        Called with each measurement of its usage.
        """
        limit, used, run = self.bytes, self._files.disk_bytes, self._runtime.run
        if limit is None or used is None or used <= limit or run in (None, self._stopped):
            return
        self._stopped = run
        self._runtime.daemon_line(STOPPING)
        self._tasks.start(
            "stopping it, since it is above its disk limit",
            self._server.stop_within(EXCESS_GRACE),
            self._server.uuid,
        )
