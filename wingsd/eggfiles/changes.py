"""What is to be changed in a file: the egg's replacement, made ready, and whether it applies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from wingsd.eggfiles.lookups import filled
from wingsd.eggfiles.refused import Refused
from wingsd.eggfiles.scalars import Scalar, like, text_of
from wingsd.eggfiles.substitution import Pattern

if TYPE_CHECKING:  # It takes longer to import than the parsers do.
    from wingsd.model import Replacement

__all__ = ["Change"]

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
