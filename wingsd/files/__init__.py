"""What users do with a server's files: the file manager of the Panels' pages.

`denylist` is what the egg forbids, `entries` a file as the pages show it, `mime` its type. What
blocks runs in threads, on an open `wingsd.filesystem.ServerRoot`.
"""
