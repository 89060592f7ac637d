"""The progress of transfers and seeds: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta
from typing import NoReturn

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from wingsd.cli.client import ControlClient, CtlError, Exit, Json
from wingsd.cli.output import console, direction_of, plain, resumed, show, size, state_of

#: Seconds between two requests.
POLL_INTERVAL = 0.3


class _Rate(ProgressColumn):
    """Bytes a second in binary units; rich's own are decimal."""

    def render(self, task: Task) -> Text:
        """Return the rate, empty while it is unknown."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{size(speed)}/s", style="progress.data.speed")


class TransferProgress:
    """Shows transfers in progress; results stay as lines above them."""

    def __init__(self, target: Console) -> None:
        self._console = target
        self._live = target.is_terminal
        self._tasks: dict[str, TaskID] = {}
        self._doing: dict[str, str] = {}
        self._resumed: dict[str, int] = {}
        self._bars = Progress(
            TextColumn("{task.fields[server]} {task.fields[direction]}"),
            BarColumn(bar_width=25),
            DownloadColumn(binary_units=True),
            _Rate(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.description}", markup=False),
            console=target,
        )

    @contextmanager
    def shown(self) -> Iterator[TransferProgress]:
        """Show the bars in this context."""
        with self._bars if self._live else nullcontext():
            yield self

    def show(self, running: list[Json]) -> None:
        """Show these transfers, and remove others."""
        now = {each["server"]: each for each in running}
        for server in self._doing.keys() - now.keys():
            self._remove(server)
        for server, each in now.items():
            self._tell_resumed(server, each)
            doing = plain(each["doing"])
            if self._live:
                self._update(server, each, doing)
            elif self._doing.get(server) != doing:
                self._console.print(Text(f"{server} {direction_of(each)}: {doing}"))
            self._doing[server] = doing

    def show_result(self, ended: Json) -> None:
        """Show the result of a transfer."""
        self._remove(ended["server"])
        line = Text(f"{ended['server']} {direction_of(ended)}: ").append_text(state_of(ended))
        self._console.print(line)

    def _tell_resumed(self, server: str, each: Json) -> None:
        """Print how much was there, when that has changed; the rate is counted again then."""
        there = each.get("resumed_bytes", 0)
        if there and self._resumed.get(server) != there:
            self._console.print(Text(f"{server} {direction_of(each)}: {resumed(each)}"))
            if server in self._tasks:
                self._bars.reset(self._tasks[server])
        self._resumed[server] = there

    def _update(self, server: str, each: Json, doing: str) -> None:
        if server not in self._tasks:
            self._tasks[server] = self._bars.add_task(
                doing, total=None, server=server[:8], direction=direction_of(each)
            )
        self._bars.update(
            self._tasks[server],
            description=doing,
            completed=each["bytes"],
            total=each["total_bytes"],
        )

    def _remove(self, server: str) -> None:
        self._doing.pop(server, None)
        self._resumed.pop(server, None)
        task = self._tasks.pop(server, None)
        if task is not None:
            self._bars.remove_task(task)


def watch(client: ControlClient) -> NoReturn:
    """Show all transfers and their results until Ctrl-C."""
    found = client.ask("GET", "transfers?past=1")
    if not found["running"]:
        show("no transfers in progress; those that begin are shown until Ctrl-C")
    last = _newest(found["past"])
    with TransferProgress(console()).shown() as screen:
        while True:
            found = client.ask("GET", "transfers?past=100")
            news = [each for each in found["past"] if each["transfer"] > last]
            for each in reversed(news):
                screen.show_result(each)
            last = max(last, _newest(found["past"]))
            screen.show(found["running"])
            time.sleep(POLL_INTERVAL)


def follow(client: ControlClient, server: str, after: int, *, quiet: bool) -> Json:
    """Show a server's transfer until it ends, unless `quiet`; return its result.

    Its number is above `after`. Raises `CtlError` when there is no such transfer.
    """
    with TransferProgress(console(stderr=True, quiet=quiet)).shown() as screen:
        while True:
            running, ended = _progress(client, server, after)
            if ended is not None:
                return ended
            screen.show([running] if running else [])
            time.sleep(POLL_INTERVAL)


def _progress(client: ControlClient, server: str, after: int) -> tuple[Json | None, Json | None]:
    """Return a server's transfer in progress, else the result of its last one.

    Its number is above `after`. Both are None while the server is expected. Raises `CtlError` when
    there is no such transfer.
    """
    found = transfer_of(client, server)
    running: Json | None = found["running"]
    ended = [each for each in found["past"] if each["transfer"] > after]
    if running is not None:
        return running, None
    if ended:
        return None, ended[0]
    if found["expected"] is None:
        raise CtlError(
            "the transfer does not exist any more",
            "it was cancelled, or not started in time; see the daemon's log",
        )
    return None, None


def transfer_of(client: ControlClient, server: str) -> Json:
    """Return the transfers of a server. Raises `CtlError`, also where the daemon has ended."""
    try:
        found: Json = client.ask("GET", f"transfers/{server}")
    except CtlError as error:
        # A timeout does not mean that the daemon has ended.
        if error.exit_code != Exit.NO_DAEMON or isinstance(error.__cause__, TimeoutError):
            raise
        raise CtlError(
            "wingsd has ended during the transfer",
            f"start it again: it then goes on with the transfer, or rolls it back; wingsctl show "
            f"{server} has the result ({error.message})",
            Exit.NO_DAEMON,
        ) from error
    return found


def _newest(ended: list[Json]) -> int:
    return max((int(each["transfer"]) for each in ended), default=0)


_DATES = ("%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S")
_TIME = "%H:%M"
#: As soon as there is a whole copy.
_NOW = "now"


def moment(value: str) -> float:
    """Return a time in seconds since the epoch. Raises `BadParameter` if it is invalid or over.

    `value` is a day and time by the clock of this machine, a time alone, of which the next one is
    meant, or "now".
    """
    now = datetime.now().astimezone()
    if value == _NOW:
        return now.timestamp()
    for form in _DATES:
        try:
            found = datetime.strptime(value, form).astimezone()
        except (ValueError, OverflowError):
            continue
        if found <= now:
            raise click.BadParameter(f"{value} is over")
        return found.timestamp()
    try:
        time_ = datetime.strptime(value, _TIME).time()
    except ValueError as error:
        text = f"{value!r} is no time such as 04:30 or '2026-12-24 04:30', and not now"
        raise click.BadParameter(text) from error
    found = datetime.combine(now.date(), time_).astimezone()
    if found <= now:
        found = datetime.combine(now.date() + timedelta(days=1), time_).astimezone()
    return found.timestamp()


def followed(client: ControlClient, server: str, after: int) -> Json | None:
    """Return when a copy follows a server; else the result of the transfer that has failed.

    Its number is above `after`. Raises `CtlError` when there is no such transfer.
    """
    while True:
        running, ended = _progress(client, server, after)
        if ended is not None or (running is not None and running.get("follow") is not None):
            return ended
        time.sleep(POLL_INTERVAL)
