"""Bodies of requests: JSON objects, as values. Pure."""

from __future__ import annotations

import json
from typing import TypeVar

from wingsd.errors import BadRequest, InvalidData
from wingsd.structure import structure

__all__ = ["INVALID", "parse"]

T = TypeVar("T")

# Both in the words of Wings, which a Panel shows to people.
_UNREADABLE = "The data passed in the request was not in a parsable format. Please try again."
#: Said of a body that is JSON, but does not hold what it should.
INVALID = "The data provided in the request could not be validated."


def _number(text: str) -> float:
    """Return what JSON has as a number: to it 3.0 is as whole as 3."""
    number = float(text)
    return int(number) if number.is_integer() else number


def parse(body: bytes, cls: type[T]) -> T:
    """Return the JSON object `body` as an instance of the attrs class `cls`.

    Raises `BadRequest` with what is wrong, by the paths of the keys.
    """
    try:
        data = json.loads(body, parse_float=_number)
        # JSON can spell half of a UTF-16 pair, which is no character and can be sent nowhere.
        json.dumps(data, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise BadRequest(_UNREADABLE, f"send a JSON object: {error}") from error
    try:
        return structure(data, cls)
    except InvalidData as error:
        raise BadRequest(INVALID, "; ".join(str(error).split("\n"))) from error
