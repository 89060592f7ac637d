"""Archives: extracted from a stream of bytes into a tree, and packed from one, hashed on the way.

Blocking: both run in a worker thread and know only bytes and a directory. Pure are `policy` (what
may be written where), `limits` (how much), `headers`, `extension` and `tar` (what the bytes mean),
`span` (which names go into which of several archives) and `pax` (what is written for a member).
The rest is behind the doors: receiving are `compression`, `space`, `tree`, `directories`,
`metadata` and `latelinks`; sending are `walk`, `symlinks`, `members`, `compressors` and
`compress`; `stages` serves both. For a server in several archives at a time there are `JointTree`
and `extract_part`, and `split` to make them. `measure` and `remove_tree` are for whole
directories, `demand_room` is for what is written beside them.
"""

from wingsd.archive.compress import ArchiveFormat, Compression
from wingsd.archive.extract import Extracted, JointTree, extract, extract_part
from wingsd.archive.pack import Packed, pack
from wingsd.archive.partition import Part, split
from wingsd.archive.quota import Limits, demand_room
from wingsd.archive.walk import Measured, measure, remove_tree, survey

__all__ = [
    "ArchiveFormat",
    "Compression",
    "Extracted",
    "JointTree",
    "Limits",
    "Measured",
    "Packed",
    "Part",
    "demand_room",
    "extract",
    "extract_part",
    "measure",
    "pack",
    "remove_tree",
    "split",
    "survey",
]
