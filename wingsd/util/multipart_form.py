"""The body of a form, multipart/form-data, divided into its parts as it arrives.

RFC 2046, section 5.1.1. Pure: bytes in, bytes out; nothing is stored.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Protocol, TypeAlias

from multipart import (
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
    parse_options_header,
)

_LINE_END = b"\r\n"
_HEADERS_END = b"\r\n\r\n"
#: What comes after the last boundary; after any other it is the end of the line.
_LAST = b"--"
_FORM = "multipart/form-data"
#: RFC 2046, section 5.1.1, allows 70 characters. Some senders are more generous.
_LONGEST_BOUNDARY = 200

#: The beginning of a part, bytes of it, or None at its end.
FormEvent: TypeAlias = MultipartSegment | bytes | None


class FormBounds(Protocol):
    """The bounds of a form."""

    @property
    def parts(self) -> int:
        """The most parts."""

    @property
    def headers(self) -> int:
        """The most headers of one part."""

    @property
    def header_bytes(self) -> int:
        """The most bytes of one header."""


class FormParts:
    """Divides a body into its parts, in whatever pieces it arrives.

    What is before the first boundary and after the last one is skipped. The headers of a part are
    parsed by the library; its content is passed on without a copy, which in the library takes
    three (as of the versions of older systems).
    """

    def __init__(self, boundary: str, bounds: FormBounds, keys: str = "") -> None:
        """`keys` names the section of the configuration that has the bounds, if one has."""
        self._delimiter = b"\r\n--" + boundary.encode()
        self._bounds = bounds
        self._keys = keys
        self._count = 0
        self._part: MultipartSegment | None = None
        #: Bytes of the part so far.
        self._size = 0
        self._in_headers = False
        #: What the next piece has to be seen with. The first boundary may be at the very start.
        self._held = _LINE_END
        #: Whether the last boundary has come.
        self.is_complete = False

    def parse(self, piece: bytes) -> Iterator[FormEvent]:
        """Take a piece of the body; yield each part, then its bytes, and None at its end.

        Raises MultipartError for what is not a form, and for one that is beyond the bounds.
        """
        data = self._held + piece if self._held else piece
        self._held = b""
        at = 0
        while at < len(data) and not self.is_complete:
            read = self._read_headers if self._in_headers else self._read_content
            at = yield from read(data, at)

    def _read_headers(self, data: bytes, start: int) -> Generator[FormEvent, None, int]:
        """Return where the part begins, and where `data` ends if its headers do not."""
        end = data.find(_HEADERS_END, start) + len(_HEADERS_END)
        if end < len(_HEADERS_END):
            self._held = self._bounded(data[start:])
            return len(data)
        yield self._begin(self._bounded(data[start:end]))
        return end

    def _read_content(self, data: bytes, start: int) -> Generator[FormEvent, None, int]:
        """Return where the next part's headers begin, and where `data` ends if the part does not.

        They begin with the end of the boundary's line: a part without headers has no other.
        """
        end, follows = self._end_of_content(data, start)
        if self._part is not None and end > start:
            self._size += end - start
            yield data[start:end]  # all of a piece is the piece itself, and not a copy
        if not follows:
            self._held = data[end:]
            return len(data)
        if self._part is not None:
            self._end(self._part)
            yield None
        self._in_headers = follows == _LINE_END
        self.is_complete = not self._in_headers
        return end + len(self._delimiter)

    def _end_of_content(self, data: bytes, start: int) -> tuple[int, bytes]:
        """Return where content ends, and what follows the boundary there: nothing without one.

        From there on it may be a boundary, which shows only with the next piece: a longer line is
        not one.
        """
        delimiter = self._delimiter
        at = data.find(delimiter, start)
        while at >= 0:
            after = at + len(delimiter)
            follows = data[after : after + 2]
            if follows in (_LINE_END, _LAST):
                return at, follows
            if len(follows) < len(_LAST):
                return at, b""
            at = data.find(delimiter, after)
        at = data.rfind(b"\r", max(start, len(data) - len(delimiter)))
        return (at if at >= 0 and delimiter.startswith(data[at:]) else len(data)), b""

    def _bounded(self, headers: bytes) -> bytes:
        """Return a part's headers, all or those so far, where they are within the bounds."""
        most, longest = self._bounds.headers, self._bounds.header_bytes
        if max(map(len, headers.split(_LINE_END))) > longest:
            raise MultipartError(
                f"a header is longer than {self._allowed(longest, 'bytes', 'header_bytes')}"
            )
        if len(headers) > most * (longest + len(_LINE_END)) + len(_HEADERS_END):
            raise MultipartError(
                f"a part has more than {self._allowed(most, 'headers', 'headers')}"
            )
        return headers

    def _allowed(self, most: int, what: str, key: str) -> str:
        """Return a bound for an error."""
        return (
            f"the {most} {what} that {self._keys}.{key} allows" if self._keys else f"{most} {what}"
        )

    def _begin(self, headers: bytes) -> MultipartSegment:
        self._count += 1
        if self._count > self._bounds.parts:
            raise MultipartError(
                f"it has more than {self._allowed(self._bounds.parts, 'parts', 'parts')}"
            )
        parser = PushMultipartParser(
            "-",
            max_header_count=self._bounds.headers,
            max_header_size=self._bounds.header_bytes,
        )
        part: MultipartSegment = next(parser.parse(b"---" + headers))
        self._part, self._size, self._in_headers = part, 0, False
        return part

    def _end(self, part: MultipartSegment) -> None:
        length = part.header("Content-Length", "")
        if length.isdecimal() and int(length) != self._size:
            raise MultipartError(f"a part has {self._size} bytes and says that it has {length}")
        self._part = None


def form_boundary(content_type: str) -> str:
    """Return the boundary in a form's Content-Type. Raises MultipartError for anything else."""
    kind, options = parse_options_header(content_type)
    if kind.lower() != _FORM:
        raise MultipartError(f"send {_FORM}, not {kind or 'nothing'}")
    boundary = str(options.get("boundary", ""))
    if not 0 < len(boundary) <= _LONGEST_BOUNDARY or "\n" in boundary or "\r" in boundary:
        raise MultipartError("the header Content-Type must name a boundary")
    return boundary
