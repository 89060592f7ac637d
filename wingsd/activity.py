"""The activity log: what users do on this node, and crashes, kept until the Panel accepts it.

Entries wait for the Panel first in memory, then in the state database. A reporter calls
`record`, which neither blocks nor fails. All that was recorded within a second is stored at once,
in the database's thread: it is lost only if the daemon is killed before.

They are sent in calls of bounded size, the oldest entries first, and deleted when the Panel has
answered, so that a daemon that dies repeats one call at most. A call that the Panel refuses is
divided until the bad entry is found and dropped: it does not keep the others from the Panel. After
any other failure all is sent at the next interval.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from wingsd.config import CALAGOPUS, PELICAN
from wingsd.errors import PanelError, PanelRefused, StorageError
from wingsd.events import CRASHED, EXPLAINED, Event, EventBus
from wingsd.panel.client import Panel
from wingsd.statedb import ActivityEntry, StateDatabase
from wingsd.util.addresses import parse_address
from wingsd.util.deferreds import fires_within, when_fired
from wingsd.util.reactor import Periodic, Timer
from wingsd.util.text import canonical_uuid

#: Bytes of the metadata of one entry, as JSON.
METADATA_MAX = 64 * 1024
#: Bytes of the metadata in one call; a proxy in front of a Panel often takes no more than 1 MiB.
CALL_MAX = 512 * 1024
_MINUTE = 60


class MetadataTooLarge(ValueError):
    """The metadata of an entry has more than `METADATA_MAX` bytes."""


def metadata_text(metadata: Mapping[str, object]) -> str:
    """Return metadata as JSON, an object. Raises `MetadataTooLarge`.

    A Panel refuses the whole call for one entry that has something else.
    What is no Unicode, as single surrogates, is replaced: Panels cannot read it.
    """
    text = json.dumps(metadata, ensure_ascii=False, separators=(",", ":"))
    encoded = text.encode("utf-8", "replace")
    if len(encoded) > METADATA_MAX:
        raise MetadataTooLarge(
            f"its metadata has {len(encoded):,} bytes, more than {METADATA_MAX:,}"
        )
    return encoded.decode()


@attrs.define(eq=False, repr=False)
class _Merged:
    """An entry whose files are those of several rows."""

    files: list[Any]
    size: int


def merge(rows: Sequence[ActivityEntry], most: int) -> tuple[list[dict[str, Any]], int]:
    """Return at most `most` entries for one call, and how many of the rows are in them.

    Rows of one user, server, address, event and minute are one entry, with the time of the first,
    where they differ only in the list `files` of their metadata.
    """
    entries: list[dict[str, Any]] = []
    merged: dict[tuple[object, ...], _Merged] = {}
    size = 0
    for taken, row in enumerate(rows):
        if taken and size + len(row.metadata) > CALL_MAX:
            return entries, taken
        metadata = json.loads(row.metadata)
        key, files = _mergeable(row, metadata)
        known = merged.get(key)
        if known is not None and known.size + len(row.metadata) <= METADATA_MAX:
            known.files += files
            known.size += len(row.metadata)
        elif len(entries) == most:
            return entries, taken
        else:
            entries.append(_sent(row, metadata))
            if key:
                merged[key] = _Merged(files, len(row.metadata))
        size += len(row.metadata)
    return entries, len(rows)


def _mergeable(
    row: ActivityEntry, metadata: dict[str, Any]
) -> tuple[tuple[object, ...], list[Any]]:
    """Return what rows that become one entry have in common, and the files of this one.

    It is empty for a row that stays an entry of its own.
    """
    files = metadata.get("files")
    if not isinstance(files, list):
        return (), []
    rest = json.dumps({key: value for key, value in metadata.items() if key != "files"})
    return (row.user, row.server, row.ip, row.event, row.at // _MINUTE, rest), files


def _sent(row: ActivityEntry, metadata: dict[str, Any]) -> dict[str, Any]:
    return {
        "user": row.user,
        "server": row.server,
        "event": row.event,
        "metadata": metadata,
        "ip": row.ip,
        "timestamp": datetime.fromtimestamp(row.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


#: Seconds from an entry to its being stored with those that came after it.
STORE_AFTER = 1.0
#: Entries that are stored without waiting any longer.
STORE_AT = 500
#: Entries in memory, while the state database cannot be written; then the oldest are dropped.
BUFFER_MAX = 10_000
#: Seconds until the state database is tried again.
RETRY_AFTER = 10.0
#: Seconds between two lines of the log about dropped entries of one kind.
QUIET = 60.0
#: Why an entry is dropped before the Panel has it: its metadata is too large; as many wait as may;
#: the Panel refuses it; it could not be stored before the daemon's end.
TOO_LARGE, OVERFLOW, REFUSED, NOT_STORED = DROPPED = (
    "too_large",
    "overflow",
    "refused",
    "not_stored",
)

#: Calls at one interval, as Wings.
CALLS_MAX = 50
#: Entries that are read at once.
READ_AT_ONCE = 500
#: Answers by which a Panel refuses what is in a call.
_REFUSALS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)


@attrs.define(eq=False, repr=False)
class ActivityLog:
    """The entries that the Panel has not accepted, at most `most`; the oldest are dropped.

    They are sent every `interval` seconds, at most `count` a call. `now` gives seconds since the
    epoch.
    """

    _log = Logger()

    _storage: StateDatabase
    _panel: Panel
    _reactor: IReactorTime
    _most: int
    _interval: float
    _count: int
    _now: Callable[[], float] = time.time
    _buffer: deque[ActivityEntry] = attrs.field(factory=deque, init=False)
    _stored: int = attrs.field(default=0, init=False)
    _counted: bool = attrs.field(default=False, init=False)
    #: The id up to which the Panel has the entries, or refuses them.
    _settled: int = attrs.field(default=0, init=False)
    _timer: Timer = attrs.field(init=False)
    #: The write that is under way.
    _storing: Deferred[None] | None = attrs.field(default=None, init=False)
    _failing: bool = attrs.field(default=False, init=False)
    _stopped: bool = attrs.field(default=False, init=False)
    #: The number of entries that the Panel has accepted.
    sent: int = attrs.field(default=0, init=False)
    #: The entries that were dropped, by the words of `DROPPED`.
    dropped: dict[str, int] = attrs.field(factory=lambda: dict.fromkeys(DROPPED, 0), init=False)
    #: Those since the last line of the log about them.
    _unlogged: dict[str, int] = attrs.field(factory=lambda: dict.fromkeys(DROPPED, 0), init=False)
    _logged: dict[str, float] = attrs.field(factory=dict, init=False)
    #: The calls left of a run.
    _calls: int = attrs.field(default=0, init=False)
    #: When the Panel may be called again, by its `Retry-After`.
    _not_before: float = attrs.field(default=0.0, init=False)
    #: The code of the last failure to send, empty after a success.
    _failure: str = attrs.field(default="", init=False)
    _running: Deferred[None] | None = attrs.field(default=None, init=False)
    _loop: Periodic = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._timer = Timer(self._reactor)
        # A run that takes longer than the interval delays the next one: there are never two.
        self._loop = Periodic(self._reactor, self._start_run)

    @property
    def waiting(self) -> int:
        """The number of entries that the Panel has not accepted."""
        return self._stored + len(self._buffer)

    async def start(self) -> None:
        """Begin to send, after an interval, and count the entries from before the restart.

        A failure is logged.
        """
        self._loop.start(self._interval, now=False)
        try:
            await self._count_stored()
        except StorageError as error:
            self._log.error(
                "activity: the entries in the state database could not be counted: {error}",
                error=error,
            )

    async def _count_stored(self) -> None:
        self._stored, deleted = await self._storage.trim_activity(self._most)
        self._counted = True
        self._note_overflow(deleted, self._most)

    def record(
        self,
        server: str,
        event: str,
        metadata: Mapping[str, object],
        user: str | None = None,
        ip: str | None = None,
        at: float | None = None,
    ) -> None:
        """Record that an event of a server, such as `server:power.start`, has happened.

        `metadata` becomes a JSON object of at most 64 KiB; with more the entry is dropped. `user`
        is a UUID, None where no user did it. `ip` is the user's address, None where there is none:
        with another text the entry is dropped. `at` are seconds since the epoch, now by default.
        """
        try:
            ip = None if ip is None else str(parse_address(ip))
        except ValueError:
            what = "{server}: {event} dropped, {ip!r} is no address"
            self._log.debug(what, server=server, event=event, ip=ip)
            return
        try:
            text = metadata_text(metadata)
        except MetadataTooLarge as error:
            self.drop(TOO_LARGE, 1, f"{server}: {event}: {error}")
            return
        user = user if user is not None and canonical_uuid(user) else None
        at = self._now() if at is None else at
        self._buffer.append(ActivityEntry(server, event, text, user, ip, at))
        if len(self._buffer) > BUFFER_MAX:
            self._buffer.popleft()
            self._note_overflow(1, BUFFER_MAX)
        if self._storing is None and not self._failing and len(self._buffer) >= STORE_AT:
            self._store()
        else:
            self._store_after(STORE_AFTER)

    def drop(self, why: str, number: int, example: str) -> None:
        """Count dropped entries, by a word of `DROPPED`; the log has one `example` a minute."""
        self.dropped[why] += number
        self._unlogged[why] += number
        now, last = self._reactor.seconds(), self._logged.get(why)
        if last is not None and now - last < QUIET:
            return
        self._logged[why] = now
        self._log.warn(
            "activity dropped, entries: {number}, the last one: {example}",
            number=self._unlogged[why],
            example=example,
        )
        self._unlogged[why] = 0

    def _note_overflow(self, number: int, most: int) -> None:
        if number:
            key = "system.activity_max_entries, " if most == self._most else ""
            self.drop(OVERFLOW, number, f"the oldest of more than {key}{most:,}")

    # Storing

    def stop(self) -> None:
        """Store what is not stored yet; the state database may be closed afterwards."""
        self._stopped = True
        self._store()

    def _store_after(self, seconds: float) -> None:
        if not self._timer.is_running and self._storing is None:
            self._timer.start(seconds, self._store)

    def _store(self) -> None:
        self._timer.cancel()
        if self._buffer:
            storing = self._storing = Deferred.fromCoroutine(self._store_all())
            storing.addErrback(lambda fault: self._log.failure("storing activity failed", fault))
            storing.addBoth(self._stored_all, storing)

    def _stored_all(self, _: None, storing: Deferred[None]) -> None:
        if self._storing is storing:
            self._storing = None
        if self._buffer and not self._stopped:
            self._store_after(RETRY_AFTER if self._failing else STORE_AFTER)

    async def _store_all(self) -> None:
        entries = tuple(self._buffer)
        self._buffer.clear()
        try:
            deleted = await self._storage.add_activity(entries, self._most)
        except StorageError as error:
            self._put_back(entries, error)
        else:
            self._failing = False
            self._stored += len(entries) - deleted
            self._note_overflow(deleted, self._most)

    def _put_back(self, entries: Sequence[ActivityEntry], error: StorageError) -> None:
        if self._stopped:
            self.drop(NOT_STORED, len(entries), f"not stored before the daemon's end: {error}")
            return
        if not self._failing:
            self._log.error("activity not stored, it stays in memory: {error}", error=error)
        self._failing = True
        self._buffer.extendleft(reversed(entries))
        excess = max(0, len(self._buffer) - BUFFER_MAX)
        for _ in range(excess):
            self._buffer.popleft()
        self._note_overflow(excess, BUFFER_MAX)

    # Sending

    async def stop_sending(self, within: float) -> None:
        """Stop sending; wait up to `within` seconds for the answer to a call that is under way."""
        self._loop.stop()
        self._calls = 0
        running = self._running
        if running is not None:
            await fires_within(running, within, self._reactor)
            running.cancel()

    async def send_now(self, within: float) -> None:
        """Send all that was recorded so far; return when that has ended, after `within` at most.

        It goes on after that.
        """
        if self._loop.running:
            await fires_within(
                Deferred.fromCoroutine(self._send_recorded()), within, self._reactor
            )

    async def _send_recorded(self) -> None:
        if self._storing is not None:
            await when_fired(self._storing)
        self._store()
        if self._storing is not None:
            await when_fired(self._storing)
        if self._running is not None:
            await when_fired(self._running)
        await self._start_run()

    def _start_run(self) -> Deferred[None]:
        """Start a run, unless one is under way; return what fires at its end."""
        running = self._running
        if running is None:
            running = self._running = Deferred.fromCoroutine(self._run())
            running.addCallback(self._run_ended)
        return when_fired(running)

    def _run_ended(self, _: None) -> None:
        self._running = None

    async def _run(self) -> None:
        """Send what there is, in at most `CALLS_MAX` calls. Failures are logged."""
        if self._reactor.seconds() < self._not_before:
            return
        self._calls = CALLS_MAX
        try:
            while self._calls and (rows := await self._oldest()):
                await self._send(rows)
        except CancelledError:
            pass  # `stop_sending` has waited long enough.
        except (PanelError, StorageError) as error:
            self._not_before = self._reactor.seconds() + getattr(error, "retry_after", 0.0)
            self._note_failure(error)
        except Exception:
            # It must not end the loop.
            self._log.failure("sending activity failed")

    async def _oldest(self) -> list[ActivityEntry]:
        """Return the oldest stored entries that are not settled. Raises `StorageError`."""
        if not self._counted:
            await self._count_stored()
        if not self._stored:
            return []
        return await self._storage.activity(self._settled, READ_AT_ONCE)

    async def _send(self, rows: Sequence[ActivityEntry]) -> None:
        # In the order of their ids, so that what is settled is always the oldest.
        parts = [rows]
        while parts and self._calls:
            part = parts.pop()
            entries, taken = merge(part, self._count)
            if taken < len(part):
                parts.append(part[taken:])
                part = part[:taken]
            self._calls -= 1
            try:
                await self._panel.post_once("activity", "/activity", {"data": entries})
            except PanelRefused as error:
                if error.response_status not in _REFUSALS:
                    raise
                if len(part) > 1:
                    half = len(part) // 2
                    parts += [part[half:], part[:half]]
                    continue
                self._drop_refused(part[0], error)
            else:
                self.sent += len(part)
                if self._failure:
                    self._failure = ""
                    self._log.info("activity: the Panel accepts it again")
            await self._settle(part[-1])

    async def _settle(self, last: ActivityEntry) -> None:
        """Delete all entries up to `last`: the Panel has them, or refuses them.

        A failure is logged. This daemon does not send them again.
        """
        self._settled = last.id
        try:
            self._stored -= await self._storage.delete_activity(last.id)
        except StorageError as error:
            self._log.error("activity that was sent is not deleted: {error}", error=error)

    def _drop_refused(self, row: ActivityEntry, error: PanelRefused) -> None:
        self.dropped[REFUSED] += 1
        self._log.error(
            "{server}: {event} dropped, which the Panel refuses as activity: user {user}, address "
            "{ip}, metadata {metadata}: {why}",
            server=row.server,
            event=row.event,
            user=row.user,
            ip=row.ip,
            metadata=row.metadata[:200],
            why=error.detail,
        )

    def _note_failure(self, error: PanelError | StorageError) -> None:
        # Once, until it fails in another way or succeeds: the Panel may be away for long.
        if self._failure != error.code:
            self._failure = error.code
            self._log.warn(
                "activity not sent, entries waiting: {number}; trying again every {seconds:g} s: "
                "{error}",
                number=self.waiting,
                seconds=self._interval,
                error=error,
            )


#: The address that Pelican's Wings gives for what the node does itself.
_LOCAL = "127.0.0.1"


def record_crashes(family: str, log: ActivityLog, bus: EventBus) -> None:
    """Record the crashes that are published on `bus`, in the form of each family's node.

    Pelican's Wings records a crash after which the server is started again, Calagopus' every one,
    and Pterodactyl's none. Both also get what a server lacks, as `reason`.
    """
    address = _LOCAL if family == PELICAN else None

    def record(event: Event) -> None:
        if event.name == EXPLAINED:
            name, text = event.args
            log.record(event.server, f"server:{name}", {"reason": text}, None, address)
        elif event.name == CRASHED:
            crash = json.loads(event.args[0])
            reason = {"reason": crash["reason"]} if crash["reason"] else {}
            if family == CALAGOPUS:
                metadata = {"exit_code": crash["exit_code"], "oom_killed": crash["out_of_memory"]}
                log.record(event.server, "server:crash.detected", metadata | reason)
            elif crash["restarted"]:
                metadata = {
                    "exit_code": crash["exit_code"],
                    "oomkilled": crash["out_of_memory"],
                    "logs": crash["lines"],
                }
                log.record(event.server, "server:crashed", metadata | reason, None, address)

    if family in (PELICAN, CALAGOPUS):
        bus.subscribe_to_all(record)
