"""The console WebSocket of a server: browsers watch it, type commands and change its power.

`messages`, `rate_limits`, `visibility`, `session` and its `steps` are rules without a reactor.
`protocol` is the connection, `client` connects it with a session and a server, `opener` makes
them, and `resource` answers requests for one. `recent_transfers` keeps the messages of transfers
for browsers that connect late.
"""

from wingsd.websocket.resource import ConsoleSocket, ConsoleSockets

__all__ = ["ConsoleSocket", "ConsoleSockets"]
