"""Archives: extracted from a stream of bytes into a tree, and packed from one, hashed on the way.

Blocking: `extract` and `pack` run in worker threads and know only bytes and a directory. To
extract: `decompress`, `tar_reader`, `policy` (where a member may go), `quota` (how much there may
be) and `tree_writer`. To pack: `tar_headers` and `compress`. A server in several archives at the
same time: `partition` and `SharedTreeWriter`. The process that parses an archive of a user needs
neither `quota`, with the node's configuration, nor threads.
"""
