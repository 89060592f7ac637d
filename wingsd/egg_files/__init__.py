"""The egg's configuration files, rewritten in a server's directory before every start.

So `server.properties` gets the port that the Panel assigned. `formats` names a module for each
format, which turns text into text and keeps comments and order. `process` reads and replaces the
files, and has each of them parsed in a child process, which runs `child`.
"""
