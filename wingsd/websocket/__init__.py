"""The console WebSocket of a server: browsers watch it, type commands and change its power.

`messages` and `session` are rules without a reactor. `resource` connects a session with a server
and a connection, whose protocol is in `protocol`. `recent_transfers` keeps the messages of
transfers for browsers that connect late.
"""
