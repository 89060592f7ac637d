r"""Changes that an egg asks for in a file: paths to values, the values, and their conditions.

Eggs come from strangers, and the server's users read what they write. So an egg may use only a
few keys of the node's configuration, which holds the node's token.

A dot that belongs to a name is written `\.` or `~1` (and `~` is `~0`): both are found in eggs,
after the libraries that Wings' two families use.

RE2 is the engine that Go's own is a port of: the same syntax, and time linear in the text, so an
expression made to be slow cannot block the node.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

import attrs

from wingsd.util.text import display

if TYPE_CHECKING:  # It takes longer to import than the parsers do.
    from wingsd.panel.schemas import Replacement


class NotDone(Exception):
    """A replacement or a file cannot be done; the text is the reason for people."""


def quoted(text: object) -> str:
    """Return an external name in quotes, safe to show on one line."""
    return display(str(text).encode("utf-8", "backslashreplace"))


class _All(Enum):
    ALL = "*"


ALL: Final = _All.ALL
"""The step to every child of a map or list."""

Step = str | int | _All
"""A key, an index, or ALL."""

_DOT = re.compile(r"(?<!\\)\.")
_PART = re.compile(r"(?P<name>.*?)(?P<indexes>(?:\[[0-9]{1,6}\])*)", re.ASCII | re.DOTALL)


def parse_path(match: str) -> list[Step]:
    """Return the steps of a path. Raises NotDone where one of them is empty."""
    found: list[Step] = []
    for part in _DOT.split(match):
        parsed = _PART.fullmatch(part)
        if not part or parsed is None:
            raise NotDone("the path has an empty part between two dots")
        if name := parsed["name"]:
            plain = name.replace("\\.", ".").replace("~1", ".").replace("~0", "~")
            found.append(ALL if name == "*" else plain)
        found += [int(index) for index in re.findall("[0-9]+", parsed["indexes"])]
    return found


Scalar = str | bool | int | float

_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]{0,18})", re.ASCII)
_NUMBER = re.compile(
    r"-?(?:0|[1-9][0-9]{0,18})(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,3})?", re.ASCII
)
_INT64 = range(-(2**63), 2**63)
#: What Go's strconv.ParseBool takes, which is what eggs were tried with.
_BOOLEANS = {
    **dict.fromkeys(("1", "t", "T", "true", "True", "TRUE"), True),
    **dict.fromkeys(("0", "f", "F", "false", "False", "FALSE"), False),
}


def scalar_text(value: object) -> str | None:
    """Return a scalar as JSON text; None for anything else."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int | float):
        return repr(value)
    return None


def convert_like(value: Scalar, found: object) -> Scalar:
    """Return `value` with the type of `found`, the value in the file (None: there is none).

    The Panel fills placeholders in as text, so "25565" has to become a number where the file has
    one, and where it has nothing yet; a text stays a text, be it a password of digits. A value
    that was no text in the egg keeps its type.
    """
    if not isinstance(value, str):
        return value
    if isinstance(found, bool):
        return _BOOLEANS.get(value, value)
    if isinstance(found, float):
        return _float(value)
    if isinstance(found, int):
        whole = _whole(value)
        return _float(value) if whole == value else whole
    return value if isinstance(found, str) else _whole(value)


def _whole(text: str) -> str | int:
    if _WHOLE.fullmatch(text) and int(text) in _INT64:
        return int(text)
    return text


def _float(text: str) -> str | float:
    if _NUMBER.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return text


_PLACEHOLDER = re.compile(r"\{\{\s*config\.([\w.-]+)\s*\}\}", re.ASCII)
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|-")
_OLD_NAMES = {"docker.interface": "docker.network.interface"}
_READABLE = ("api.host", "api.port", "docker.domainname", "docker.network", "system.timezone")


def fill_placeholders(text: str, node: Mapping[str, Any]) -> str:
    """Return `text` with every `{{config.*}}` replaced from the node's configuration.

    Names may be written in camel case or with dashes. Raises NotDone for what the configuration
    does not have, what is not a single value, and keys that eggs must not read.
    """
    return _PLACEHOLDER.sub(lambda match: _found(match.group(1), node), text)


