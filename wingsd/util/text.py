"""Text in messages and the log: escapes, OS errors, sizes and times, UUIDs and URLs."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

#: Scheme, host and port; the text itself where it is not a URL.
Origin = tuple[str, str, int | None] | str

_DEFAULT_PORTS = {"http": 80, "https": 443}


_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.I | re.A)


def canonical_uuid(text: str) -> str | None:
    """Return a server's UUID in lower case, as Panels write it; None when `text` is not a UUID."""
    return text.lower() if _UUID.fullmatch(text) else None


def require_uuid(text: str, refusal: Exception) -> str:
    """Return a UUID in lower case. Raises `refusal` when `text` is not a UUID."""
    uuid = canonical_uuid(text)
    if uuid is None:
        raise refusal
    return uuid


def canonical_uuids(values: object) -> tuple[str, ...] | None:
    """Return the UUIDs of a list, each once and in lower case; None when it is not such a list."""
    if not isinstance(values, list | tuple):
        return None
    uuids = [canonical_uuid(each) if isinstance(each, str) else None for each in values]
    found = tuple(dict.fromkeys(uuid for uuid in uuids if uuid is not None))
    return None if None in uuids else found


def origin(url: str) -> Origin:
    """Return the origin of a URL, the same for all ways to write it (RFC 6454)."""
    try:
        parts = urlsplit(url)
        port = _DEFAULT_PORTS.get(parts.scheme) if parts.port is None else parts.port
    except ValueError:
        return url
    return (parts.scheme, parts.hostname, port) if parts.hostname else url


def host_and_port(address: str) -> tuple[str, int]:
    """Return host and port of `host:port`; an IPv6 host is in brackets. Raises `ValueError`."""
    parts = urlsplit(f"//{address}")
    if not parts.hostname or parts.port is None or parts.netloc != address or "@" in address:
        raise ValueError(address)
    return parts.hostname, parts.port


#: Characters of a quoted name, and of any other text, that are kept.
MAX_NAME = 200
MAX_TEXT = 2048


def display(name: bytes) -> str:
    """Return a name in quotes for a message: decoded, escaped and cut to `MAX_NAME` characters.

    Bytes that are not UTF-8 are shown as escape sequences too.
    """
    text = _escape(name[: MAX_NAME + 1].decode("utf-8", "backslashreplace"))
    return f'"{text[:MAX_NAME]}..."' if len(text) > MAX_NAME else f'"{text}"'


#: Paths that a message names.
NAMED_PATHS = 5


def display_all(paths: Sequence[bytes]) -> str:
    """Return paths in a server's directory for a message; of many the first ones."""
    shown = ", ".join(display(path) if path else "its directory" for path in paths[:NAMED_PATHS])
    more = len(paths) - NAMED_PATHS
    return f"{shown} and {more} more" if more > 0 else shown


def escaped(text: str) -> str:
    r"""Return a text for the log, cut to `MAX_TEXT` characters, with escapes such as `\x1b`.

    Characters that are not printable (`str.isprintable`) are escaped: control characters of C0 and
    C1, line breaks of every kind, those that change the direction of text (such as U+202E), and
    lone surrogates.
    """
    return _escape(text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…")


def _escape(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


_ADVICE = {
    errno.ENOSPC: "the disk is full; free space on this node and send the server again",
    errno.EDQUOT: "the disk quota is used up; raise it and send the server again",
    errno.EROFS: (
        "the file system is read-only; see this node's kernel log for the reason, or, if only the "
        "service sees it so, add the directory to its ReadWritePaths= (systemctl edit wingsd)"
    ),
    errno.EACCES: "permission denied; wingsd must be able to write to its data directory",
    errno.EPERM: "not permitted; wingsd must run as a user who may own and change these files",
    errno.EFBIG: "it is larger than the file system or a limit of this process allows",
    errno.EIO: "the disk failed; see this node's kernel log",
    errno.EMFILE: "too many open files; raise the limit of this process",
    errno.EMLINK: "the file system allows no more hard links to one file",
}

_READING = {
    errno.EACCES: "permission denied; wingsd must run as a user who may read every server's files",
    errno.EPERM: "not permitted; wingsd must run as a user who may read every server's files",
    errno.ENOENT: "it does not exist",
    errno.ENOTDIR: "it is not a directory",
    errno.ELOOP: "it is a symlink, which is not followed",
    errno.EIO: (
        "the disk failed; see this node's kernel log, then restore or delete it and "
        "transfer the server again"
    ),
}


def disk_advice(error: OSError) -> str:
    """Return what an error of writing means and what to do; the system's text for other errors."""
    return _ADVICE.get(error.errno or 0) or error.strerror or str(error)


def reading_advice(error: OSError) -> str:
    """Return the same for an error of reading."""
    return _READING.get(error.errno or 0) or disk_advice(error)


_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_STEP = 1024
_MINUTE = 60
_HOUR = 3600


def readable_size(size: float) -> str:
    """Return a number of bytes with a unit, such as "1.5 GiB"."""
    unit = 0
    while size >= _STEP and unit < len(_UNITS) - 1:
        size /= _STEP
        unit += 1
    return f"{size:.1f} {_UNITS[unit]}" if unit else f"{int(size)} B"


def readable_time(seconds: float) -> str:
    """Return a time in whole seconds, minutes or hours, such as "10 min"; rounded down."""
    for unit, name in ((_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= 2 * unit or seconds == unit:
            return f"{int(seconds // unit)} {name}"
    return f"{int(seconds)} s"
