"""All transfers to this node: which may begin, and how they end with the daemon."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred

from wingsd.config import TransfersConfig
from wingsd.errors import DaemonStopping, ServerAlreadyExists, TransferCancelled
from wingsd.filesystem.attributes import AttributesKept
from wingsd.statedb import TransferRecord
from wingsd.transfers.coordinator import PanelCoordinators, ReceivingCoordinator
from wingsd.transfers.errors import TooManyTransfers, TransferNotActive
from wingsd.transfers.incoming.starts import ArrivedServers
from wingsd.transfers.table import TransferTable, all_over
from wingsd.util.deferreds import when_fired
from wingsd.util.later import Later

if TYPE_CHECKING:
    from wingsd.transfers.incoming.factory import IncomingTransferFactory
    from wingsd.transfers.incoming.transfer import IncomingTransfer

__all__ = ["IncomingTransfers", "MakeTransfer"]

T = TypeVar("T", bound="IncomingTransfer")
#: Makes a transfer of a server with its coordinator, by what the factory has.
MakeTransfer = Callable[["IncomingTransferFactory", str, ReceivingCoordinator], T]


class IncomingTransfers(TransferTable["IncomingTransfer"]):
    """All transfers to this node, at most one for each server.

    `limits` has how many servers are received at the same time, and how many may wait. `arrived`
    hears of successes.
    """

    def __init__(
        self,
        coordinators: PanelCoordinators,
        factory: Later[IncomingTransferFactory],
        limits: TransfersConfig,
        arrived: ArrivedServers,
    ) -> None:
        super().__init__()
        self._coordinators = coordinators
        self._factory = factory
        self._arrived = arrived
        self._most = limits.concurrent + limits.waiting
        self._stall_timeout = limits.stall_timeout
        self._stopping = False

    def open(
        self,
        server: str,
        coordinator: ReceivingCoordinator | None = None,
        ordered: float | None = None,
    ) -> IncomingTransfer:
        """Return a new transfer of the server with the UUID `server`; see `open_as`."""
        return self.open_as(_by_uploads, server, coordinator, ordered)

    def open_as(
        self,
        make: MakeTransfer[T],
        server: str,
        coordinator: ReceivingCoordinator | None = None,
        ordered: float | None = None,
    ) -> T:
        """Return a new transfer of the server with the UUID `server`, which `make` returns.

        The Panel coordinates it, which has `ordered` it then by its own clock, in seconds since
        the epoch, unless another `coordinator` is given. The transfer waits until
        an earlier one that has failed, or that gives way, is cleaned up. Raises
        `ServerAlreadyExists` while another is under way, `TooManyTransfers` while there are as
        many as may be, `DaemonStopping` after `stop`, and the error of `Later.get`.
        """
        if self._stopping:
            raise DaemonStopping
        previous = self._open.get(server)
        if previous is not None and _gives_way(previous, coordinator):
            previous.give_way()
        elif previous is not None and not previous.has_failed:
            # Not aborted for the next one, though that has a newer token: the failure of a
            # transfer is reported to the Panel by the server's UUID alone, and would end both.
            raise ServerAlreadyExists(
                "this server is already being received", self._prospects(previous)
            )
        if sum(transfer.takes_a_place for transfer in self._open.values()) >= self._most:
            raise TooManyTransfers(self._most)
        coordinator = coordinator or self._coordinators.receiving(server, ordered)
        transfer = self._begin(make, server, coordinator)
        if previous is not None:
            transfer.begin_after(previous)
        return transfer

    def expect(self, server: str) -> None:
        """Note that the Panel has begun a transfer of the server to this node."""
        self._coordinators.expect(server)

    def pool_features(
        self, server: str, pool: str, mark: str, backups_mark: str
    ) -> Deferred[list[str]]:
        """Return what the sender of a server is answered about its storage pool and its marks."""
        storage = self._factory.get().storage
        return storage.pool_features(server, pool, mark, backups_mark)

    def attributes_kept(self) -> Deferred[AttributesKept]:
        """Return which extended attributes servers keep that are received."""
        storage = self._factory.get().storage
        return storage.disk.run(storage.staging.attributes_kept)

    def _prospects(self, transfer: IncomingTransfer) -> str:
        """Return since when a transfer is under way, and when it ends if its sender is gone."""
        now = transfer.progress
        so_far = f"the transfer under way began {now.seconds:.0f} s ago and is {now.step_text}"
        if not transfer.is_receiving:
            return f"{so_far}; wait for it to end"
        return (
            f"{so_far}; if its sender is gone, it ends after {self._stall_timeout:g} s of "
            "silence: send the server again then"
        )

    def resume(
        self, entry: TransferRecord, coordinator: ReceivingCoordinator | None = None
    ) -> None:
        """Complete or roll back what an earlier daemon has left unfinished."""
        self.resume_as(_by_uploads, entry, coordinator)

    def resume_as(
        self,
        make: MakeTransfer[T],
        entry: TransferRecord,
        coordinator: ReceivingCoordinator | None = None,
    ) -> T:
        """Go on with what an earlier daemon has left, by the transfer that `make` returns."""
        coordinator = coordinator or self._coordinators.receiving(entry.server)
        transfer = self._begin(make, entry.server, coordinator)
        Deferred.fromCoroutine(transfer.resume(entry))
        return transfer

    def _begin(self, make: MakeTransfer[T], server: str, coordinator: ReceivingCoordinator) -> T:
        transfer = make(self._factory.get(), server, coordinator)
        self._add(server, transfer)
        transfer.over.addCallback(self._note_success, transfer)
        return transfer

    def _note_success(self, _: None, transfer: IncomingTransfer) -> None:
        if transfer.has_succeeded and transfer.number is not None:
            self._arrived.arrived(transfer.number, transfer.server)

    def cancel(self, server: str) -> None:
        """End the server's transfer, in any step; nothing of it stays.

        Raises `Conflict` when there is none that can still be ended: not once success is reported.
        """
        transfer = self._open.get(server)
        if transfer is None or not transfer.abort(TransferCancelled(), verified=True):
            raise TransferNotActive(
                "Server is not currently being transferred.",
                "there is no transfer to this node that could still be cancelled",
            )

    def forget(self, server: str) -> bool:
        """End the seed of a server and remove its copy; return whether there was one."""
        transfer = self._open.get(server)
        return transfer is not None and transfer.forget()

    async def release(self, server: str, *, keeps: bool = False) -> None:
        """End the server's transfer, since the server is to be deleted; return when it is over.

        One whose success may have been reported is not waited for: the Panel knows what it
        deletes. With `keeps` the Panel deletes servers at the destination of each transfer that
        has failed: what has arrived of a move stays for the next one.
        """
        transfer = self._open.get(server)
        if transfer is not None and transfer.release(keeps=keeps):
            await when_fired(transfer.over)

    def stop(self) -> Deferred[Any]:
        """Abort what is not verified yet; the Deferred fires when the rest is at its end.

        A server that has arrived, and of which the Panel has not heard, is left to the next
        daemon.
        """
        self._stopping = True
        transfers = [transfer for transfer in self._open.values() if not transfer.has_arrived]
        over = all_over(transfers)
        for transfer in transfers:
            transfer.abort(DaemonStopping())
        return over

    def concluded(self) -> Deferred[Any]:
        """Return a Deferred that fires when the transfers that the Panel has answered are over."""
        return all_over(transfer for transfer in self._open.values() if transfer.is_answered)

    def abort_all(self) -> None:
        """Abort what is verified as well, where its success has not been reported."""
        for transfer in tuple(self._open.values()):
            transfer.abort(DaemonStopping(), verified=True)


def _gives_way(previous: IncomingTransfer, coordinator: ReceivingCoordinator | None) -> bool:
    """Return whether a transfer ends for the next one, of which that is the coordinator.

    What the Panel has ordered does not for a direct one, whose request may have come late.
    """
    ordered = coordinator is None or not coordinator.is_direct
    return previous.gives_way and (ordered or previous.coordinator.is_direct)


def _by_uploads(
    factory: IncomingTransferFactory, server: str, coordinator: ReceivingCoordinator
) -> IncomingTransfer:
    return factory.make(server, coordinator)
