"""What goes on, as it goes on: bars on a terminal, and lines where there is none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NoReturn

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

from wingsd.cli.client import ControlClient, CtlError, Exit
from wingsd.cli.output import console, plain, size, state_of, way

__all__ = ["EVERY", "Screen", "follow", "watch"]

#: Seconds between two looks.
EVERY = 0.3

Json = dict[str, Any]


class _Rate(ProgressColumn):
    """Bytes a second in the units that all else is told in; rich's own are decimal."""

    def render(self, task: Task) -> Text:
        """Return it, nothing while it is not known."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{size(speed)}/s", style="progress.data.speed")


class Screen:
    """Shows transfers as they are now; what has ended stays as a line above the others."""

    def __init__(self, target: Console) -> None:
        self._console = target
        self._live = target.is_terminal
        self._tasks: dict[str, TaskID] = {}
        self._doing: dict[str, str] = {}
        self._bars = Progress(
            TextColumn("{task.fields[server]} {task.fields[way]}"),
            BarColumn(bar_width=25),
            DownloadColumn(binary_units=True),
            _Rate(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.description}", markup=False),
            console=target,
        )

    @contextmanager
    def shown(self) -> Iterator[Screen]:
        """Have it shown in this context."""
        with self._bars if self._live else nullcontext():
            yield self

    def show(self, running: list[Json]) -> None:
        """Show what is under way, and nothing else."""
        now = {each["server"]: each for each in running}
        for server in self._doing.keys() - now.keys():
            self._drop(server)
        for server, each in now.items():
            doing = plain(each["doing"])
            if self._live:
                self._update(server, each, doing)
            elif self._doing.get(server) != doing:
                self._console.print(Text(f"{server} {way(each)}: {doing}"))
            self._doing[server] = doing

    def tell(self, ended: Json) -> None:
        """Show how a transfer ended."""
        self._drop(ended["server"])
        line = Text(f"{ended['server']} {way(ended)}: ").append_text(state_of(ended))
        self._console.print(line)

    def _update(self, server: str, each: Json, doing: str) -> None:
        if server not in self._tasks:
            self._tasks[server] = self._bars.add_task(
                doing, total=None, server=server[:8], way=way(each)
            )
        self._bars.update(
            self._tasks[server],
            description=doing,
            completed=each["bytes"],
            total=each["total_bytes"],
        )

    def _drop(self, server: str) -> None:
        self._doing.pop(server, None)
        task = self._tasks.pop(server, None)
        if task is not None:
            self._bars.remove_task(task)


def watch(client: ControlClient) -> NoReturn:
    """Show all transfers, and how they end, until the operator leaves."""
    last = _newest(client.ask("GET", "transfers?past=1")["past"])
    with Screen(console()).shown() as screen:
        while True:
            found = client.ask("GET", "transfers?past=100")
            news = [each for each in found["past"] if each["transfer"] > last]
            for each in reversed(news):
                screen.tell(each)
            last = max(last, _newest(found["past"]))
            screen.show(found["running"])
            time.sleep(EVERY)


def follow(client: ControlClient, server: str, after: int, *, quiet: bool) -> Json:
    """Show one server's transfer until it ends, unless `quiet`; return how that was.

    It is the one whose number in the journal is above `after`. Raises `CtlError` when there is
    none, nor will be.
    """
    with Screen(console(stderr=True, quiet=quiet)).shown() as screen:
        while True:
            found = _look(client, server)
            ended = [each for each in found["past"] if each["transfer"] > after]
            if ended and found["running"] is None:
                latest: Json = ended[0]
                return latest
            if found["running"] is None and found["expected"] is None:
                raise CtlError(
                    "there is no such transfer any more",
                    "it was cancelled, or expected for too long; else see the daemon's log",
                )
            screen.show([found["running"]] if found["running"] else [])
            time.sleep(EVERY)


def _look(client: ControlClient, server: str) -> Json:
    try:
        found: Json = client.ask("GET", f"transfers/{server}")
    except CtlError as error:
        # One that is too busy to answer is there still.
        if error.exit_code != Exit.NO_DAEMON or isinstance(error.__cause__, TimeoutError):
            raise
        raise CtlError(
            "wingsd has gone while this was waited for",
            f"start it again: what it had begun it finishes or undoes, and wingsctl show {server} "
            f"tells which ({error.message})",
            Exit.NO_DAEMON,
        ) from error
    return found


def _newest(ended: list[Json]) -> int:
    return max((int(each["transfer"]) for each in ended), default=0)
