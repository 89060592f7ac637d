"""What users hear of a restore: console lines, progress, and the events that pages act on.

The page of Pterodactyl and Pelican shows a server as being restored until `backup restore
completed`, which it takes for a success. After a failure it gets `install completed` in its place,
by which it asks the Panel for the server's state; the Panel has the report by then. Calagopus'
page reads from the first whether it was a success.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from wingsd.errors import WingsdError
from wingsd.events import (
    BACKUP_RESTORE_COMPLETED,
    BACKUP_RESTORE_PROGRESS,
    BACKUP_RESTORE_STARTED,
    DAEMON_MESSAGE,
    INSTALL_COMPLETED,
)
from wingsd.statedb import Outcome
from wingsd.util.text import escaped

__all__ = ["PROGRESS_EVERY", "Announcements", "ReadProgress"]

#: Seconds between two messages about the progress.
PROGRESS_EVERY = 1.0


class _Audience(Protocol):
    """The server, as far as it tells its users something."""

    def publish(self, event: str, *args: str) -> None:
        """Publish an event of it."""

    def say(self, message: str, *, keep: bool = False) -> None:
        """Show a message of the node in the console, and log it."""


@attrs.define(eq=False)
class ReadProgress:
    """How far an archive was read; written by its thread, read by the reactor."""

    size: int = 0
    files: int = 0
    name: bytes = b""

    def counted(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        """Pass on the blocks of the archive."""
        for block in blocks:
            self.size += len(block)
            yield block

    def note(self, name: bytes) -> None:
        """Note the member that is read now."""
        self.files += 1
        self.name = name


@attrs.frozen(eq=False, repr=False)
class Announcements:
    """Tells the users of one server about the restoring of a backup.

    `kind` is what Wings calls its archive; `for_calagopus` is whether the events are for its page.
    """

    server: _Audience
    kind: str
    for_calagopus: bool
    reactor: IReactorTime

    @contextmanager
    def reading(self, progress: ReadProgress, total: int) -> Iterator[None]:
        """Tell the beginning, and now and then what is read of `total` bytes, 0 if unknown."""
        self.server.publish(BACKUP_RESTORE_STARTED)
        shown = ReadProgress()

        def show() -> None:
            if progress.files != shown.files:
                shown.files = progress.files
                name = escaped(progress.name.decode(errors="replace"))
                self.server.publish(DAEMON_MESSAGE, f"(restoring): {name}")
            if progress.size != shown.size:
                shown.size = progress.size
                self.server.publish(BACKUP_RESTORE_PROGRESS, _progress(progress, total))

        repeating = LoopingCall(show)
        repeating.clock = self.reactor
        repeating.start(PROGRESS_EVERY, now=False)
        try:
            yield
        finally:
            repeating.stop()
            show()

    def succeeded(self) -> None:
        """Tell that the backup is restored, in Wings' words."""
        self.server.say(f"Completed server restoration from {self.kind}.")

    def failed(self, error: WingsdError | None) -> None:
        """Tell that it is not, and why; None for an internal error."""
        why = str(error) if error is not None else "an unexpected error; see the node's log"
        self.server.say(
            f"The backup was not restored, and the server's files are as before: {why}", keep=True
        )

    def ended(self, outcome: Outcome) -> None:
        """Have pages show the server as it is: the Panel has heard the outcome."""
        if self.for_calagopus:
            successful = "true" if outcome is Outcome.SUCCESS else "false"
            self.server.publish(BACKUP_RESTORE_COMPLETED, successful)
        elif outcome is Outcome.SUCCESS:
            self.server.publish(BACKUP_RESTORE_COMPLETED, "")
        else:
            self.server.publish(INSTALL_COMPLETED, "")


def _progress(progress: ReadProgress, total: int) -> str:
    """Return the JSON of Calagopus' event: with the names of 2025's pages, and of those after."""
    return json.dumps(
        {
            "progress": progress.size,
            "total": total,
            "bytes_processed": progress.size,
            "bytes_total": total,
            "files_processed": progress.files,
        }
    )
