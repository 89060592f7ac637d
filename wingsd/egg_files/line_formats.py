r"""Text files edited line by line: any text, ini and Java's properties.

The libraries for ini files each know one dialect. Games have many: keys above the first section,
the same section or key twice (Unreal Engine's lists), `;` and `#`, values full of quotes and
commas. All they share is sections and keys, one on a line, and no more is assumed here.

Values are written with what is not ASCII as `\uXXXX`, which Java always understands, and without
the escapes of `=`, `:`, `#` and `!`, which it does not need: servers that are not Java's read such
files too.
"""

from __future__ import annotations

import re

from javaproperties import InvalidUEscapeError, KeyValue, PropertiesElement, escape, parse

from wingsd.egg_files.changes import Change, NotDone


class LineFile:
    """Lines of text. A line that begins with `match` becomes `replace_with`.

    Where several changes match a line, the longest match counts (`port2=` over `port`), and of
    equal ones the last. `if_value` has no meaning here, as in Wings: a line has no value.
    """

    def __init__(self, source: str) -> None:
        self._found = source.split("\n")
        self._lines = list(self._found)
        self._matched = [0] * len(self._found)

    def apply(self, change: Change) -> None:
        """Replace every line that begins with `change.match`."""
        new = change.text.split("\n")
        for number, line in enumerate(self._found):
            if line.startswith(change.match) and len(change.match) >= self._matched[number]:
                self._matched[number] = len(change.match)
                # several lines that are there already must not grow with every start
                there = self._found[number : number + len(new)] == new
                self._lines[number] = line if there else change.text

    def text(self) -> str:
        """Return the lines."""
        return "\n".join(self._lines)


_HEADER = re.compile(r"\s*\[([^\]]+)\]")
_QUOTED = re.compile(r'"([^"]*)"')
_COMMENT = re.compile(r"[ \t][;#][ \t]")
#: No header, no comment, no blanks around it, and nothing that would end it.
_KEY = re.compile(r"[^\s;#\[=](?:[^=]*[^\s=])?")
#: With what is left of the line end in a file of mixed ones.
_BLANKS = " \t\r"
_LINE_BREAK = re.compile(r"[\r\n]")


class IniFile:
    """Sections and keys. A key that stands twice in its section is changed twice.

    Quotes around a value stay around the new one. A comment behind a value moves to a line of its
    own above it.
    """

    def __init__(self, source: str) -> None:
        self._lines = source.split("\n")

    def apply(self, change: Change) -> None:
        """Set `section.key`, or a key above all sections, and add what is missing.

        Raises NotDone for names and values that an ini file cannot hold.
        """
        section, key = _address(change.match)
        entry = re.compile(rf"(?P<head>\s*{re.escape(key)}\s*[=:][ \t]*)(?P<rest>.*)", re.DOTALL)
        lines, end = self._find(section, entry)
        for number in reversed(lines):
            self._change(number, entry, change)
        if not lines and (new := _one_line(change.new_text(None))) is not None:
            # With the blanks that the file has around `=`.
            entry_line = next(filter(_is_entry, self._lines), "")
            is_spaced = entry_line.partition("=")[0].endswith((" ", "\t"))
            self._add(end, section, f"{key} = {new}" if is_spaced else f"{key}={new}")

    def text(self) -> str:
        """Return the lines."""
        return "\n".join(self._lines)

    def _find(self, section: str, entry: re.Pattern[str]) -> tuple[list[int], int | None]:
        """Return the lines of a key, and where to add one in its section, None without that."""
        here, found = "", []
        end = None if section else 0
        for number, line in enumerate(self._lines):
            if header := _HEADER.match(line):
                here = header[1].strip()
            elif here == section and entry.match(line):
                found.append(number)
            if here == section and (header or _is_entry(line)):
                end = number + 1
        return found, end

    def _change(self, number: int, entry: re.Pattern[str], change: Change) -> None:
        parsed = entry.fullmatch(self._lines[number])
        if parsed is None:
            return
        rest = parsed["rest"]
        if rest == _one_line(change.text) and not change.conditional:
            return
        value, comment = _parted(rest)
        quoted = _QUOTED.fullmatch(value)
        found = quoted[1] if quoted else value
        new = _one_line(change.new_text(found))
        if new is None or new == found:
            return
        if quoted and '"' not in new:
            new = f'"{new}"'
        self._lines[number] = parsed["head"] + new
        if comment:
            self._lines.insert(number, comment)

    def _add(self, end: int | None, section: str, line: str) -> None:
        if end is not None:
            self._lines.insert(end, line)
            if end == len(self._lines) - 1:
                self._lines.append("")
            return
        while self._lines and not self._lines[-1].strip():
            self._lines.pop()
        gap = [""] if self._lines else []
        self._lines += [*gap, f"[{section}]", line, ""]


