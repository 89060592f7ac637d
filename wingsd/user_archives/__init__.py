"""Archives of users, which are hostile: each is parsed by a process of its own.

`process` starts it with the archive's descriptor and nothing else; `child` is what it runs. It
confines itself, and then parses: `listed` by libarchive, `zip_deflate64` and `streams` what that
cannot. What it finds comes back as `frames`, all of which are checked, since the process counts as
hostile from its first byte of the archive on. Nothing here writes a file.
"""
