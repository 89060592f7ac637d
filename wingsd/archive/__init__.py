"""From an archive's bytes to a directory tree. `extract` is the door; the rest is behind it.

Blocking: it runs in a worker thread and knows only an iterator of bytes and a directory. Pure are
`policy` (what may be written where), `headers`, `extension` and `tar` (what the bytes mean).
"""

from wingsd.archive.extract import Extracted, extract

__all__ = ["Extracted", "extract"]
