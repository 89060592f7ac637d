"""The body of every answer with an error."""

from __future__ import annotations

from typing import Annotated

import attrs

from wingsd.errors import WingsdError, error_codes
from wingsd.util.serialization import Keywords

__all__ = ["Error"]


@attrs.frozen(eq=False, repr=False)
class Error:
    """The body of every answer to a request that is refused or fails."""

    error: Annotated[str, "What went wrong.", Keywords(minLength=1)]
    code: Annotated[
        str,
        "The kind of error. Codes stay the same across versions; messages may change.",
        Keywords(enum=error_codes()),
    ]
    request_id: Annotated[str, "The `X-Request-Id` of the answer.", Keywords(format="uuid")]
    detail: Annotated[str, "What to do, where that is not plain.", Keywords(minLength=1)] = ""
    offset: Annotated[int | None, "With `move-offset-wrong`: where to go on."] = None

    @classmethod
    def of(cls, error: WingsdError, request_id: str) -> Error:
        """Return the body that answers a request with `error`."""
        offset = getattr(error, "offset", None)
        return cls(error.message, error.code, request_id, error.detail, offset)
