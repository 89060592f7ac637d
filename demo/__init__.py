"""`make demo`: a real game server moves from one node to another, and what happened is shown.

`course` is what happens from top to bottom, on the `stage`: a Panel, two nodes and an engine.
`luanti` is the game that travels; `counter` is the small one of `make demo FAST=1`.

Everything it makes lies in `.cache/demo` and on the Docker engine under names of its own, and is
removed again at the end. The game's image and the packages it fetched stay.
"""