def _address(match: str) -> tuple[str, str]:
    """Return section ("" for none) and key: parted by the first dot that is not in brackets."""
    section, key, depth = "", match, 0
    for index, character in enumerate(match):
        depth += {"[": 1, "]": -1}.get(character, 0)
        if character == "." and depth <= 0:
            section, key = match[:index].replace("[", "").replace("]", ""), match[index + 1 :]
            break
    if key.startswith("[") and key.endswith("]"):
        key = key[1:-1]
    if not _KEY.fullmatch(key) or _LINE_BREAK.search(match):
        raise NotDone("an ini file cannot hold a key of that name")
    return section.strip(), key


def _is_entry(line: str) -> bool:
    text = line.lstrip()
    return "=" in text and text[0] not in ";#[="


def _parted(rest: str) -> tuple[str, str]:
    """Return a value and the comment behind it, which has a blank on either side of its sign."""
    quoted = _QUOTED.match(rest)
    found = _COMMENT.search(rest, quoted.end() if quoted else 0)
    end = found.start() if found else len(rest)
    return rest[:end].rstrip(_BLANKS), rest[end:].strip(_BLANKS)


def _one_line(value: str | None) -> str | None:
    if value is None:
        return None
    if _LINE_BREAK.search(value):
        raise NotDone("the value has a line break, which an ini file cannot hold")
    # blanks around a value have no meaning, and would grow with every start
    return value.strip(_BLANKS)


#: The library takes time by the square of how many there are in a row.
_MAX_CONTINUED = 1000
_UP_TO_VALUE = re.compile(
    r"[ \t\f]*(?:\\[^\r\n]|[^\\ \t\f=:\r\n])*(?:[ \t\f]*[=:]|[ \t\f])[ \t\f]*"
)
_ESCAPED = re.compile(r"\\(.)")
_LINE_END = re.compile(r"(?:\r\n?|\n)?\Z")
_OPEN_END = re.compile(r"(?<!\\)(?:\\\\)*\\[\r\n]*\Z")


class PropertiesFile:
    r"""Keys and values. Raises NotDone for a `\u` that no four hexadecimal digits follow."""

    def __init__(self, source: str) -> None:
        if source.count("\\\n") + source.count("\\\r") > _MAX_CONTINUED:
            raise NotDone(f"more than {_MAX_CONTINUED} of its lines are continued on the next")
        try:
            self._elements = list(parse(source))
        except InvalidUEscapeError as error:
            raise NotDone(f"it is not a properties file: {error}") from error

    def apply(self, change: Change) -> None:
        """Set the key `change.match`, wherever it stands, or add it at the end.

        Of a key that stands twice Java takes the last: that one tells if a condition holds.
        """
        found = [
            (number, element)
            for number, element in enumerate(self._elements)
            if isinstance(element, KeyValue) and element.key == change.match
        ]
        new = change.new_text(found[-1][1].value if found else None)
        if new is None:
            return
        for number, element in found:
            if element.value != new:
                self._elements[number] = _changed(element, new)
        if not found:
            self._append(change.match, new)

    def text(self) -> str:
        """Return the file's text."""
        return "".join(element.source for element in self._elements)

    def _append(self, key: str, value: str) -> None:
        if self._elements:
            last = self._elements[-1]
            if not last.source.endswith(("\n", "\r")):
                last.source += "\n"
            if not last.source.lstrip(" \t\f").startswith(("#", "!")) and _OPEN_END.search(
                last.source
            ):
                # the file ends in the middle of an entry, and the next line would belong to it
                last.source += "\n"
        self._elements.append(KeyValue(key, value, f"{escape(key)}={_escaped(value)}\n"))


def _changed(element: KeyValue, value: str) -> KeyValue:
    """Return the entry with another value, its key and separator as they were."""
    end = _LINE_END.search(element.source)
    ending = end[0] if end else ""
    head = _UP_TO_VALUE.match(element.source)
    source = f"{head[0] if head else ''}{_escaped(value)}{ending}"
    if not _reads(source, element.key, value):
        source = f"{escape(element.key)}={_escaped(value)}{ending}"
    return KeyValue(element.key, value, source)


def _reads(source: str, key: str, value: str) -> bool:
    elements: list[PropertiesElement] = list(parse(source))
    return [(kv.key, kv.value) for kv in elements if isinstance(kv, KeyValue)] == [(key, value)]


def _escaped(value: str) -> str:
    text = _ESCAPED.sub(lambda m: m[1] if m[1] in " =:#!" else m[0], escape(value))
    return "\\" + text if text.startswith(" ") else text
