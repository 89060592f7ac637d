"""The names of files that are downloaded: of the header `Content-Disposition`, or of the URL."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote_to_bytes

__all__ = ["disposition_name", "plain_name"]

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - a token of HTTP
_TYPE = re.compile(rf"\s*(?:{_TOKEN})?\s*")
#: A parameter with a quoted value, or with one up to the next semicolon: many servers do not quote
#: names with spaces.
_PARAMETER = re.compile(
    rf';\s*(?P<name>{_TOKEN})\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"\s*|(?P<plain>(?!")[^;]*))',
    re.S,
)
#: RFC 8187: character set, language, percent-encoded bytes.
_EXTENDED = re.compile(r"(?P<charset>UTF-8|ISO-8859-1)'[^']*'(?P<value>[!-~]*)", re.I)
_ESCAPED = re.compile(r"\\(.)", re.S)


def disposition_name(header: str) -> str:
    """Return the name of a file in a `Content-Disposition` (RFC 6266), empty without one.

    `filename*` comes before `filename`; what follows a part that is malformed does not count.
    """
    found: dict[str, str] = {}
    start = _TYPE.match(header)
    at = start.end() if start is not None else 0
    while (match := _PARAMETER.match(header, at)) is not None:
        quoted, plain = match["quoted"], match["plain"]
        value = plain.strip() if quoted is None else _ESCAPED.sub(r"\1", quoted)
        found.setdefault(match["name"].lower(), value)
        at = match.end()
    return plain_name(_extended(found.get("filename*", ""))) or plain_name(
        found.get("filename", "")
    )


def plain_name(text: str) -> str:
    """Return the last part of a path as a name: without control characters; empty for none."""
    last = re.split(r"[/\\]", text)[-1]
    name = "".join(each for each in last if unicodedata.category(each) not in ("Cc", "Cs"))
    name = name.strip()
    return "" if name in (".", "..") else name


def _extended(text: str) -> str:
    match = _EXTENDED.fullmatch(text)
    if match is None:
        return ""
    try:
        return unquote_to_bytes(match["value"]).decode(match["charset"])
    except UnicodeDecodeError:
        return ""
