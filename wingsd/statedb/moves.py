"""The moves that resume, in both directions, in the state database.

Blocking, for one thread at a time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import attrs

from wingsd.statedb.backups import BackupRows
from wingsd.statedb.records import Direction

__all__ = ["MoveRecord", "MoveRows"]

#: The states of moves to this node that have not failed: whether the server is to be started.
_STARTS, _STARTS_NOT = '{"start": true}', "{}"

_FIELDS = "transfer, server, direction, move, key, token, url, family, request, state"
_INSERT = f"INSERT OR REPLACE INTO moves ({_FIELDS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608


@attrs.frozen(repr=False)
class MoveRecord:
    """A move; `transfer` is the id of its transfer.

    At the source `key` is the move's key, `token` the header `Authorization` for the first
    request and `url` the destination's address of transfers. At the destination they are the
    SHA-256 of the key, that of the token, and empty. `move` is empty until the destination has
    given the id. `family` is that of the other node, if it is known. `request` is a JSON object
    that never changes, such as what the move was begun with; `state` is one that does.
    """

    transfer: int
    server: str
    direction: Direction = attrs.field(converter=Direction)
    move: str
    key: str
    token: str
    url: str = ""
    family: str = ""
    request: str = "{}"
    state: str = "{}"


class MoveRows(BackupRows):
    """The rows of moves. Every method raises `StateDatabaseError`."""

    def add_move(self, record: MoveRecord) -> None:
        """Add a move."""
        self._execute(_INSERT, *_values(record))

    def drop_move(self, transfer: int) -> None:
        """Delete the move of a transfer that goes on as one stream, or has failed."""
        self._execute("DELETE FROM moves WHERE transfer = ?", transfer)

    def set_move(self, transfer: int, move: str) -> None:
        """Record the id that the destination has given."""
        self._execute("UPDATE moves SET move = ? WHERE transfer = ?", move, transfer)

    def set_move_state(self, transfer: int, state: str) -> None:
        """Record the state of a move, a JSON object."""
        self._execute("UPDATE moves SET state = ? WHERE transfer = ?", state, transfer)

    def change_move_state(self, transfer: int, changes: Mapping[str, object]) -> None:
        """Change fields of the state of a move, if it is recorded; the others stay."""
        record = self.move(transfer)
        if record is not None:
            self.set_move_state(transfer, json.dumps({**json.loads(record.state), **changes}))

    def set_start(self, transfer: int, *, starts: bool) -> None:
        """Record whether the server of a move to this node is to be started at the end."""
        self.set_move_state(transfer, _STARTS if starts else _STARTS_NOT)

    def starts(self, transfer: int) -> bool:
        """Return whether that is recorded; False for a transfer as one stream."""
        move = self.move(transfer)
        return move is not None and move.direction is Direction.IN and move.state == _STARTS

    def arrived_to_start(self) -> list[MoveRecord]:
        """Return the moves that have succeeded, and whose servers are still to be started."""
        return self._moves(
            "WHERE direction = 'in' AND state = ? AND transfer IN "
            "(SELECT id FROM transfers WHERE outcome = 'success') ORDER BY transfer",
            _STARTS,
        )

    def move(self, transfer: int) -> MoveRecord | None:
        """Return the move of a transfer, None for a transfer as one stream."""
        return next(iter(self._moves("WHERE transfer = ?", transfer)), None)

    def open_moves(self) -> list[MoveRecord]:
        """Return the moves in both directions whose transfers have not ended.

        And those to other nodes that have failed, where these may not have heard of it.
        """
        return self._moves(
            "WHERE transfer IN (SELECT id FROM transfers WHERE outcome IS NULL "
            "OR outcome = 'failure' AND moves.direction = 'out') ORDER BY transfer"
        )

    def find_move(self, direction: Direction, move: str) -> MoveRecord | None:
        """Return a move by its id, also when it has ended."""
        where = "WHERE direction = ? AND move = ? ORDER BY transfer DESC LIMIT 1"
        return next(iter(self._moves(where, direction.value, move)), None)

    def find_admitted(self, token: str) -> MoveRecord | None:
        """Return the move to this node that was begun with the token of that SHA-256."""
        where = "WHERE direction = 'in' AND token = ? ORDER BY transfer DESC LIMIT 1"
        return next(iter(self._moves(where, token)), None)

    def _moves(self, where: str, *values: object) -> list[MoveRecord]:
        rows = self._rows(f"SELECT {_FIELDS} FROM moves {where}", *values)  # noqa: S608 - constant
        return [MoveRecord(*row) for row in rows]


def _values(record: MoveRecord) -> tuple[object, ...]:
    values = attrs.astuple(record, recurse=False)
    return tuple(each.value if isinstance(each, Direction) else each for each in values)
