"""`wingsctl`, the operator's command: a client of the daemon's control socket.

`main` is the command; `client` speaks to the daemon and `exits` are the ways to fail. What is
printed is made in `printing`, `pictures` (tables) and `following` (what goes on).
"""
