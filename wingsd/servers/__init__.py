"""The servers of this node: their configuration, power, console and files.

Rules: `states`, `stopping`, `donelines`, `console`, `throttle`. On the reactor: a `run` of a
program, the `life` it is a part of, the `power` over it, the `server` that has all of this, and
the `registry` of all servers.
"""

from wingsd.servers.collaborators import ServerCollaborators
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.servers.registry import Servers
from wingsd.servers.server import Server

__all__ = ["PowerAction", "PowerState", "Server", "ServerCollaborators", "Servers"]
