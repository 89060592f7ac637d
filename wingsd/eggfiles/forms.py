"""The forms of files by the names that eggs call their parsers: bytes in, changes, bytes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import attrs

from wingsd.archive.policy import display
from wingsd.eggfiles.changes import Change
from wingsd.eggfiles.document import Document
from wingsd.eggfiles.encoded import Encoded, declared_encodings
from wingsd.eggfiles.ini_file import IniFile
from wingsd.eggfiles.json_file import JsonFile
from wingsd.eggfiles.line_file import LineFile
from wingsd.eggfiles.properties_file import PropertiesFile
from wingsd.eggfiles.refused import Refused
from wingsd.eggfiles.toml_file import TomlFile
from wingsd.eggfiles.xml_file import XmlFile
from wingsd.eggfiles.yaml_file import YamlFile

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
    """How files of one kind are read and written. `limit` is the largest one taken, in bytes."""

    open: Callable[[str], Document]
    encodings: Callable[[bytes], Iterable[str]] = _utf8
    limit: int = _LARGE
    #: What is done with characters that the file's encoding does not have.
    errors: str = "strict"

    def rewrite(self, data: bytes, changes: Sequence[Change]) -> Rewritten:
        """Return `data` with the changes made.

        Raises Refused where the file as a whole cannot be read or written.
        """
        encoded = Encoded.decode(data, self.encodings(data))
        try:
            document = self.open(encoded.text)
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
        return Rewritten(encoded.encode(text, self.errors), faults)


#: Its library takes a hundred times as long as the others.
_YAML = Form(YamlFile, limit=_TINY)
_FORMS = {
    "file": Form(LineFile, _any),
    "ini": Form(IniFile, _any, _SMALL),
    "json": Form(JsonFile),
    "properties": Form(PropertiesFile, _any, _SMALL),
    "toml": Form(TomlFile, limit=_SMALL),
    "xml": Form(XmlFile, declared_encodings, errors="xmlcharrefreplace"),
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
