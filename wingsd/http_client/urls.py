"""URLs: of operators and Panels, and of users and redirects, which are parsed strictly.

What parsers of URLs understand in different ways is refused in the latter: users and passwords,
backslashes, control characters, zones of IPv6, and IPv4 in other forms than four decimal numbers.

The name of a file that is downloaded is that of the header `Content-Disposition`, or of the URL.
"""

from __future__ import annotations

import re
import unicodedata
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import SplitResult, quote, unquote_to_bytes, urljoin, urlsplit

import attrs
import idna

from wingsd.errors import UrlInvalid, UrlSchemeRefused
from wingsd.util.text import escaped

#: The longest URL that is accepted, as in most servers.
MAX_URL = 8192
PORTS = {"http": 80, "https": 443}
#: Below it are services of other protocols, such as mail, that requests could be aimed at.
_FIRST_FREE_PORT = 1024
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
#: The last label of what could be read as a number, and so as an address: `1`, `0x7f`, `017`.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_MAX_HOST = 253
#: What stays as it is in a path and in a query (RFC 3986), `%` included: it is encoded already.
_SAFE = "/:@!$&'()*+,;=~-._%?[]"


def parse_url(url: str) -> SplitResult:
    """Return the parts of an http or https URL. Raises `ValueError` with what is wrong with it."""
    parts = urlsplit(url)
    if parts.scheme not in PORTS or not parts.hostname:
        raise ValueError("it must be an http or https URL with a host")
    if parts.port == 0:
        raise ValueError("nothing listens at port 0")
    if parts.username is not None:
        raise ValueError("it must not have a user in it")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("write it in ASCII alone, an international name in its xn-- form")
    return parts


@attrs.frozen
class WebUrl:
    """A URL of http or https. `host` is a name in ASCII, or an address without brackets.

    `target` is path and query, as they are sent.
    """

    scheme: str
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, text: str) -> WebUrl:
        """Return the URL of a text. Raises `UrlInvalid`."""
        _check_text(text)
        text = text.strip(" ")
        try:
            parts = urlsplit(text)
            port, user = parts.port, parts.username
        except ValueError as error:
            raise UrlInvalid(escaped(str(error))) from error
        if parts.scheme not in PORTS:
            raise UrlSchemeRefused
        if user is not None or "@" in parts.netloc:
            raise UrlInvalid("it must not have a user or a password in it")
        if port == 0:
            raise UrlInvalid("nothing listens at port 0")
        host = _host(parts.hostname or "", is_literal="[" in parts.netloc)
        query = f"?{parts.query}" if parts.query else ""
        target = _encoded(f"{parts.path or '/'}{query}")
        return cls(parts.scheme, host, port or PORTS[parts.scheme], target)

    def joined(self, location: str) -> WebUrl:
        """Return the URL that a redirect from this one leads to. Raises `UrlInvalid`."""
        _check_text(location)
        try:
            text = urljoin(str(self), location.strip(" "))
        except ValueError as error:
            raise UrlInvalid(escaped(str(error))) from error
        return WebUrl.parse(text)

    @property
    def is_tls(self) -> bool:
        """True if it is of https."""
        return self.scheme == "https"

    @property
    def has_usual_port(self) -> bool:
        """True if the port is one that files are served at: 80, 443, or from 1024 on."""
        return self.port in PORTS.values() or self.port >= _FIRST_FREE_PORT

    @property
    def authority(self) -> str:
        """Host and port as in the header `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def last_segment(self) -> str:
        """The last part of the path, decoded; empty where the path ends in a slash."""
        segment = self.target.partition("?")[0].rpartition("/")[2]
        return text_of(unquote_to_bytes(segment))

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"


def text_of(data: bytes) -> str:
    """Return the text of bytes that are UTF-8, or else ISO-8859-1, as in headers of old."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _check_text(text: str) -> None:
    if len(text) > MAX_URL:
        raise UrlInvalid(f"it is longer than {MAX_URL} characters")
    if _CONTROL.search(text):
        raise UrlInvalid("it has a control character or a backslash in it")


def _host(host: str, *, is_literal: bool) -> str:
    """Return a host in its one form. Raises `UrlInvalid`."""
    if is_literal:
        try:
            if "%" in host:
                raise UrlInvalid("an address must not have a zone")
            return str(IPv6Address(host))
        except ValueError as error:
            raise UrlInvalid(f"{host[:60]!r} is no address of IPv6") from error
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError) as error:
            raise UrlInvalid(f"{host[:60]!r} is no name of a host") from error
    host = host.lower().removesuffix(".")
    if not host:
        raise UrlInvalid("it has no host")
    labels = host.split(".")
    if len(host) > _MAX_HOST or not all(map(_LABEL.fullmatch, labels)):
        raise UrlInvalid(f"{host[:60]!r} is no name of a host")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(IPv4Address(host))
        except ValueError as error:
            what = f"{host[:60]!r} is no address of IPv4 in four decimal numbers"
            raise UrlInvalid(what) from error
    return host


def _encoded(target: str) -> str:
    """Return path and query in ASCII; a `%` that begins no escape is escaped."""
    encoded = quote(target, safe=_SAFE, encoding="utf-8", errors="surrogateescape")
    return re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", encoded)


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
