"""The backups that a Panel has, and what nodes report of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from tests.support.settings import Json

__all__ = ["BackupRefused", "PanelBackup", "PanelBackups"]

_REQUIRED = ("checksum", "checksum_type", "size", "successful")


class BackupRefused(Exception):
    """The report is refused, with an HTTP status and the words for it."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


@attrs.define
class PanelBackup:
    """A backup of a server: `told` is the accepted report of its end, None before."""

    server: str
    told: Json | None = None
    #: The accepted reports of its deletion.
    deletions: list[bool] = attrs.field(factory=list)

    @property
    def is_over(self) -> bool:
        return self.told is not None


@attrs.define
class PanelBackups:
    """All backups, by their UUIDs."""

    known: dict[str, PanelBackup] = attrs.field(factory=dict)
    #: Signs parts in a store: gets the backup, and what is asked for; None without a store.
    signer: Callable[[str, str], Json] | None = None

    def add(self, uuid: str, server: str) -> PanelBackup:
        """Have a backup that a node is to make."""
        made = self.known[uuid] = PanelBackup(server)
        return made

    def server_of(self, uuid: str) -> str:
        """Return the server of a backup. Raises `BackupRefused`."""
        if uuid not in self.known:
            raise BackupRefused(404, "There is no such backup.")
        return self.known[uuid].server

    def sign(self, uuid: str, query: str) -> Json:
        """Return signed URLs of a backup's parts. Raises `BackupRefused`."""
        if self.known[uuid].is_over:
            raise BackupRefused(409, "This backup is already in a completed state.")
        if self.signer is None:
            raise BackupRefused(400, "The configured backup adapter is not S3 compatible.")
        return self.signer(uuid, query)

    def report(self, uuid: str, rest: list[str], body: Any) -> None:
        """Take a report of a node that has the backup's server. Raises `BackupRefused`."""
        backup = self.known[uuid]
        if not isinstance(body, dict) or "successful" not in body:
            raise BackupRefused(422, "The successful field must be present.")
        match rest:
            case []:
                self._end(backup, body)
            case ["deletion"]:
                backup.deletions.append(bool(body["successful"]))
            case _:
                raise BackupRefused(404, "There is no such path.")

    def _end(self, backup: PanelBackup, body: Json) -> None:
        missing = [key for key in (*_REQUIRED, "parts") if key not in body]
        if missing:
            raise BackupRefused(422, f"The {missing[0]} field must be present.")
        if backup.told is not None and backup.told["successful"]:
            raise BackupRefused(400, "Cannot update a backup that is completed.")
        backup.told = body
