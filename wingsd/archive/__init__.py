"""Archives: extracted from a stream of bytes into a tree, and packed from one, hashed on the way.

Blocking: `extract` and `pack` run in worker threads and know only bytes and a directory. To
extract: `decompress`, `tar_reader`, `policy` (where a member may go), `quota` (how much there may
be) and `tree_writer`. To pack: `tar_writer` and `compress`. A server in several archives
at the same time: `partition`, `extract_part` and `SharedTreeWriter`. The module `pack` is
imported with the first archive that is sent.
"""

from wingsd.archive.compress import ArchiveFormat, Compression
from wingsd.archive.partition import Part, split
from wingsd.archive.quota import ArchiveLimits, require_free_space

__all__ = [
    "ArchiveFormat",
    "ArchiveLimits",
    "Compression",
    "Part",
    "require_free_space",
    "split",
]
