"""What is printed, and how: JSON for programs, or text that fits where it goes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import click
from rich.console import Console, RenderableType

from wingsd.transfers.wording import readable_size

__all__ = ["console", "duration", "json_option", "plain", "print_json", "show", "size", "when"]

F = TypeVar("F", bound=Callable[..., Any])

#: Columns of a line that goes to no terminal: nothing of it is to be cut or folded.
_WIDE = 500
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def json_option(command: F) -> F:
    """Give a command the option `--json`."""
    help_ = "Print JSON, for programs; its form is in wingsctl(1)."
    return click.option("--json", "as_json", is_flag=True, help=help_)(command)


def print_json(value: object, *, line: bool = False) -> None:
    """Print a value as JSON; as one `line` where more follow."""
    click.echo(json.dumps(value, indent=None if line else 2))


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Return where text goes."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(
        file=stream,
        width=None if stream.isatty() else _WIDE,
        highlight=False,
        markup=False,
        emoji=False,
        quiet=quiet,
    )


def show(*parts: RenderableType) -> None:
    """Print texts and tables; where no terminal is, without blanks at the ends of lines."""
    out = console()
    if out.is_terminal:
        out.print(*parts, sep="\n")
        return
    with out.capture() as captured:
        out.print(*parts, sep="\n")
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def plain(text: object) -> str:
    """Return a text as one line without control characters: it may come from anybody."""
    return "".join(each if each.isprintable() else " " for each in str(text))


def size(bytes_: float | None) -> str:
    """Return a number of bytes with a unit; a dash where there is none."""
    return "-" if bytes_ is None else readable_size(bytes_)


def duration(seconds: float) -> str:
    """Return a number of seconds for people, such as "3 min 20 s"."""
    whole = max(int(seconds), 0)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


def when(at: float | None) -> str:
    """Return a time, seconds since the epoch, in local time; "never" for None."""
    if at is None:
        return "never"
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
