"""What a move is begun with: the first request's body, as it is kept for later daemons."""

from __future__ import annotations

import json

import attrs
from twisted.logger import Logger

from wingsd.config import MovesConfig
from wingsd.errors import StorageError, WingsdError
from wingsd.statedb import StateDatabase
from wingsd.transfers.incoming.moves.attachments import AnnouncedBackup
from wingsd.transfers.incoming.moves.errors import failure_state
from wingsd.util.serialization import structure

__all__ = ["MoveBeginning", "MoveIdentity", "MoveTerms"]

_DAY = 24 * 3600.0


@attrs.frozen(eq=False, repr=False)
class MoveBeginning:
    """The source's announcement of the server; `log` may be None.

    `bytes` counts the holes of sparse files, `disk_bytes` does not; these and `files` may be 0.
    `running` is whether it runs there: its container is there until the commit. With `follow` it
    is a seed: the copy follows the server for as long as need be. Before `version` 2 nothing has
    extended attributes.
    """

    family: str = ""
    bytes: int = 0
    disk_bytes: int = 0
    files: int = 0
    backups: tuple[AnnouncedBackup, ...] = ()
    log: int | None = None
    running: bool = False
    follow: bool = False
    version: int = 1

    def encode(self) -> str:
        """Return it as JSON."""
        return json.dumps(attrs.asdict(self))

    @classmethod
    def decode(cls, text: str) -> MoveBeginning:
        """Return it from JSON; what an unknown version has written is left out."""
        return structure(json.loads(text), cls)


@attrs.frozen(repr=False)
class MoveIdentity:
    """What a move is known by: its id, and the SHA-256 of its key and of its token.

    While it is begun, also when the token `expires`, in seconds since the epoch.
    """

    move: str
    key: str
    token: str
    expires: float = 0.0


@attrs.frozen(eq=False, repr=False)
class MoveTerms:
    """What a move is: its identity, what it was begun with, and the settings of moves.

    `starts` is whether a server that was running is started here, `is_following` whether it is a
    seed whose source has begun a session: before that the source may have had no answer to its
    first request, and have given up. `failure` is why it has failed, where an earlier daemon ended
    before all was rolled back.
    """

    identity: MoveIdentity
    beginning: MoveBeginning
    settings: MovesConfig
    starts: bool
    database: StateDatabase
    is_following: bool = False
    failure: WingsdError | None = None

    _log = Logger()

    @property
    def silence(self) -> float:
        """Seconds for which the source may be silent: of a seed as long as a copy is kept."""
        if self.is_following and self.settings.keep_days:
            return max(self.settings.keep_days * _DAY, self.settings.patience)
        return self.settings.patience

    async def note_failure(self, server: str, entry: int, error: Exception) -> None:
        """Record what the source is answered that asks for the outcome; log why not."""
        try:
            await self.database.set_move_state(entry, failure_state(error))
        except StorageError as failure:
            self._log.error("{server}: {error}", server=server, error=failure)
