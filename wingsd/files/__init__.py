"""Users' work with the files of servers: the file manager of the Panels' pages.

`denylist` is what the egg forbids, and `guard` decides by it what a request may touch. `entries`
has a file as the pages show it, with its type. `changes`, `archives` and `extraction` change
files.
What blocks runs in threads, on an open `wingsd.filesystem.ServerRoot`.
"""
