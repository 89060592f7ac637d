"""The egg's configuration files, rewritten in a server's directory before every start.

This is how `server.properties` learns the port that the Panel gave it. One module for each form of
file turns text into text and keeps comments and order. `rewriting` reads and replaces the files;
`process` has each of them parsed by a process of its own, which runs `child`.
"""
