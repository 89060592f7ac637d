"""The process that parses one egg file: the request on its stdin, the answer on its stdout.

A request is a line of JSON, with the parser and the changes, and then the file's bytes. An answer
is a line of JSON and, where the file has changed, its new bytes. The answer comes from a process
that has read hostile bytes: all of it is checked.

It is started by `wingsd.egg_files.process`. Before it reads the file it limits its own time and
memory. Before it parses the file it drops its privileges, and the right to open files and
connections and to start processes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import attrs

from wingsd.egg_files.changes import Change, NotDone, Pattern
from wingsd.egg_files.formats import Rewritten, format_of, quoted
from wingsd.sandbox.confinement import confine, limit_resources

__all__ = ["MAX_HEADER", "RewriteAnswer", "RewriteRequest", "main"]

#: Bytes of an answer's line of JSON.
MAX_HEADER = 1 << 20
#: Characters of a message; it is cut further where it is shown.
_MAX_TEXT = 1000


@attrs.frozen
class RewriteRequest:
    """A file's bytes, the name of its parser, and the changes."""

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
    """The result for a file: `rewritten`, or else the reason why it is `refused`.

    `cpu_seconds` is the CPU time of the process.
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
        failures = [failure[:_MAX_TEXT] for failure in self.rewritten.failures]
        header |= {"changed": changed, "failures": failures}
        return _message(header, self.rewritten.data if changed else b"")

    @classmethod
    def decode(cls, message: bytes, request: RewriteRequest, limit: int) -> RewriteAnswer:
        """Return the answer to `request`; new bytes are at most `limit`.

        Raises NotDone for bytes that are not an answer.
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
                "failures": list(failures),
            } if (
                len(found) == 3  # noqa: PLR2004
                and len(failures) <= len(request.changes)
                and all(isinstance(failure, str) for failure in failures)
                and len(data) <= (limit if changed else 0)
            ):
                return cls(used, Rewritten(data if changed else request.data, failures))
        raise NotDone("the process that parsed it sent an invalid answer")


def _message(header: dict[str, Any], body: bytes) -> bytes:
    return b"%s\n%s" % (json.dumps(header).encode("ascii"), body)


def main(cpu_seconds: int, memory: int) -> None:
    """Answer the request on stdin, with so many seconds of CPU time and bytes of memory."""
    limit_resources(cpu_seconds, memory)
    try:
        answer = _answer(RewriteRequest.decode(sys.stdin.buffer.read()))
    except MemoryError:
        why = f"its parser needs more than {memory >> 20} MiB of memory"
        answer = RewriteAnswer(time.process_time(), refused=why).encode(
            RewriteRequest("", b"", [])
        )
    with open(sys.stdout.fileno(), "wb", closefd=False) as out:
        out.write(answer)
    # Skips freeing a large document piece by piece.
    os._exit(0)


def _answer(request: RewriteRequest) -> bytes:
    try:
        form = format_of(request.parser)
        form.load(request.data)
        confine()
        rewritten = form.rewrite(request.data, request.changes)
    except NotDone as error:
        return RewriteAnswer(time.process_time(), refused=str(error)).encode(request)
    except MemoryError:
        raise
    except Exception as error:
        # The libraries may raise anything for hostile files.
        what = f"{type(error).__name__}: {error}"
        why = f"its parser, {quoted(request.parser)}, failed: {what}"
        return RewriteAnswer(time.process_time(), refused=why).encode(request)
    return RewriteAnswer(time.process_time(), rewritten).encode(request)
