"""Copies that follow the server of `live_faults` before it moves, and what must hold of them.

A copy is begun while daemons die at any point, and in whose course the server's files may be
replaced, as a restore does. None is forgotten: it follows until the Panel orders the transfer,
which goes on with it, or until its time has come.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tests.kills.engine import Broken
from tests.kills.machines import Machine
from tests.support.sample_server import UUID
from wingsd.direct_transfers.initiator import Invitation
from wingsd.errors import WingsdError
from wingsd.statedb import Outcome, TransferRecord
from wingsd.transfers.outgoing.source import SeedOrder
from wingsd.transfers.steps import SendStep

__all__ = ["ADOPTED", "LiveSeed"]

T = TypeVar("T")

#: Seconds at most until a copy is due whose server is moved without the Panel.
DUE_WITHIN = 1.5
#: How often a copy is begun that daemons which die do not let begin.
TRIES = 8
#: What the destination says of a transfer that goes on with a copy.
ADOPTED = "of it are here, from an earlier transfer"


class LiveSeed:
    """A copy at `destination` that follows the server of `source`; `rng` decides what happens.

    `until` returns when what it is given returns nothing that is still to come.
    """

    def __init__(
        self,
        source: Machine,
        destination: Machine,
        rng: random.Random,
        until: Callable[[Callable[[], str]], Awaitable[None]],
    ) -> None:
        self.source = source
        self.destination = destination
        self._random = rng
        self._until = until
        self._began = 0

    async def begin(self, *, is_due: bool) -> None:
        """Begin it, and again until it has begun; where it `is_due` it moves the server itself.

        Raises `Broken`.
        """
        self._began = max((each.id for each in self.source.daemon.store.transfers()), default=0)
        for _ in range(TRIES):
            stop_at = time.time() + self._random.uniform(0, DUE_WITHIN) if is_due else None
            invitation = await self._asked(self.destination, self._invite)
            if invitation is not None:
                await self._asked(self.source, partial(self._send, invitation, stop_at))
            await self._until(self._unbegun)
            if self.is_open or self.has_moved:
                return
            self.check_ended()
        raise Broken("no copy can be begun")

    async def _invite(self) -> Invitation:
        incoming = self.destination.daemon.direct_transfers
        return await incoming.expect(UUID, seconds=3600, follow=True)

    async def _send(self, invitation: Invitation, stop_at: float | None) -> None:
        outgoing = self.source.daemon.direct_transfers
        url, order = self.destination.node.address, SeedOrder(stop_at)
        await outgoing.send(UUID, url, invitation.token, remove=True, seed=order)

    def _unbegun(self) -> str:
        """Return what is still to come until it has begun, or has failed to."""
        if not self._are_up:
            return "a daemon is being started"
        left = [each.step for each in self._seeds if each.step == SendStep.ASK.name]
        return "the copy is being begun" if left else ""

    async def _asked(
        self, machine: Machine, call: Callable[[], Coroutine[Deferred[Any], Any, T]]
    ) -> T | None:
        """Return what a daemon answers to an operator; None where it refuses, or dies."""
        await self._until(lambda: "" if self._are_up else "a daemon is being started")
        life, found = machine.life, list[Any]()
        asking = life.run(lambda: Deferred.fromCoroutine(call()))
        if asking is not None:
            asking.addBoth(found.append)
        await self._until(lambda: "" if found or life.is_dead else "an operator waits")
        if not found:
            return None
        if isinstance(found[0], Failure):
            found[0].trap(WingsdError)
            return None
        result: T = found[0]
        return result

    # How far it is

    def unfollowed(self) -> str:
        """Return why it does not follow the server yet, or any more. Raises `Broken`."""
        if not self._are_up:
            return "a daemon is being started"
        if not self.is_open:
            self.check_ended()
            return ""
        found = self.source.daemon.sender.seeds
        if not found or not found[0].rounds or found[0].trouble:
            return f"the copy does not follow the server: {found}"
        return ""

    @property
    def is_open(self) -> bool:
        """Whether it has not ended, as its source has recorded."""
        open_ = self.source.daemon.store.unfinished()
        return any(each.direct and each.id > self._began for each in open_)

    @property
    def follows(self) -> bool:
        """Whether it follows the server, and nothing else is under way at either node."""
        if not self._are_up or not self._seeds or self.unfollowed():
            return False
        ends = self.source.daemon.store, self.destination.daemon.store
        return [len(store.unfinished()) for store in ends] == [1, 1]

    @property
    def has_copied(self) -> bool:
        """Whether the copy has any bytes: a round may be of an empty directory, in a restore."""
        copy = self.destination.files.parent.parent / ".volumes.staging" / UUID
        for path in copy.rglob("*"):
            with suppress(OSError):
                if path.is_file() and path.stat().st_size:
                    return True
        return False

    @property
    def has_moved(self) -> bool:
        """Whether it has moved the server, without the Panel, and all of that is over."""
        return (
            self._are_up
            and not self.source.daemon.left_open()
            and not self.destination.daemon.left_open()
            and not self.source.files.exists()
            and self.destination.daemon.has_server
        )

    def check_ended(self) -> None:
        """Raise `Broken` where it was forgotten: it had followed, and ended by itself."""
        for entry in self.source.daemon.store.transfers():
            if entry.id <= self._began or not entry.direct or entry.outcome is not Outcome.FAILURE:
                continue
            had_followed = entry.step == SendStep.SEED.name or SendStep.SEED.text in entry.reason
            if had_followed and "seed-adopted" not in entry.reason:
                raise Broken(f"a copy was forgotten: {entry.reason}")

    @property
    def _seeds(self) -> list[TransferRecord]:
        steps = (SendStep.ASK.name, SendStep.SEED.name)
        open_ = self.source.daemon.store.unfinished()
        return [each for each in open_ if each.direct and each.step in steps]

    @property
    def _are_up(self) -> bool:
        """Whether both daemons live, and have started."""
        machines = self.source, self.destination
        return not any(each.is_dead or each.life.is_dead for each in machines) and all(
            each.daemon.is_booted for each in machines
        )

    # What is done meanwhile

    def restore(self) -> None:
        """Have other files in the place of the server's, which does not run."""
        game, files = self.source.game, self.source.files
        before = files.with_name("before")
        files.rename(before)
        shutil.copytree(before, files, symlinks=True)
        (files / "world" / f"restored {self._random.randrange(10**6)}").write_bytes(b"restored")
        (files / "world" / f"{self._random.randrange(1, 40)}.dat").unlink(missing_ok=True)
        shutil.rmtree(before)
        game.note_files(self.source)
