"""The table of a node's transfers in one direction, at most one for each server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred, DeferredList

from wingsd.transfers.step_log import ProgressReport
from wingsd.util.deferreds import when_fired

__all__ = ["TransferTable", "all_over"]


class _Transfer(Protocol):
    @property
    def over(self) -> Deferred[None]:
        """Fires when the transfer has ended, whatever its outcome."""

    @property
    def progress(self) -> ProgressReport:
        """How far it is."""

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for a slot."""


T = TypeVar("T", bound=_Transfer)


class TransferTable(Generic[T]):
    """The transfers under way by their servers' UUIDs; each is removed when it is over."""

    def __init__(self) -> None:
        self._open: dict[str, T] = {}

    def find(self, server: str) -> T | None:
        """Return the server's transfer, if there is one."""
        return self._open.get(server)

    @property
    def progress(self) -> list[ProgressReport]:
        """How far each transfer is, including failed ones that are still being cleaned up."""
        return [transfer.progress for transfer in self._open.values()]

    @property
    def servers(self) -> tuple[str, ...]:
        """The UUIDs of the servers that are being transferred."""
        return tuple(self._open)

    @property
    def waiting(self) -> int:
        """How many transfers wait for a slot."""
        return sum(transfer.is_waiting for transfer in self._open.values())

    def _add(self, server: str, transfer: T) -> None:
        self._open[server] = transfer
        transfer.over.addCallback(self._remove, server, transfer)

    def _remove(self, _: None, server: str, transfer: T) -> None:
        # A later transfer of the server may have been added while this one was cleaned up.
        if self._open.get(server) is transfer:
            del self._open[server]


def all_over(transfers: Iterable[_Transfer]) -> Deferred[Any]:
    """Return a Deferred that fires when each of the transfers is over."""
    return DeferredList([when_fired(transfer.over) for transfer in transfers])
