"""The servers of this node: their configuration, installation, power, console and files.

`registry` loads and holds all servers, `installations` installs them. A `server` has its `files`
and, while its program runs, a run with its `console`. `power_states` and `operations` are rules
without a reactor.
"""

from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.servers.registry import Servers
from wingsd.servers.server import Server

__all__ = ["PowerAction", "PowerState", "Server", "Servers"]