def _found(name: str, node: Mapping[str, Any]) -> str:
    path = _WORD.sub("_", name).lower()
    path = _OLD_NAMES.get(path, path)
    if not any(path == known or path.startswith(f"{known}.") for known in _READABLE):
        raise NotDone(f"config.{name} cannot be read by eggs; allowed are: {', '.join(_READABLE)}")
    value: Any = node
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    text = scalar_text(value)
    if text is None:
        raise NotDone(f"this node's configuration has no value at {path}")
    return text


_MAX_MEMORY = 8 << 20
_REFERENCE = re.compile(r"\$(?:(\$)|(\w+)|\{(\w+)\})", re.ASCII)


def compiled(expression: str) -> Any:
    """Return an expression of an egg, compiled by RE2. Raises `ValueError`."""
    import re2  # noqa: PLC0415 (2 MiB, which few eggs need)

    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_MEMORY
    try:
        return re2.compile(expression, options)
    except re2.error as error:
        why = error.args[0] if error.args else ""
        raise ValueError(
            why.decode(errors="replace") if isinstance(why, bytes) else why
        ) from error


class Pattern:
    """The regular expression `text`. Raises NotDone where it is not one."""

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._compiled = compiled(text)
        except ValueError as error:
            raise NotDone(f"if_value is not a regular expression: {error}") from error

    def substituted(self, template: str, text: str) -> str | None:
        """Return `text` with every match replaced by `template`; None where nothing matches.

        As Go's ReplaceAllString: `$1`, `$name` and `${name}` are groups (empty where there is no
        such group), `$$` is a dollar, and an empty match right behind another does not count.
        """
        pieces: list[str] = []
        end = -1
        for match in self._compiled.finditer(text):
            if match.start() == match.end() == end:
                continue
            pieces += text[max(end, 0) : match.start()], _expanded(template, match)
            end = match.end()
        return None if end < 0 else "".join([*pieces, text[end:]])


def _expanded(template: str, match: Any) -> str:
    def group(reference: re.Match[str]) -> str:
        dollar, bare, braced = reference.groups()
        if dollar:
            return "$"
        name = bare or braced
        try:
            return match.group(int(name) if name.isdigit() else name) or ""
        except (IndexError, KeyError):
            return ""

    return _REFERENCE.sub(group, template)


_REGEX = "regex:"


@attrs.frozen
class Change:
    """One replacement: where (`match`), what (`value`), and on which condition.

    With `if_value` the place must exist and hold that text. With `pattern` it must hold a match of
    it; then only what matches is replaced, with groups in Go's words (`$1`, `${name}`).
    """

    match: str
    value: Scalar
    if_value: str = ""
    pattern: Pattern | None = None

    @classmethod
    def from_replacement(cls, replacement: Replacement, node: Mapping[str, Any]) -> Change:
        """Return the change that the egg asks for, `{{config.*}}` filled in from `node`.

        Raises NotDone for a value that is no scalar, a key the node does not have, and a regular
        invalid regular expression.
        """
        value = replacement.replace_with
        if isinstance(value, str):
            value = fill_placeholders(value, node)
        elif value is None:
            value = ""
        elif not isinstance(value, int | float):
            raise NotDone("replace_with must be a text, a number, true or false")
        if not replacement.match:
            raise NotDone("match is empty")
        condition = replacement.if_value
        if condition.startswith(_REGEX):
            pattern = Pattern(condition.removeprefix(_REGEX))
            return cls(replacement.match, value, pattern=pattern)
        return cls(replacement.match, value, if_value=condition)

    @property
    def conditional(self) -> bool:
        """True if the change has a condition on the present value."""
        return bool(self.if_value) or self.pattern is not None

    def new_value(self, found: object) -> Scalar | None:
        """Return the value to replace `found`, in its type; None to keep it.

        `found` is None where there is no value, and not a scalar for a map or list; a condition is
        never true for these two.
        """
        if not self.conditional:
            return convert_like(self.value, found)
        text = scalar_text(found)
        if text is None:
            return None
        if self.pattern is None:
            return convert_like(self.value, found) if text == self.if_value else None
        new = self.pattern.substituted(self.text, text)
        return None if new is None else convert_like(new, found)

    def new_text(self, found: str | None) -> str | None:
        """Return what `new_value` does, for formats that have only text."""
        new = self.new_value(found)
        return None if new is None else scalar_text(new)

    @property
    def text(self) -> str:
        """The value as text."""
        return scalar_text(self.value) or ""
