"""The process that parses one egg file: the request on its stdin, the answer on its stdout.

A request is a line of JSON, with the parser and the changes, and then the file's bytes. An answer
is a line of JSON and, where the file has changed, its new bytes. The answer comes from a process
that has read hostile bytes: all of it is checked.

It is started by `wingsd.egg_files.process`. Before it reads the file it limits its own time and
memory. Before it parses the file it drops its privileges, and the right to open files and
connections and to start processes.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, Protocol

import attrs

from wingsd.egg_files.changes import Change, NotDone, Pattern, quoted
from wingsd.sandbox.confinement import confine, limit_resources

#: Unreal Engine writes its ini files in UTF-16 as soon as they hold more than ASCII.
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_DECLARED = re.compile(rb"""\s*<\?xml[^>]*?\sencoding\s*=\s*['"]([\w.-]{1,40})['"]""")
#: Only encodings of text: Python knows codecs of other kinds.
_KNOWN = re.compile(r"us-ascii|iso-8859-\d+|windows-125\d|koi8-[ru]|gb\w+|big5|shift_jis|euc-\w+")


@attrs.frozen(repr=False)
class EncodedText:
    """A file's text, its lines ended by line feeds, and how it was written as bytes."""

    text: str
    encoding: str
    mark: bytes
    crlf: bool

    @classmethod
    def decode(cls, data: bytes, encodings: Iterable[str]) -> EncodedText:
        """Return the text of `data`, by its byte order mark or the first encoding that fits.

        Raises NotDone where none does.
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
        raise NotDone("its bytes are not text in a known encoding")

    def encode(self, text: str, errors: str = "strict") -> bytes:
        """Return other text as bytes, written as this one was.

        Raises NotDone for characters that the file's encoding does not have, and for a beginning
        that would be read as a byte order mark.
        """
        if self.crlf:
            text = text.replace("\r\n", "\n").replace("\n", "\r\n")
        try:
            body = text.encode(self.encoding, errors)
        except UnicodeEncodeError as error:
            character = ascii(error.object[error.start])
            raise NotDone(f"its encoding, {self.encoding}, has no {character}") from error
        if not self.mark and body.startswith(tuple(_MARKS)):
            raise NotDone("it would begin with a byte order mark, which it does not have")
        return self.mark + body


def declared_encodings(data: bytes) -> list[str]:
    """Return the encoding that an XML file declares, and else UTF-8.

    A declared UTF-16 without a byte order mark, common with .NET, is in fact UTF-8.
    """
    found = _DECLARED.match(data)
    name = found[1].decode("ascii").lower() if found else ""
    return [name] if _KNOWN.fullmatch(name) else ["utf-8"]


_MIB = 1 << 20
_SMALL = 1 * _MIB
_TINY = _MIB // 4
_LARGE = 10 * _MIB


def _utf8(data: bytes) -> Iterable[str]:
    return ["utf-8"]


def _any(data: bytes) -> Iterable[str]:
    # Every byte is a character of Latin-1, so that unchanged text keeps its bytes.
    return ["utf-8", "latin-1"]


class Document(Protocol):
    """The parsed text of a file. Its constructor raises NotDone for text of another format."""

    def apply(self, change: Change) -> None:
        """Make one change. Raises NotDone where that is impossible; others can still be made."""

    def text(self) -> str:
        """Return the text, unchanged if no value was changed."""


@attrs.frozen(repr=False)
class Rewritten:
    """A file's new bytes, and one line for each change that could not be made."""

    data: bytes
    failures: list[str]


@attrs.frozen(eq=False, repr=False)
class FileFormat:
    """The way in which files of one kind are read and written.

    `document` is the module and class that open a text. `limit` is the size of the largest file
    that is read or written, in bytes.
    """

    document: str
    encodings: Callable[[bytes], Iterable[str]] = _utf8
    limit: int = _LARGE
    #: The error handler for characters that the file's encoding lacks.
    errors: str = "strict"
    #: A file with everything that the library imports modules for on demand.
    sample: bytes = b""

    def load(self, data: bytes) -> None:
        """Import all modules for rewriting `data`; of `data` only the encoding is read."""
        # The codecs that `EncodedText.decode` needs for the same bytes.
        marked = (name for mark, name in _MARKS.items() if data.startswith(mark))
        for encoding in [*self.encodings(data), *marked]:
            with suppress(LookupError):
                codecs.lookup(encoding)
        self.rewrite(self.sample, [Change("c.d", "e")])

    def rewrite(self, data: bytes, changes: Sequence[Change]) -> Rewritten:
        """Return `data` with the changes made.

        Raises NotDone where the file as a whole cannot be read or written.
        """
        encoded = EncodedText.decode(data, self.encodings(data))
        module, _, name = self.document.partition(":")
        opened: Callable[[str], Document]
        opened = getattr(import_module(f"wingsd.egg_files.{module}"), name)
        try:
            document = opened(encoded.text)
            failures = []
            for change in changes:
                try:
                    document.apply(change)
                except NotDone as error:
                    failures.append(f"{quoted(change.match)}: {error}")
            text = document.text()
        except RecursionError as error:
            raise NotDone("it is nested too deeply") from error
        if text == encoded.text:
            return Rewritten(data, failures)
        new = encoded.encode(text, self.errors)
        if len(new) > self.limit:
            raise NotDone(f"it would become larger than {self.limit >> 10} KiB")
        return Rewritten(new, failures)


