"""The interface of a game: an image, its egg's script, and ways to check that it works."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from demo.engine import Engine

__all__ = ["BALLAST", "NAME_SETTING", "Game", "Landmark", "last_number", "name_told", "port_line"]

Json = dict[str, Any]

#: The end of an installation script: what trees have that others lose, and 48 MiB that do not
#: compress. It runs in `/bin/sh`; an image of busybox alone defines the commands as aliases.
BALLAST = """\
mkdir -p backups screenshots
head -c 50331648 /dev/urandom >backups/previous-world.bin
ln backups/previous-world.bin backups/latest.bin
"""


#: The beginning of the line in a game's settings that has the server's name.
NAME_SETTING = "server_name = "
_NAME = re.compile(r"the server is called (.*?)\s*$")


def name_told(console: Iterable[str]) -> str:
    """Return the server's name as the game told it last in its console, empty for never."""
    found = [match[1] for text in console if (match := _NAME.search(text))]
    return found[-1] if found else ""


def port_line(file: str) -> Json:
    """Return an egg's rule that the line `port = N` of a file names the server's own port."""
    replace = {"match": "port =", "replace_with": "port = {{server.build.default.port}}"}
    return {"file": file, "parser": "file", "replace": [replace]}


class Landmark(NamedTuple):
    """State of the running world: how often it was started, a text in it, and its changes."""

    start: int
    words: str
    changes: int

    @classmethod
    def found(cls, pattern: re.Pattern[str], console: Iterable[str]) -> Landmark | None:
        """Return the last one in the console, whose three parts are the groups of `pattern`."""
        told = [match for line in console if (match := pattern.search(line))]
        return cls(int(told[-1][1]), told[-1][2], int(told[-1][3])) if told else None


def last_number(pattern: re.Pattern[str], console: Iterable[str]) -> int | None:
    """Return the number of the last line that matches `pattern`, None without one."""
    told = [match for line in console if (match := pattern.search(line))]
    return int(told[-1][1]) if told else None


class Game(Protocol):
    """One game server. Methods raise `demo.output.Failed`; those not asynchronous block."""

    title: str
    #: Of the game and of its installer.
    image: str
    #: Whether the image took long to make, and stays for the next time.
    keeps_image: bool
    invocation: str
    #: The `process_configuration` of its egg.
    process: Json
    #: The installation script of its egg, for `/bin/sh`.
    script: str
    #: The file with its settings, which is one line each.
    settings: str
    #: A file without which the world is not what it was; the running game survives its loss.
    treasure: str

    def make_image(self, engine: Engine, cache: Path) -> str:
        """Create `image` on the engine; return a text about its origin."""

    def port_written(self, tree: Path) -> int:
        """Return the port in the server's own configuration file."""

    def landmark(self, console: Iterable[str]) -> Landmark | None:
        """Return the last state that the world printed to the console, or None."""

    def changes_at_stop(self, console: Iterable[str]) -> int | None:
        """Return how many changes it printed when it was stopped last, or None."""

    async def ask(self, reactor: Any, port: int) -> str:
        """Ask the game one question, like a player; return its answer as text."""
