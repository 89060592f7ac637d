"""`/v1`: everything that `wingsctl` asks, in one table."""

from __future__ import annotations

from collections.abc import Mapping

from wingsd.control.endpoint import ControlEndpoint
from wingsd.control.moves import ReceiveEndpoint, SendEndpoint
from wingsd.control.rooms import Rooms
from wingsd.control.status import StatusEndpoint
from wingsd.control.transfers import TransferEndpoint, TransfersEndpoint
from wingsd.web.paths import Paths

__all__ = ["PATHS", "ControlApi"]

PATHS: Mapping[str, type[ControlEndpoint]] = {
    "/v1/status": StatusEndpoint,
    "/v1/transfers": TransfersEndpoint,
    "/v1/transfers/{uuid}": TransferEndpoint,
    "/v1/receive": ReceiveEndpoint,
    "/v1/send": SendEndpoint,
}


class ControlApi(Paths[Rooms]):
    """What is found below the root of the control socket."""

    def __init__(self, rooms: Rooms) -> None:
        super().__init__(PATHS, rooms)