#: Its library is a hundred times slower than the others.
_YAML = FileFormat(
    "yaml_format:YamlFile", limit=_TINY, sample=b"a: &a {b: !!binary YQ==}\nc:\n  <<: *a\n"
)
_FORMATS = {
    "file": FileFormat("line_formats:LineFile", _any),
    "ini": FileFormat("line_formats:IniFile", _any, _SMALL),
    "json": FileFormat("nested_formats:JsonFile"),
    "properties": FileFormat("line_formats:PropertiesFile", _any, _SMALL),
    "toml": FileFormat("toml_format:TomlFile", limit=_SMALL),
    "xml": FileFormat("xml_format:XmlFile", declared_encodings, errors="xmlcharrefreplace"),
    "yaml": _YAML,
    "yml": _YAML,
}


def format_of(parser: str) -> FileFormat:
    """Return the format for an egg's parser. Raises NotDone where there is no such parser."""
    try:
        return _FORMATS[parser]
    except KeyError:
        known = ", ".join(_FORMATS)
        raise NotDone(f"there is no parser {quoted(parser)}; these are: {known}") from None


#: Bytes of an answer's line of JSON.
MAX_HEADER = 1 << 20
#: Characters of a message; it is cut further where it is shown.
_MAX_TEXT = 1000


@attrs.frozen(repr=False)
class RewriteRequest:
    """A file's bytes, the name of its parser, and the changes."""

    parser: str
    data: bytes
    changes: Sequence[Change]

    def encode(self) -> bytes:
        """Return the request as bytes."""
        changes = [
            [change.match, change.value, change.if_value, change.pattern and change.pattern.text]
            for change in self.changes
        ]
        return _message({"parser": self.parser, "changes": changes}, self.data)

    @classmethod
    def decode(cls, message: bytes) -> RewriteRequest:
        """Return the request that the daemon sent."""
        header, _, data = message.partition(b"\n")
        found = json.loads(header)
        changes = [
            Change(match, value, if_value, None if pattern is None else Pattern(pattern))
            for match, value, if_value, pattern in found["changes"]
        ]
        return cls(found["parser"], data, changes)


@attrs.frozen(repr=False)
class RewriteAnswer:
    """The result for a file: `rewritten`, or else the reason why it is `refused`.

    `cpu_seconds` is the CPU time of the process.
    """

    cpu_seconds: float
    rewritten: Rewritten | None = None
    refused: str = ""

    def encode(self, request: RewriteRequest) -> bytes:
        """Return the answer to `request` as bytes. Unchanged bytes are not sent back."""
        header: dict[str, Any] = {"cpu_seconds": self.cpu_seconds}
        if self.rewritten is None:
            return _message({**header, "refused": self.refused[:_MAX_TEXT]}, b"")
        changed = self.rewritten.data != request.data
        failures = [failure[:_MAX_TEXT] for failure in self.rewritten.failures]
        header |= {"changed": changed, "failures": failures}
        return _message(header, self.rewritten.data if changed else b"")

    @classmethod
    def decode(cls, message: bytes, request: RewriteRequest, limit: int) -> RewriteAnswer:
        """Return the answer to `request`; new bytes are at most `limit`.

        Raises NotDone for bytes that are not an answer.
        """
        header, _, data = message[:MAX_HEADER].partition(b"\n")
        data = message[len(header) + 1 :]
        try:
            found = json.loads(header)
        except (ValueError, RecursionError):
            found = None
        match found:
            case {"cpu_seconds": float(used), "refused": str(why), **rest} if not (rest or data):
                return cls(used, refused=why)
            case {
                "cpu_seconds": float(used),
                "changed": bool(changed),
                "failures": list(failures),
            } if (
                len(found) == 3  # noqa: PLR2004
                and len(failures) <= len(request.changes)
                and all(isinstance(failure, str) for failure in failures)
                and len(data) <= (limit if changed else 0)
            ):
                return cls(used, Rewritten(data if changed else request.data, failures))
        raise NotDone("the process that parsed it sent an invalid answer")


def _message(header: dict[str, Any], body: bytes) -> bytes:
    return b"%s\n%s" % (json.dumps(header).encode("ascii"), body)


def main(cpu_seconds: int, memory: int) -> None:
    """Answer the request on stdin, with so many seconds of CPU time and bytes of memory."""
    limit_resources(cpu_seconds, memory)
    try:
        answer = _answer(RewriteRequest.decode(sys.stdin.buffer.read()))
    except MemoryError:
        why = f"its parser needs more than {memory >> 20} MiB of memory"
        answer = RewriteAnswer(time.process_time(), refused=why).encode(
            RewriteRequest("", b"", [])
        )
    with open(sys.stdout.fileno(), "wb", closefd=False) as out:
        out.write(answer)
    # Skips freeing a large document piece by piece.
    os._exit(0)


def _answer(request: RewriteRequest) -> bytes:
    try:
        form = format_of(request.parser)
        form.load(request.data)
        confine()
        rewritten = form.rewrite(request.data, request.changes)
    except NotDone as error:
        return RewriteAnswer(time.process_time(), refused=str(error)).encode(request)
    except MemoryError:
        raise
    except Exception as error:
        # The libraries may raise anything for hostile files.
        what = f"{type(error).__name__}: {error}"
        why = f"its parser, {quoted(request.parser)}, failed: {what}"
        return RewriteAnswer(time.process_time(), refused=why).encode(request)
    return RewriteAnswer(time.process_time(), rewritten).encode(request)
