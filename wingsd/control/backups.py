"""`/v1/backups`: the local backups of the node, listed and verified."""

from __future__ import annotations

from http import HTTPStatus

import attrs

from wingsd.backups.catalogue import COMPLETE
from wingsd.backups.checks import BackupCheck
from wingsd.backups.for_wings import Rewrite
from wingsd.backups.store import BackupStore, StoredBackup, backup_uuid
from wingsd.control.status import ControlEndpoint, Json
from wingsd.errors import BadRequest
from wingsd.http.operations import Success, Topic, call
from wingsd.http.request import StreamingRequest
from wingsd.util.text import canonical_uuid

__all__ = ["ControlBackupsEndpoint", "ForWingsEndpoint", "VerifyEndpoint"]


@attrs.frozen(eq=False, repr=False)
class BackupsQuery:
    """Which backups: those of one server, or all."""

    server: str = ""


class ControlBackupsEndpoint(ControlEndpoint):
    """`/v1/backups`."""

    topic = Topic.BACKUPS

    @call("GET", Success(HTTPStatus.OK, "The backups."))
    async def list_backups(self, request: StreamingRequest, query: BackupsQuery) -> Json:
        """Return the backups on this node and those that are being made."""
        server = canonical_uuid(query.server) if query.server else ""
        if server is None:
            raise BadRequest("server is invalid", "expected the UUID of a server")
        node = self._node
        found = await node.disk.run(node.backup_store.all, server)
        noted = await node.database.dropped() if self._config.deletes_dropped_backups else ()
        dropped = {each.place: each.since for each in noted}
        return {
            "making": [
                {"backup": backup, "server": owner}
                for backup, owner in node.backups.making.items()
                if server in ("", owner)
            ],
            "backups": [
                _described(node.backup_store, each, dropped.get(each.place)) for each in found
            ],
            "dropped_kept_days": self._config.system.transfers.live.keep_source_days,
        }


def _described(store: BackupStore, found: StoredBackup, dropped_since: float | None) -> Json:
    made = found.catalogue
    return {
        "backup": found.uuid,
        "server": found.server or None,
        "path": store.path(found.place),
        "bytes": found.size,
        "files": None if made is None else made.files,
        "made": found.modified if made is None else made.made,
        # Without a catalogue nothing tells whether it is what was made.
        "state": None if made is None else made.state,
        "checked": None if made is None or not made.checked else made.checked,
        "fault": "" if made is None or made.state == COMPLETE else made.fault,
        # When its server moved away, and the Panel dropped it.
        "dropped_since": dropped_since,
    }


class _BackupEndpoint(ControlEndpoint):
    topic = Topic.BACKUPS

    @property
    def backup(self) -> str:
        """The UUID in the path. Raises `BackupMissing`."""
        return backup_uuid(self.part("backup"))


class VerifyEndpoint(_BackupEndpoint):
    """`/v1/backups/{backup}/verify`."""

    @call("POST", Success(HTTPStatus.OK, "The check is under way."))
    async def begin_check(self, request: StreamingRequest) -> Json:
        """Begin to verify a backup, or join the check of it that is under way."""
        return _progress(await self._node.backup_checks.begin(self.backup))

    @call("GET", Success(HTTPStatus.OK, "How far it is, or what it has found."))
    async def show_check(self, request: StreamingRequest) -> Json:
        """Return the check of a backup that is under way, or has ended last."""
        return _progress(self._node.backup_checks.last(self.backup))


def _progress(check: BackupCheck) -> Json:
    result = check.result
    return {
        "backup": check.found.uuid,
        "bytes": check.progress.bytes_done,
        "total_bytes": check.found.size,
        "whole": None if result is None else not result.fault,
        "fault": "" if result is None else result.fault,
        "sha256": None if result is None else result.sha256,
        "files": None if result is None else result.files,
    }


class ForWingsEndpoint(_BackupEndpoint):
    """`/v1/backups/{backup}/for-wings`."""

    @call("POST", Success(HTTPStatus.OK, "The backup is being rewritten."))
    async def begin_rewrite(self, request: StreamingRequest) -> Json:
        """Begin to rewrite a backup for Wings, or join that if it is under way."""
        return _rewrite(await self._node.backup_rewrites.begin(self.backup))

    @call("GET", Success(HTTPStatus.OK, "How far it is, or how it has ended."))
    async def show_rewrite(self, request: StreamingRequest) -> Json:
        """Return the rewrite of a backup that is under way, or has ended last."""
        return _rewrite(self._node.backup_rewrites.last(self.backup))


def _rewrite(rewrite: Rewrite) -> Json:
    if not rewrite.is_over:
        state = "rewriting"
    elif rewrite.error is not None:
        state = "failed"
    else:
        state = "unchanged" if rewrite.is_unchanged else "rewritten"
    return {
        "backup": rewrite.found.uuid,
        "state": state,
        "bytes": rewrite.progress.bytes_done,
        "total_bytes": rewrite.found.size,
        "new_bytes": rewrite.size,
        "not_kept": rewrite.not_kept,
        "fault": "" if rewrite.error is None else str(rewrite.error),
    }
