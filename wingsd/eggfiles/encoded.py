"""From a file's bytes to text and back: encoding, byte order mark and line ends stay."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from contextlib import suppress

import attrs

from wingsd.eggfiles.refused import Refused

__all__ = ["Encoded", "declared_encodings", "load_encodings"]

#: Unreal Engine writes its ini files in UTF-16 as soon as they hold more than ASCII.
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_DECLARED = re.compile(rb"""\s*<\?xml[^>]*?\sencoding\s*=\s*['"]([\w.-]{1,40})['"]""")
#: Names that Python would take for something else than a plain encoding of text are left out.
_KNOWN = re.compile(r"us-ascii|iso-8859-\d+|windows-125\d|koi8-[ru]|gb\w+|big5|shift_jis|euc-\w+")


@attrs.frozen
class Encoded:
    """A file's text, its lines ended by line feeds, and how it was written as bytes."""

    text: str
    encoding: str
    mark: bytes
    crlf: bool

    @classmethod
    def decode(cls, data: bytes, encodings: Iterable[str]) -> Encoded:
        """Return the text of `data`, by its byte order mark or the first encoding that fits.

        Raises Refused where none does.
        """
        mark = next(filter(data.startswith, _MARKS), b"")
        body = data[len(mark) :]
        for encoding in [_MARKS[mark]] if mark else encodings:
            try:
                text = body.decode(encoding)
            except UnicodeDecodeError:
                continue
            crlf = "\r\n" in text and not re.search(r"(?<!\r)\n", text)
            return cls(text.replace("\r\n", "\n") if crlf else text, encoding, mark, crlf)
        raise Refused("its bytes are not text in a known encoding")

    def encode(self, text: str, errors: str = "strict") -> bytes:
        """Return other text as bytes, written as this one was.

        Raises Refused for characters that the file's encoding does not have, and for a beginning
        that would be taken for a byte order mark.
        """
        if self.crlf:
            text = text.replace("\r\n", "\n").replace("\n", "\r\n")
        try:
            body = text.encode(self.encoding, errors)
        except UnicodeEncodeError as error:
            character = ascii(error.object[error.start])
            raise Refused(f"its encoding, {self.encoding}, has no {character}") from error
        if not self.mark and body.startswith(tuple(_MARKS)):
            raise Refused("it would begin with a byte order mark, which it does not have")
        return self.mark + body


def load_encodings(data: bytes, encodings: Iterable[str]) -> None:
    """Have Python import what `Encoded.decode` needs for the same bytes."""
    for encoding in [
        *encodings,
        *(name for mark, name in _MARKS.items() if data.startswith(mark)),
    ]:
        with suppress(LookupError):
            codecs.lookup(encoding)


def declared_encodings(data: bytes) -> list[str]:
    """Return the encoding that an XML file declares, and else UTF-8.

    A declared UTF-16 without a byte order mark is a well-known slip of .NET's: it is UTF-8.
    """
    found = _DECLARED.match(data)
    name = found[1].decode("ascii").lower() if found else ""
    return [name] if _KNOWN.fullmatch(name) else ["utf-8"]
