"""Texts from outside: UUIDs, origins of URLs, and escapes for messages and the log."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

__all__ = ["LONGEST", "Origin", "canonical_uuid", "display", "escaped", "host_and_port", "origin"]

#: Scheme, host and port; of what is no address, just its text.
Origin = tuple[str, str, int | None] | str

_DEFAULT_PORTS = {"http": 80, "https": 443}


_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.I | re.A)


def canonical_uuid(text: str) -> str | None:
    """Return a server's UUID in lower case, as Panels write it; None when `text` is not a UUID."""
    return text.lower() if _UUID.fullmatch(text) else None


def origin(url: str) -> Origin:
    """Return the origin of an address, the same for all ways to write it."""
    try:
        parts = urlsplit(url)
        port = _DEFAULT_PORTS.get(parts.scheme) if parts.port is None else parts.port
    except ValueError:
        return url
    return (parts.scheme, parts.hostname, port) if parts.hostname else url


def host_and_port(address: str) -> tuple[str, int]:
    """Return what `host:port` names; an IPv6 host is in brackets. Raises `ValueError`."""
    parts = urlsplit(f"//{address}")
    if not parts.hostname or parts.port is None or parts.netloc != address or "@" in address:
        raise ValueError(address)
    return parts.hostname, parts.port


#: Characters.
_MAX_DISPLAY = 200


def display(name: bytes) -> str:
    """Return `name` in quotes, safe to show: printable, on one line, not endlessly long.

    What is not UTF-8 or not printable is shown as an escape sequence.
    """
    shown = name[: _MAX_DISPLAY + 1].decode("utf-8", "backslashreplace")
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)
    return f'"{text[:_MAX_DISPLAY]}..."' if len(text) > _MAX_DISPLAY else f'"{text}"'


#: Characters of a text that are kept; a `…` stands for the others.
LONGEST = 2048


def escaped(text: str) -> str:
    r"""Return a text cut off after `LONGEST` characters, with escapes (`\x1b`) for some of them.

    Escaped is what is not printable (`str.isprintable`): control characters of C0 and C1, line
    breaks of every kind, what changes the direction of the text behind it (such as U+202E), and
    lone surrogates.
    """
    cut = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    if cut.isprintable():
        return cut
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in cut
    )
