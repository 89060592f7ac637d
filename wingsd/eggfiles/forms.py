"""The forms of files by the names that eggs call their parsers: bytes in, changes, bytes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib import import_module

import attrs

from wingsd.eggfiles.changes import Change
from wingsd.eggfiles.document import Document
from wingsd.eggfiles.encoded import Encoded, declared_encodings, load_encodings
from wingsd.eggfiles.refused import Refused
from wingsd.quoting import display

__all__ = ["Form", "Rewritten", "form_of", "shown"]

_MIB = 1 << 20
_SMALL = 1 * _MIB
_TINY = _MIB // 4
_LARGE = 10 * _MIB


def _utf8(data: bytes) -> Iterable[str]:
    return ["utf-8"]


def _any(data: bytes) -> Iterable[str]:
    # every byte is a character of Latin-1, so what is not touched comes back as it was
    return ["utf-8", "latin-1"]


@attrs.frozen
class Rewritten:
    """A file's new bytes, and one line for each change that could not be made."""

    data: bytes
    faults: list[str]


@attrs.frozen
class Form:
    """How files of one kind are read and written.

    `document` is the module and class that open a text. `limit` is the size of the largest file
    that is read or written, in bytes.
    """

    document: str
    encodings: Callable[[bytes], Iterable[str]] = _utf8
    limit: int = _LARGE
    #: What is done with characters that the file's encoding does not have.
    errors: str = "strict"
    #: A file with all for which the library imports modules only when it meets it.
    sample: bytes = b""

    def load(self, data: bytes) -> None:
        """Import all that rewriting `data` will need; of `data` only the encoding is read."""
        load_encodings(data, self.encodings(data))
        self.rewrite(self.sample, [Change("c.d", "e")])

    def rewrite(self, data: bytes, changes: Sequence[Change]) -> Rewritten:
        """Return `data` with the changes made.

        Raises Refused where the file as a whole cannot be read or written.
        """
        encoded = Encoded.decode(data, self.encodings(data))
        module, _, name = self.document.partition(":")
        opened: Callable[[str], Document]
        opened = getattr(import_module(f"wingsd.eggfiles.{module}"), name)
        try:
            document = opened(encoded.text)
            faults = []
            for change in changes:
                try:
                    document.apply(change)
                except Refused as error:
                    faults.append(f"{shown(change.match)}: {error}")
            text = document.text()
        except RecursionError as error:
            raise Refused("it is nested too deeply") from error
        if text == encoded.text:
            return Rewritten(data, faults)
        new = encoded.encode(text, self.errors)
        if len(new) > self.limit:
            raise Refused(f"it would become larger than {self.limit >> 10} KiB")
        return Rewritten(new, faults)


#: Its library takes a hundred times as long as the others.
_YAML = Form("yaml_file:YamlFile", limit=_TINY, sample=b"a: &a {b: !!binary YQ==}\nc:\n  <<: *a\n")
_FORMS = {
    "file": Form("line_file:LineFile", _any),
    "ini": Form("ini_file:IniFile", _any, _SMALL),
    "json": Form("json_file:JsonFile"),
    "properties": Form("properties_file:PropertiesFile", _any, _SMALL),
    "toml": Form("toml_file:TomlFile", limit=_SMALL),
    "xml": Form("xml_file:XmlFile", declared_encodings, errors="xmlcharrefreplace"),
    "yaml": _YAML,
    "yml": _YAML,
}


def form_of(parser: str) -> Form:
    """Return the form for an egg's parser. Raises Refused where there is no such parser."""
    try:
        return _FORMS[parser]
    except KeyError:
        known = ", ".join(_FORMS)
        raise Refused(f"there is no parser {shown(parser)}; these are: {known}") from None


def shown(text: str) -> str:
    """Return a name from outside in quotes, safe to show on one line."""
    return display(text.encode("utf-8", "backslashreplace"))
