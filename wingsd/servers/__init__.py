"""The servers of this node and their lives: what they are, what they do, and who they are.

Rules: `states`, `stopping`, `donelines`, `console`, `throttle`. On the reactor: a `run` of a
program, the `life` it is a part of, the `power` over it, the `server` that has all of this, and
the `registry` of all servers.
"""

from wingsd.servers.means import Means
from wingsd.servers.registry import Servers
from wingsd.servers.server import Server
from wingsd.servers.states import PowerAction, PowerState

__all__ = ["Means", "PowerAction", "PowerState", "Server", "Servers"]
