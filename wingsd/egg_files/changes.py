"""Changes that an egg asks for in a file: replacements, and the values in them.

Eggs come from strangers, and what they write is read by the server's users. So not the whole
configuration is open to them, which holds the node's token: only what a server must know.

RE2 is the engine that Go's own is a port of: the same syntax, and time linear in the text, so a
value made to be slow cannot hold up the node.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
import re2

from wingsd.egg_files.values import Refused, Scalar, like, text_of

if TYPE_CHECKING:  # It takes longer to import than the parsers do.
    from wingsd.panel.schemas import Replacement
from typing import Protocol

__all__ = ["Change", "Document", "Pattern", "filled"]

_PLACEHOLDER = re.compile(r"\{\{\s*config\.([\w.-]+)\s*\}\}", re.ASCII)
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|-")
_OLD_NAMES = {"docker.interface": "docker.network.interface"}
_OPEN = ("api.host", "api.port", "docker.domainname", "docker.network", "system.timezone")


def filled(text: str, node: Mapping[str, Any]) -> str:
    """Return `text` with every `{{config.*}}` replaced from the node's configuration.

    Names may be written in camel case or with dashes. Raises Refused for what the configuration
    does not have, what is no single value, and what is nobody's business.
    """
    return _PLACEHOLDER.sub(lambda match: _found(match.group(1), node), text)


def _found(name: str, node: Mapping[str, Any]) -> str:
    path = _WORD.sub("_", name).lower()
    path = _OLD_NAMES.get(path, path)
    if not any(path == known or path.startswith(f"{known}.") for known in _OPEN):
        raise Refused(f"config.{name} is not open to eggs; these are: {', '.join(_OPEN)}")
    value: Any = node
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    text = text_of(value)
    if text is None:
        raise Refused(f"this node's configuration has no value at {path}")
    return text


_MAX_MEMORY = 8 << 20
_REFERENCE = re.compile(r"\$(?:(\$)|(\w+)|\{(\w+)\})", re.ASCII)


class Pattern:
    """The regular expression `text`. Raises Refused where it is not one."""

    def __init__(self, text: str) -> None:
        self.text = text
        options = re2.Options()
        options.log_errors = False
        options.max_mem = _MAX_MEMORY
        try:
            self._compiled: Any = re2.compile(text, options)
        except re2.error as error:
            why = error.args[0] if error.args else ""
            why = why.decode(errors="replace") if isinstance(why, bytes) else str(why)
            raise Refused(f"if_value is no regular expression: {why}") from error

    def substituted(self, template: str, text: str) -> str | None:
        """Return `text` with every match replaced by `template`; None where nothing matches.

        As Go's ReplaceAllString: `$1`, `$name` and `${name}` are groups (empty where there is no
        such group), `$$` is a dollar, and an empty match right behind another one does not count.
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
    def of(cls, replacement: Replacement, node: Mapping[str, Any]) -> Change:
        """Return the change that the egg asks for, `{{config.*}}` filled in from `node`.

        Raises Refused for a value that is no scalar, a key the node does not have, and a regular
        expression that is none.
        """
        value = replacement.replace_with
        if isinstance(value, str):
            value = filled(value, node)
        elif value is None:
            value = ""
        elif not isinstance(value, int | float):
            raise Refused("replace_with must be a text, a number, true or false")
        if not replacement.match:
            raise Refused("match is empty")
        condition = replacement.if_value
        if condition.startswith(_REGEX):
            pattern = Pattern(condition.removeprefix(_REGEX))
            return cls(replacement.match, value, pattern=pattern)
        return cls(replacement.match, value, if_value=condition)

    @property
    def conditional(self) -> bool:
        """Whether the change is only for a place that exists and holds what it should."""
        return bool(self.if_value) or self.pattern is not None

    def outcome(self, found: object) -> Scalar | None:
        """Return what belongs in the place of `found`, in its type; None to leave it.

        `found` is None where there is nothing, and anything else but a scalar where there is more
        than a single value; a condition is never true for these two.
        """
        if not self.conditional:
            return like(self.value, found)
        text = text_of(found)
        if text is None:
            return None
        if self.pattern is None:
            return like(self.value, found) if text == self.if_value else None
        new = self.pattern.substituted(self.text, text)
        return None if new is None else like(new, found)

    def text_outcome(self, found: str | None) -> str | None:
        """Return what `outcome` does, for forms that know nothing but text."""
        new = self.outcome(found)
        return None if new is None else text_of(new)

    @property
    def text(self) -> str:
        """The value as text."""
        return text_of(self.value) or ""


class Document(Protocol):
    """A file's text, opened. What opens it raises Refused for text that is not of its form."""

    def apply(self, change: Change) -> None:
        """Make one change. Raises Refused where it cannot be made; others can be all the same."""

    def text(self) -> str:
        """Return the text as it is now: the very same where nothing was changed."""
