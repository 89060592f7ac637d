"""What the daemon and the process that parses an egg file send each other.

A request is a line of JSON, with the parser and the changes, and then the file's bytes. An answer
is a line of JSON and, where the file has changed, its new bytes. The answer comes from a process
that has read hostile bytes: all of it is checked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import attrs

from wingsd.eggfiles.changes import Change
from wingsd.eggfiles.forms import Rewritten
from wingsd.eggfiles.refused import Refused
from wingsd.eggfiles.substitution import Pattern

__all__ = ["MAX_HEADER", "RewriteAnswer", "RewriteRequest"]

#: Bytes of an answer's line of JSON.
MAX_HEADER = 1 << 20
#: Characters of a text for people; it is cut further where it is shown.
_MAX_TEXT = 1000


@attrs.frozen
class RewriteRequest:
    """A file's bytes, the name of its parser, and what is to be changed."""

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


@attrs.frozen
class RewriteAnswer:
    """What became of the file: `rewritten`, or else the reason why it is `refused`.

    `cpu_seconds` is what its process has used.
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
        faults = [fault[:_MAX_TEXT] for fault in self.rewritten.faults]
        header |= {"changed": changed, "faults": faults}
        return _message(header, self.rewritten.data if changed else b"")

    @classmethod
    def decode(cls, message: bytes, request: RewriteRequest, limit: int) -> RewriteAnswer:
        """Return the answer to `request`; new bytes are at most `limit`.

        Raises Refused for bytes that are not an answer.
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
                "faults": list(faults),
            } if (
                len(found) == 3  # noqa: PLR2004
                and len(faults) <= len(request.changes)
                and all(isinstance(fault, str) for fault in faults)
                and len(data) <= (limit if changed else 0)
            ):
                return cls(used, Rewritten(data if changed else request.data, faults))
        raise Refused("the process that parsed it sent an invalid answer")


def _message(header: dict[str, Any], body: bytes) -> bytes:
    return b"%s\n%s" % (json.dumps(header).encode("ascii"), body)
