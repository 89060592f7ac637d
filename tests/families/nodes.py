"""A node of each family as a destination: what of an upload it reads, and what it answers.

It knows the names of its own family's parts alone, and reads the form by no code of wingsd's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import attrs
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from tests.support.go import UNEXPECTED
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL

#: What of a form the nodes of each family keep: the archive, then logs, then backups.
_KEPT = {
    PTERODACTYL: re.compile("archive"),
    PELICAN: re.compile("archive|install_logs|backup_.+"),
    CALAGOPUS: re.compile("archive|install-logs|backup-(?!checksum-).+"),
}
#: By which name a checksum comes.
_CHECKSUM = {
    PTERODACTYL: {"archive": "checksum"},
    PELICAN: {"archive": "checksum_archive", "backup_": "checksum_backup_"},
    CALAGOPUS: {"archive": "checksum", "backup-": "backup-checksum-"},
}
#: What their nodes say of whatever went wrong.
_REFUSAL = {
    PTERODACTYL: (500, UNEXPECTED),
    PELICAN: (500, UNEXPECTED),
    CALAGOPUS: (417, {"error": "failed to complete server transfer"}),
}
_HEAD = re.compile(
    rb'Content-Disposition: form-data; name="([^"]+)"(?:; filename="([^"]+)")?'
    rb"(?:\r\nContent-Type: (\S+))?"
)


@attrs.frozen
class SentPart:
    """One part of a form."""

    name: str
    filename: str
    content_type: str
    data: bytes


class Refused(Exception):
    """The upload is not what such a node takes."""


class FamilyNode(Resource):
    """The node. `line` is what the network makes of each part; None loses it.

    With `breaks` the connection breaks once the node has read something of the body.
    """

    isLeaf = True

    def __init__(
        self,
        family: str,
        reactor: Any,
        line: Callable[[SentPart], SentPart | None] = lambda part: part,
        *,
        breaks: bool = False,
    ) -> None:
        super().__init__()
        self._family = family
        self._line = line
        #: What it was sent, in order, and what it has kept of it by the names of the parts.
        self.content_type, self.body = "", b""
        self.sent: list[SentPart] = []
        self.kept: dict[str, SentPart] = {}
        site: Any = Site(self)
        if breaks:
            site.requestFactory = _Breaking
        self._port = reactor.listenTCP(0, site, interface="127.0.0.1")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port.getHost().port}/api/transfers"

    def close(self) -> Any:
        return self._port.stopListening()

    def render_OPTIONS(self, request: Any) -> bytes:
        # None of them says what it keeps.
        request.setResponseCode(204)
        return b""

    def render_POST(self, request: Any) -> bytes:
        self.content_type = request.getHeader("Content-Type")
        self.body = request.content.read()
        try:
            self.sent = parts_of(self.content_type, self.body)
            self._take([part for part in map(self._line, self.sent) if part is not None])
        except Refused:
            status, words = _REFUSAL[self._family]
            request.setResponseCode(status)
            request.setHeader("Content-Type", "application/json; charset=utf-8")
            return json.dumps(words).encode()
        return b""

    def _take(self, parts: list[SentPart]) -> None:
        data = {part.name: part.data for part in parts}
        kept = {part.name: part for part in parts if _KEPT[self._family].fullmatch(part.name)}
        if len(data) != len(parts) or "archive" not in kept:
            raise Refused
        for name, part in kept.items():
            for begins, checksum in _CHECKSUM[self._family].items():
                if name.startswith(begins):
                    expected = data.get(checksum + name.removeprefix(begins), b"").decode()
                    if sha256(part.data).hexdigest() != expected:
                        raise Refused
        self.kept = kept


class _Breaking(Request):
    """A request whose connection breaks when the first of its body has come."""

    channel: Any

    def handleContentChunk(self, data: bytes) -> None:
        self.channel.forceAbortClient()


def parts_of(content_type: str, body: bytes) -> list[SentPart]:
    """Return the parts of a form. Raises `Refused` for what is none, or is not whole."""
    boundary = content_type.partition("boundary=")[2].encode()
    first, *parts, last = (b"\r\n" + body).split(b"\r\n--" + boundary)
    if first or last != b"--\r\n":
        raise Refused
    return [_part(part.removeprefix(b"\r\n")) for part in parts]


def _part(text: bytes) -> SentPart:
    head, _, data = text.partition(b"\r\n\r\n")
    found = _HEAD.fullmatch(head)
    if found is None:
        raise Refused
    name, filename, kind = ((group or b"").decode() for group in found.groups())
    return SentPart(name, filename, kind, data)
