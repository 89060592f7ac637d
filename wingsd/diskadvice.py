"""What a failure of the disk means to the person who runs the node, and what to do about it."""

from __future__ import annotations

import errno

__all__ = ["disk_advice"]

_ADVICE = {
    errno.ENOSPC: "the disk is full; free space on this node and send the server again",
    errno.EDQUOT: "the disk quota is used up; raise it and send the server again",
    errno.EROFS: "the file system is read-only; look into this node's kernel log for its reason",
    errno.EACCES: "permission denied; wingsd must be able to write to its data directory",
    errno.EPERM: "not permitted; wingsd must run as a user who may own and change these files",
    errno.EFBIG: "it is larger than the file system or a limit of this process allows",
    errno.EIO: "the disk failed; look into this node's kernel log",
    errno.EMFILE: "too many open files; raise the limit of this process",
    errno.EMLINK: "the file system allows no more hard links to one file",
}


def disk_advice(error: OSError) -> str:
    """Return the words for a person; the system's own where there is nothing to add."""
    return _ADVICE.get(error.errno or 0) or error.strerror or str(error)
