"""What a move is begun with: the first request's body, as it is kept for later daemons."""

from __future__ import annotations

import json

import attrs

from wingsd.config import MovesConfig
from wingsd.statedb import StateDatabase
from wingsd.transfers.incoming.moves.attachments import AnnouncedBackup
from wingsd.util.serialization import structure

__all__ = ["MoveBeginning", "MoveIdentity", "MoveTerms"]


@attrs.frozen(eq=False, repr=False)
class MoveBeginning:
    """What the source has told of the server; `bytes` and `files` may be 0, `log` None."""

    family: str = ""
    bytes: int = 0
    files: int = 0
    backups: tuple[AnnouncedBackup, ...] = ()
    log: int | None = None

    def encode(self) -> str:
        """Return it as JSON."""
        return json.dumps(attrs.asdict(self))

    @classmethod
    def decode(cls, text: str) -> MoveBeginning:
        """Return it from JSON; what an unknown version has written is left out."""
        return structure(json.loads(text), cls)


@attrs.frozen(repr=False)
class MoveIdentity:
    """What a move is known by: its id, and the SHA-256 of its key and of its token."""

    move: str
    key: str
    token: str


@attrs.frozen(eq=False, repr=False)
class MoveTerms:
    """What a move is: its identity, what it was begun with, and the settings of moves."""

    identity: MoveIdentity
    beginning: MoveBeginning
    settings: MovesConfig
    database: StateDatabase
