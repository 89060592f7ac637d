"""What a failure of the disk means to the person who runs the node, and what to do about it."""

from __future__ import annotations

import errno

__all__ = ["disk_advice", "reading_advice"]

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

_READING = {
    errno.EACCES: "permission denied; wingsd must run as a user who may read every server's files",
    errno.EPERM: "not permitted; wingsd must run as a user who may read every server's files",
    errno.ENOENT: "it is not there",
    errno.ENOTDIR: "it is not a directory",
    errno.ELOOP: "it is a symlink, which is not followed",
    errno.EIO: (
        "the disk failed; look into this node's kernel log, then restore or delete it and "
        "transfer the server again"
    ),
}


def disk_advice(error: OSError) -> str:
    """Return the words for a person; the system's own where there is nothing to add."""
    return _ADVICE.get(error.errno or 0) or error.strerror or str(error)


def reading_advice(error: OSError) -> str:
    """Return the words for a person where something could not be read."""
    return _READING.get(error.errno or 0) or disk_advice(error)
