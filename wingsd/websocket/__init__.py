"""The console WebSocket of a server: browsers watch it, type commands and change its power.

`messages`, `meter`, `outbox` and `session` are rules; `wire` is the connection, `client` lies
between the two, and `resource` is how a browser gets there. `recent` keeps what transfers have
sent, for browsers that connect late.
"""

from wingsd.websocket.resource import ConsoleSocket, ConsoleSockets

__all__ = ["ConsoleSocket", "ConsoleSockets"]
