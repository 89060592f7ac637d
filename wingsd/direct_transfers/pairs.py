"""Pairs: the right of one node to bring copies of its servers to another, for some days.

The destination makes a pair and keeps the SHA-256 of its key. The source has the key, in a file of
its own. By a pair seeds are begun, fed and ended, within limits, and nothing else: each is begun
by a token that this node issues, and is bytes in staging until a transfer with a token of its own
goes on with it.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import sha256
from hmac import compare_digest
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import attrs
from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from wingsd.auth.tokens import bearer
from wingsd.direct_transfers.initiator import DirectTransfers, Invitation
from wingsd.direct_transfers.pair_use import PairUse
from wingsd.errors import (
    BadRequest,
    DestinationRefused,
    InvalidData,
    PairEnded,
    PairExists,
    PairInvalid,
    PairNotFound,
    TransferCancelled,
    TryAgain,
    WingsdError,
)
from wingsd.statedb import Direction, PairRecord
from wingsd.transfers.manager import IncomingTransfers, OutgoingTransfers, all_over
from wingsd.transfers.outgoing.source import SeedOrder
from wingsd.transfers.peer.client import PeerClient
from wingsd.util.deferreds import fires_within
from wingsd.util.durable import replace_file, storage_errors
from wingsd.util.reactor import Periodic
from wingsd.util.serialization import structure

#: The path of a node's pairs, below its address.
PATH = "/api/pair"
#: Seconds within which a seed that was admitted must begin.
INVITED_FOR = 600.0
#: Seconds between two looks whether a pair has expired, and between two records of a use.
LOOK_EVERY = 60.0
#: Seconds for which a request waits until files are read that are kept of a server.
RECORDED_WITHIN = 15.0
#: The directory of keys in `system.root_directory`.
KEYS = "pairs"
_DAY = 24 * 3600.0
T = TypeVar("T")
_NAME = re.compile(r"[\w.:\[\]-]{1,100}", re.ASCII)


@attrs.frozen(eq=False, repr=False)
class PairTerms:
    """The limits of a pair at the destination, and what is used of them."""

    expires: float
    bytes: int
    servers: int
    used_bytes: int
    used_servers: int


@attrs.frozen(eq=False, repr=False)
class _Terms:
    """The answer of a destination about a pair."""

    name: str
    pair: PairTerms


@attrs.frozen(eq=False, repr=False)
class _Admitted:
    """The token of a seed."""

    token: str = attrs.field(repr=False)


def terms_of(use: PairUse) -> PairTerms:
    """Return the limits of a pair, and what is used of them."""
    record = use.record
    return PairTerms(record.expires, record.bytes, record.servers, use.bytes, len(use.servers))


class Pairs:
    """The pairs of this node: those by which seeds come, and those by which it sends them.

    `root` is the directory of keys' directory. `now` returns the seconds since the epoch.
    """

    _log = Logger()

    def __init__(
        self,
        receiver: IncomingTransfers,
        sender: OutgoingTransfers,
        direct: DirectTransfers,
        root: str,
        now: Callable[[], float],
    ) -> None:
        self._receiver, self._sender, self._direct = receiver, sender, direct
        self._database, self._disk = direct.database, sender.parts.disk
        self._keys = Path(root) / KEYS
        self._now = now
        #: The pairs by which this node sends seeds, by their names.
        self.sending: dict[str, PairRecord] = {}
        self._looks = Periodic(sender.parts.reactor, self._look)
        #: By server, until its files that are kept here are a copy of a pair; read one by one.
        self._recording: dict[str, Deferred[None]] = {}
        self._turn = DeferredLock()
        self._is_stopped = False

    @property
    def receiving(self) -> dict[str, PairUse]:
        """The pairs by which seeds may come, by their names."""
        return self._direct.pairs

    @property
    def is_maintained(self) -> bool:
        """True while the node takes no servers."""
        return self._receiver.maintenance is not None

    async def load(self) -> None:
        """Load the pairs, before transfers are resumed. Raises `StorageError`."""
        for record in await self._database.pairs():
            if record.direction is Direction.OUT:
                self.sending[record.name] = record
            else:
                self.receiving[record.name] = self._use(record)
        self._looks.start(LOOK_EVERY, now=False)

    def stop(self) -> None:
        """Look no more whether pairs have expired, and read no files that are kept."""
        self._looks.stop()
        self._is_stopped = True

    # At the destination

    async def create(
        self, name: str, days: int, size: int, servers: int
    ) -> tuple[PairRecord, str]:
        """Make a pair by which seeds may come; return it and its key, which is not kept.

        Raises `PairExists`, `BadRequest` for a name that is invalid, `StorageError`.
        """
        name = name or f"pair-{secrets.token_hex(4)}"
        if not _NAME.fullmatch(name):
            raise BadRequest(
                "the name of the pair is invalid", "expected letters, digits and . - _ : [ ]"
            )
        if name in self.receiving:
            raise PairExists(name)
        key, now = secrets.token_hex(32), self._now()
        record = PairRecord(
            name, Direction.IN, "", _digest(key), "", size, servers, now, now + days * _DAY
        )
        self.receiving[name] = use = self._use(record)
        try:
            await self._database.save_pair(record)
            await use.refresh()
        except Exception:
            del self.receiving[name]
            raise
        self._log.info("pair {pair}: made, for {days} days", pair=name, days=days)
        return record, key

    def authorize(self, authorization: str) -> PairUse:
        """Return the pair whose key is in an `Authorization` header. Raises `Unauthorized`."""
        digest, now = _digest(bearer(authorization)), self._now()
        for use in self.receiving.values():
            if compare_digest(use.record.digest, digest) and use.record.expires > now:
                return use
        raise PairInvalid

    async def note_use(self, use: PairUse, peer: str) -> None:
        """Record that the source has used a pair, and how it calls itself; see `LOOK_EVERY`."""
        record, now = use.record, self._now()
        # The first one counts: by it the source gets back what it has taken over.
        peer = record.peer or (peer if _NAME.fullmatch(peer) else "")
        if record.used is None or now - record.used >= LOOK_EVERY:
            self._log.info("pair {pair}: used by {peer}", pair=record.name, peer=peer)
            use.record = attrs.evolve(record, peer=peer, used=now)
            await self._database.save_pair(use.record)

    async def invite(self, use: PairUse, server: str) -> Invitation:
        """Admit a seed of a server by a pair.

        Raises `StorageError`, `TryAgain`, and as `DirectTransfers.expect`.
        """
        names = {"pair": use.record.name, "server": server}
        try:
            self._receiver.require_open()
            await use.refresh()
            await self._take_back(use, server)
            # Nothing else is known of it, nor believed: its Panel describes it when it moves.
            unknown = {"settings": {"uuid": server}, "process_configuration": {}}
            invitation = await self._direct.expect(
                server, seconds=INVITED_FOR, description=unknown, follow=True, pair=use
            )
        except WingsdError as error:
            self._log.warn("pair {pair}: no copy of {server}: {error}", error=error, **names)
            raise
        self._log.info("pair {pair}: may bring a copy of {server}", **names)
        return invitation

    async def moved_to(self, use: PairUse, server: str) -> Path | None:
        """Return the files that are kept of a server since it has moved to the source of a pair.

        Raises `StorageError`.
        """
        peer = urlsplit(f"//{use.record.peer}").hostname
        if not peer or server in use.servers:
            return None
        return await self._disk.run(self._receiver.parts.quarantine.moved, server, peer)

    async def _take_back(self, use: PairUse, server: str) -> None:
        """Make what is kept of a server a copy of a pair, from whose source it comes back.

        Raises `StorageError`, `PairInvalid` and `PairLimitReached` as `PairUse.check`, and
        `TryAgain` while its files are read.
        """
        recording = self._recording.get(server)
        if recording is None:
            directory = await self.moved_to(use, server)
            if directory is None:
                return
            await self._direct.check_absent(server)
            use.check(server, self._now())
            recording = Deferred.fromCoroutine(self._record(use, server, directory))
            self._recording[server] = recording
            recording.addBoth(lambda _: self._recording.__delitem__(server))
        if not await fires_within(recording, RECORDED_WITHIN, self._sender.parts.reactor):
            raise TryAgain("the files that this node keeps of the server are being read")
        await use.refresh()

    async def _record(self, use: PairUse, server: str, directory: Path) -> None:
        """Read what is kept of a server. An error is logged: all of it is sent again then."""
        parts, pair = self._receiver.parts, use.record
        await self._turn.acquire()
        try:
            await parts.long.run(
                partial(
                    parts.copies.keep_directory,
                    server,
                    directory,
                    time.time(),
                    lambda: self._is_stopped,
                    pair=pair.identity,
                )
            )
            self._log.info(
                "{server}: its files that are kept here are a copy of the pair {pair} now",
                server=server,
                pair=pair.name,
            )
        except WingsdError as error:
            self._log.warn(
                "{server}: its files that are kept here are not used: {error}",
                server=server,
                error=error,
            )
        except Exception:
            self._log.failure("{server}: its files that are kept here are not used", server=server)
        finally:
            self._turn.release()

    # At the source

    async def accept(self, url: str, key: str, own: str) -> PairRecord:
        """Become the source of a pair of the node at `url`, to which this node is `own`.

        Raises `BadRequest`, `StorageError`, and the errors of `PeerClient.ask`.
        """
        address = url.rstrip("/")
        try:
            name = urlsplit(address).netloc.rpartition("@")[2].lower()
        except ValueError:
            name = ""
        if not _NAME.fullmatch(name):
            raise BadRequest("the address of the other node is invalid", f"{url!r}")
        found = _read(await self._asked(address, key, "POST", {"name": own}), _Terms)
        limits, now = found.pair, self._now()
        record = PairRecord(
            name,
            Direction.OUT,
            found.name,
            "",
            address,
            limits.bytes,
            limits.servers,
            now,
            limits.expires,
        )
        await self._disk.run(self._write_key, name, key)
        await self._database.save_pair(record)
        self.sending[name] = record
        self._log.info(
            "pair {pair}: accepted, this node is {peer} there", pair=name, peer=found.name
        )
        return record

    async def facts(self, name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the destination of a pair answers about itself; record its limits.

        Raises `PairNotFound`, `StorageError`, and the errors of `PeerClient.ask`.
        """
        record = self.require(name)
        answer = await self._ask(record, "POST", asked)
        limits = _read(answer, _Terms).pair
        changed = attrs.evolve(
            record,
            bytes=limits.bytes,
            servers=limits.servers,
            expires=limits.expires,
            used=self._now(),
        )
        if name in self.sending:
            self.sending[name] = changed
            await self._database.save_pair(changed)
        return answer

    async def begin_seed(self, name: str, server: str) -> None:
        """Begin a seed of a server by a pair. Raises as `facts`, and `DirectTransfers.send`."""
        record = self.require(name)
        answer = await self._ask(record, "PUT", {}, f"/seeds/{server}")
        admitted = _read(answer, _Admitted)
        self.require(name)  # it may be revoked by now
        await self._direct.send(
            server, record.url, admitted.token, seed=SeedOrder(None, pair=name)
        )

    # At both

    def direction(self, name: str, direction: Direction | None = None) -> Direction:
        """Return the direction of a pair: without one, of the only pair of that name.

        Raises `PairNotFound`.
        """
        is_in, is_out = name in self.receiving, name in self.sending
        if direction is None and is_in != is_out:
            direction = Direction.IN if is_in else Direction.OUT
        if direction is None or not (is_in if direction is Direction.IN else is_out):
            both = "two pairs have this name: say --direction in or out" if is_in else ""
            raise PairNotFound(both)
        return direction

    async def revoke(self, name: str, direction: Direction | None = None) -> None:
        """End a pair, and its seeds; at the destination its copies are removed.

        Raises as `direction`, and `StorageError`.
        """
        direction = self.direction(name, direction)
        if direction is Direction.IN:
            use = self.receiving[name]
            await self._end(use, PairEnded())
            await use.remove_kept()
            await self._database.delete_pair(direction, name)
            self.receiving.pop(name, None)
        else:
            del self.sending[name]
            await self._database.delete_pair(direction, name)
            await self._disk.run(self._key(name).unlink, True)
            for server in self._sender.seeds_by(name):
                self._sender.end_seed(server)
        self._log.info("pair {pair}: revoked", pair=name)

    async def _end(self, use: PairUse, reason: PairEnded | TransferCancelled) -> None:
        """End the seeds of a pair; return when they are over."""
        use.record = attrs.evolve(use.record, expires=0.0)  # no further one begins
        self._direct.expect_no_more(use)
        found = [self._receiver.find(server) for server in use.seeds]
        own = use.record.identity
        seeds = [each for each in found if each and each.coordinator.pair_identity == own]
        for seed in seeds:
            seed.abort(reason)
        await all_over(seeds)

    def _look(self) -> Deferred[None]:
        looking = Deferred.fromCoroutine(self._end_expired())
        return looking.addErrback(
            lambda failure: self._log.failure("looking for expired pairs failed", failure)
        )

    async def _end_expired(self) -> None:
        """End the pairs that have expired; the copies that came by them are kept."""
        now = self._now()
        for name, use in tuple(self.receiving.items()):
            if use.record.expires <= now:
                self._log.info("pair {pair}: has expired", pair=name)
                await self._end(use, TransferCancelled())
                await self._database.delete_pair(Direction.IN, name)
                self.receiving.pop(name, None)
            else:  # a transfer may have taken what was kept
                await use.refresh()

    # Parts

    def _use(self, record: PairRecord) -> PairUse:
        parts = self._receiver.parts
        return PairUse(record, parts.copies, parts.long)

    def require(self, name: str) -> PairRecord:
        """Return the pair by which this node sends seeds. Raises `PairNotFound`."""
        try:
            return self.sending[name]
        except KeyError:
            raise PairNotFound from None

    async def _ask(
        self, record: PairRecord, method: str, content: Mapping[str, Any], path: str = ""
    ) -> dict[str, Any]:
        key = await self._disk.run(self._read_key, record.name)
        return await self._asked(record.url, key, method, content, path)

    async def _asked(
        self, address: str, key: str, method: str, content: Mapping[str, Any], path: str = ""
    ) -> dict[str, Any]:
        parts, url = self._sender.parts, f"{address}{PATH}{path}"
        client = PeerClient(
            url, f"Bearer {key}", parts.reactor, parts.config.ca_file, "after --accept"
        )
        answer = await client.ask(method, json.dumps(content).encode())
        return answer.fields

    def _key(self, name: str) -> Path:
        return self._keys / f"{quote(name, safe='')}.key"

    def _write_key(self, name: str, key: str) -> None:
        with storage_errors(f"{self._keys} cannot be written"):
            self._keys.mkdir(mode=0o700, exist_ok=True)
            replace_file(self._key(name), key.encode(), mode=0o600)

    def _read_key(self, name: str) -> str:
        path = self._key(name)
        with storage_errors(f"{path} cannot be read"):
            return path.read_text(encoding="ascii")


def _digest(key: str) -> str:
    return sha256(key.encode()).hexdigest()


def _read(answer: Mapping[str, Any], kind: type[T]) -> T:
    """Return an answer of the other node. Raises `DestinationRefused` for an invalid one."""
    try:
        return structure(answer, kind)
    except InvalidData as error:
        raise DestinationRefused(
            "the destination node's answer is invalid",
            f"{'; '.join(str(error).splitlines())}; see whether a proxy in front of it answers in "
            "its place, and update the older node",
            HTTPStatus.BAD_GATEWAY,
        ) from error
