"""Makes incoming transfers. It imports what receives servers, which a node at rest saves."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import attrs
from twisted.internet.interfaces import IReactorTime

from wingsd.docker import Environment
from wingsd.servers import Servers
from wingsd.transfers.coordinator import ReceivingCoordinator
from wingsd.transfers.incoming.transfer import IncomingTransfer
from wingsd.transfers.incoming.uploads import Extraction
from wingsd.transfers.step_log import StepLogs
from wingsd.transfers.storage.incoming import IncomingStorage

__all__ = ["IncomingTransferFactory"]

T = TypeVar("T", bound=IncomingTransfer)


@attrs.frozen(eq=False, repr=False)
class IncomingTransferFactory:
    """Makes transfers, whose archives are extracted and put into `storage`."""

    step_logs: StepLogs
    storage: IncomingStorage
    extraction: Extraction
    environment: Environment
    servers: Servers
    reactor: IReactorTime

    def make(self, server: str, coordinator: ReceivingCoordinator) -> IncomingTransfer:
        """Return a transfer of the server with the UUID `server` that has not begun."""
        return self.make_as(IncomingTransfer, server, coordinator)

    def make_as(self, kind: Callable[..., T], server: str, coordinator: ReceivingCoordinator) -> T:
        """Return such a transfer that `kind` makes of the arguments of `IncomingTransfer`."""
        return kind(
            server,
            coordinator,
            self.step_logs,
            self.storage,
            self.extraction,
            self.environment,
            self.servers,
            self.reactor,
        )
