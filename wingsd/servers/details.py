"""What a node tells of a server, in the form that Panels know from Wings. Pure."""

from __future__ import annotations

from typing import Annotated, Any

import attrs

from wingsd.servers.states import PowerState
from wingsd.structure import Keywords

__all__ = ["Network", "ServerDetails", "Utilization"]

Amount = Annotated[int, Keywords(minimum=0)]


@attrs.frozen
class Network:
    """Bytes that have come and gone since the server's start."""

    rx_bytes: Amount
    tx_bytes: Amount


@attrs.frozen
class Utilization:
    """What a server uses."""

    memory_bytes: Amount
    memory_limit_bytes: Annotated[Amount, "0 is no limit."]
    cpu_absolute: Annotated[float, Keywords(minimum=0), "Percent of one core."]
    network: Network
    uptime: Annotated[Amount, "Milliseconds since its start."]
    state: PowerState
    disk_bytes: Annotated[Amount, "What its files use, as last measured; 0 before that was done."]


@attrs.frozen
class ServerDetails:
    """A server: what it is and does."""

    state: PowerState
    is_suspended: bool
    utilization: Utilization
    configuration: Annotated[dict[str, Any], "The settings, as the Panel gave them."]
