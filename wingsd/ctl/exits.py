"""How the command ends: its exit statuses, which wingsctl(1) lists, and its errors."""

from __future__ import annotations

import json
from enum import IntEnum
from typing import IO, Any

import click

from wingsd.escaping import escaped

__all__ = ["CtlError", "Exit"]


class Exit(IntEnum):
    """The exit statuses."""

    DONE = 0
    #: What was asked for could not be done, or a transfer that was waited for has failed.
    FAILED = 1
    #: The command line makes no sense; click's own.
    USAGE = 2
    #: No daemon listens at the socket.
    NO_DAEMON = 3
    #: This user may not open the socket.
    NOT_PERMITTED = 4
    #: The daemon knows no such server, or transfer.
    UNKNOWN = 5
    #: The operator left, while what was begun goes on; the shell's for SIGINT.
    LEFT = 130


class CtlError(click.ClickException):
    """The command fails with the status `exit`; `detail` says what to do, where there is that."""

    def __init__(self, message: str, detail: str = "", status: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.detail = detail
        # It is shown when the command's context is gone.
        context = click.get_current_context(silent=True)
        self._as_json = context is not None and bool(context.params.get("as_json"))
        self.exit_code = int(status)  # type: ignore[misc]  # click's own way, whatever it says

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it where errors go: for people, or with `--json` as JSON."""
        if self._as_json:
            text = json.dumps({"error": self.message, "detail": self.detail})
        else:
            # The daemon's words, which may quote others.
            text = f"wingsctl: {escaped(self.message)}"
            text += f"\n  {escaped(self.detail)}" if self.detail else ""
        click.echo(text, file=file, err=True)
