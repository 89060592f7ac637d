"""The names that failures are counted by: those of their classes, and no others. Pure."""

from __future__ import annotations

import re

from wingsd import errors
from wingsd.errors import WingsdError

__all__ = ["REASONS", "UNFORESEEN", "reason"]

#: What has no class in the tree of errors.
UNFORESEEN = "unforeseen"


def _name(error: type[WingsdError]) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", error.__name__).lower()


_TREE = [getattr(errors, name) for name in errors.__all__]
_NAMES = {error: _name(error) for error in _TREE if issubclass(error, WingsdError)}
# What is of no kind but that is somebody's mistake.
_NAMES[WingsdError] = UNFORESEEN
#: All of them.
REASONS = tuple(sorted(_NAMES.values()))


def reason(error: BaseException) -> str:
    """Return the name that the error is counted by."""
    kinds = type(error).__mro__
    return next((_NAMES[kind] for kind in kinds if kind in _NAMES), UNFORESEEN)
