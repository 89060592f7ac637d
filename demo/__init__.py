"""`make demo`: moves a real game server from one node to another, and shows what happens.

`scenario` has the steps, from top to bottom; `testbed` has a Panel, two nodes and an engine.
`luanti` is the game; `counter` is the small one of `make demo FAST=1`.

Everything it creates is in `.cache/demo` and on the Docker engine under its own names, and is
removed at the end. The game's image and the downloaded packages stay.
"""
