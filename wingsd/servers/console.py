"""A server's console: the output of a run is split into lines, kept, and matched for startup.

A run's output is not trusted: no line is longer than `MAX_LINE`, and what is kept is bounded in
lines and in bytes.
"""

from __future__ import annotations

import codecs
import re
import sys
from collections import deque
from collections.abc import Mapping
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from wingsd.config import ThrottlesConfig
from wingsd.docker.runtime import ContainerUsage, Running
from wingsd.egg_files.changes import compiled
from wingsd.panel.schemas import Configuration, Startup
from wingsd.util.deferreds import fires_within
from wingsd.util.reactor import Timer
from wingsd.util.text import escaped

SUSTAINED = 2000
#: Seconds, and the bytes that pass in them: 1 MiB a second.
WINDOW = 0.125
BYTES = 128 * 1024
#: Seconds without an omitted line after which an episode has ended: more than any window has.
QUIET = 1.25
#: Seconds after which a flood is reported though it has not ended.
LONGEST_EPISODE = 10.0


class _Limit:
    """A limit of `most` lines in each window of so many seconds."""

    def __init__(self, seconds: float, most: int) -> None:
        self._seconds = seconds
        self._most = most
        self._began = float("-inf")
        self._taken = 0

    def left(self, now: float) -> int:
        if now - self._began >= self._seconds:
            self._began, self._taken = now, 0
        return max(self._most - self._taken, 0)

    def take(self, amount: int) -> None:
        self._taken += amount


class Throttle:
    """Limits the lines of one run; each method gets the time `now`, in seconds.

    `throttles` of the configuration has the limit of Wings, for bursts. Two further limits keep
    one server's flood from taking the node's time: at most `SUSTAINED` lines a second, or as many
    as a burst may have, and at most `BYTES` in `WINDOW`.

    An episode begins with the first omitted line. It ends when `QUIET` seconds have passed without
    one, or after `LONGEST_EPISODE`.
    """

    def __init__(self, rules: ThrottlesConfig) -> None:
        self._lines: list[_Limit] = []
        if rules.enabled:
            burst = _Limit(rules.line_reset_interval / 1000, rules.lines)
            self._lines = [burst, _Limit(1.0, max(rules.lines, SUSTAINED))]
        self._bytes = _Limit(WINDOW, BYTES)
        self._omitted = 0
        self._began = 0.0
        self._last = 0.0

    def admit(self, lines: list[bytes], now: float) -> int:
        """Return how many of `lines`, from the first, pass."""
        allowed = min((limit.left(now) for limit in self._lines), default=sys.maxsize)
        left = self._bytes.left(now)
        size = admitted = 0
        for line in lines[:allowed]:
            if size >= left:
                break
            size += len(line)
            admitted += 1
        for limit in self._lines:
            limit.take(admitted)
        self._bytes.take(size)
        if admitted < len(lines):
            if not self._omitted:
                self._began = now
            self._omitted += len(lines) - admitted
            self._last = now
        return admitted

    def ended(self, now: float) -> int:
        """Return how many lines an ended episode omitted; 0 when none has ended."""
        if not self._omitted:
            return 0
        quiet = now - self._last >= QUIET
        return self.flush() if quiet or now - self._began >= LONGEST_EPISODE else 0

    def flush(self) -> int:
        """End the episode, if there is one; return how many lines it omitted."""
        omitted, self._omitted = self._omitted, 0
        return omitted

    @property
    def active(self) -> bool:
        """True if an episode has begun and not ended."""
        return self._omitted > 0


#: Characters of a line that are matched.
LONGEST_MATCHED_LINE = 4096


_REGEX = "regex:"
#: Control sequences of terminals (ECMA-48): commands to the terminal such as its title, then
#: colours, cursor movements and the like.
_ANSI = re.compile(
    "(?:\x1b\\]|\x9d)[^\x07\x1b\x9c\x9d]*(?:\x07|\x1b\\\\|\x9c)"
    "|(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]"
    "|\x1b[ -/]*[0-Z\\\\^-~]"
)


def without_ansi(line: str) -> str:
    """Return a line without the control sequences of terminals."""
    return _ANSI.sub("", line)


_YELLOW_BOLD = "\x1b[33m\x1b[1m"
_DEFAULT_COLOUR = "\x1b[39m"
_RESET = "\x1b[0m"


def daemon_line(app_name: str, message: str) -> str:
    """Return a line of the node itself in a console, as Wings prints them.

    `message` may quote an engine or a registry.
    """
    name = f"[{escaped(app_name)} Daemon]:"
    return f"{_YELLOW_BOLD}{name}{_DEFAULT_COLOUR} {escaped(message)}{_RESET}"


class StartupDetector:
    """Detects the end of a server's startup by the egg's `done` entries.

    An entry is a part of the line or, after `regex:`, an expression in Go's syntax, since eggs are
    written for Wings. RE2 has that syntax, and its time is linear in the line, so that no egg can
    block the node. `errors` has a message for every invalid expression; that matches nothing.
    """

    def __init__(self, startup: Startup) -> None:
        self.errors: list[str] = []
        self._strip = startup.strip_ansi
        self._parts: list[str] = []
        self._expressions: list[Any] = []
        for entry in startup.done:
            if entry.startswith(_REGEX) and entry != _REGEX:
                try:
                    self._expressions.append(compiled(entry.removeprefix(_REGEX)))
                except ValueError as error:
                    self.errors.append(f"the startup expression {entry} is invalid: {error}")
            elif entry:
                self._parts.append(entry)

    def __bool__(self) -> bool:
        """Return whether the egg has any entry, if only an invalid one."""
        return bool(self._parts or self._expressions or self.errors)

    def match(self, line: str) -> bool:
        """Return whether the line marks the end of the startup."""
        line = line[:LONGEST_MATCHED_LINE]
        if self._strip:
            line = without_ansi(line)
        return any(part in line for part in self._parts) or any(
            expression.search(line) for expression in self._expressions
        )


#: Bytes of a line that are kept; `CUT` replaces the rest.
MAX_LINE = 8 * 1024
CUT = " [...]"
#: Bytes of lines that are kept.
KEPT_BYTES = 512 * 1024


class LineSplitter:
    """Splits a stream of bytes into lines, without their end (LF or CR LF).

    Lines are bytes, as most of a flood is dropped undecoded; `text` decodes them.
    """

    def __init__(self) -> None:
        self._partial = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that are complete with `data`."""
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = self._partial + lines[0]
            self._partial = b""
        # One byte more than a line may have shows that it was longer.
        self._partial = (self._partial + rest)[: MAX_LINE + 1]
        return lines

    def end(self) -> list[bytes]:
        """Return the incomplete last line, if there is one."""
        lines, self._partial = [self._partial] if self._partial else [], b""
        return lines


def text(line: bytes) -> str:
    """Return a line as text: cut where it is too long, U+FFFD for bytes that are not UTF-8."""
    line = line.removesuffix(b"\r")
    if len(line) <= MAX_LINE:
        return line.decode("utf-8", "replace")
    # Not final: a character that is cut is omitted.
    kept, _ = codecs.utf_8_decode(line[:MAX_LINE], "replace", False)
    return kept + CUT


class Console:
    """The last lines of one run, at most `count` of them."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._lines: deque[tuple[str, int]] = deque()
        self._size = 0

    def add(self, line: str) -> None:
        """Keep a line, and drop the oldest lines beyond the limits."""
        size = len(line.encode("utf-8", "replace"))
        self._lines.append((line, size))
        self._size += size
        while len(self._lines) > self._count or self._size > KEPT_BYTES:
            self._size -= self._lines.popleft()[1]

    def clear(self) -> None:
        """Drop all lines: a new run begins."""
        self._lines.clear()
        self._size = 0

    def lines(self, count: int) -> list[str]:
        """Return the last `count` lines, or as many as there are."""
        first = max(0, len(self._lines) - max(0, count))
        return [line for line, _ in list(self._lines)[first:]]


#: Texts that are looked for in every line. A console has 1 MiB a second at most, and the worst of
#: texts is compared with some 250 MiB a second.
TEXTS_MAX = 50


@attrs.frozen(repr=False)
class FeatureMatch:
    """The content of a `feature match` event: the dialogue's key, the text found, and the line."""

    key: str
    pattern: str
    line: str


class FeatureMatcher:
    """Finds texts in lines by `features`, an egg's texts by the key of the dialogue.

    A Panel's page has a dialogue for each. Source: Pelican's Wings, which compares each line and
    stops at the first text that is found. Case does not matter; with `strip_ansi` neither do
    colours. What is not in this form is ignored: it comes from an egg, and no server may fail for
    it. `ignored` is how many texts there are beyond `TEXTS_MAX`, which are not looked for.
    """

    def __init__(self, features: object = None, *, strip_ansi: bool = False) -> None:
        found = features.items() if isinstance(features, Mapping) else ()
        texts = [
            (str(key), text, text.lower())
            for key, texts in found
            for text in (texts if isinstance(texts, list) else ())
            if isinstance(text, str) and 0 < len(text) <= LONGEST_MATCHED_LINE
        ]
        self._texts = texts[:TEXTS_MAX]
        self._strip_ansi = strip_ansi
        self.ignored = len(texts) - len(self._texts)

    @classmethod
    def of(cls, configuration: Configuration) -> FeatureMatcher:
        """Return the matcher of a server's egg."""
        strip = configuration.process.startup.strip_ansi
        return cls(configuration.settings.egg.features, strip_ansi=strip)

    def match(self, line: str) -> FeatureMatch | None:
        """Return the first text of the egg that the line has."""
        if not self._texts:
            return None
        if self._strip_ansi:
            line = without_ansi(line)
        lower = line[:LONGEST_MATCHED_LINE].lower()
        for key, wanted_text, wanted in self._texts:
            if wanted in lower:
                return FeatureMatch(key, wanted_text, line)
        return None


class RunListener:
    """The receiver of a run's events, which ignores those that it does not override."""

    def on_line(self, line: str) -> None:
        """Take a line of the console."""

    def on_flood(self) -> None:
        """Take note that lines are being left out."""

    def on_ready(self) -> None:
        """Take note that the startup is finished."""

    def on_usage(self, usage: ContainerUsage) -> None:
        """Take a measurement of the program's usage."""

    def on_end(self, run: Run, status: int | None, *, out_of_memory: bool, of_node: bool) -> None:
        """Take the end of the run, its last event."""


class Run:
    """One run of a server's program: a `wingsd.docker.Watcher`.

    `running` is None until the program has been started. `end_requested` says whether a user or
    the node asked for the end.
    """

    def __init__(
        self,
        listener: RunListener,
        reactor: IReactorTime,
        throttle: Throttle,
        startup: StartupDetector | None = None,
    ) -> None:
        self.running: Running | None = None
        self.end_requested = False
        self.over = False
        self._listener = listener
        self._reactor = reactor
        self._startup = startup
        self._lines = LineSplitter()
        self._throttle = throttle
        self._timer = Timer(reactor)
        self._detached = False
        #: Fires at the end.
        self._end: Deferred[None] = Deferred()

    @property
    def ready(self) -> bool:
        """True if the startup is finished, by the `startup` line if the egg has one."""
        return self._startup is None

    async def wait(self, seconds: float) -> bool:
        """Return whether the run is over within `seconds`, as soon as it is."""
        return self.over or await fires_within(self._end, seconds, self._reactor)

    def detach(self) -> None:
        """Stop listening; the program continues to run."""
        self._detached = True
        self._timer.cancel()
        if self.running is not None and not self.over:
            self.running.detach()

    # `wingsd.docker.Watcher`

    def output(self, data: bytes) -> None:
        """Pass on the lines that the program wrote, within the throttle's limits."""
        if not self._detached:
            self._take(self._lines.feed(data))

    def usage(self, usage: ContainerUsage) -> None:
        """Pass on the program's usage."""
        if not self._detached:
            self._listener.on_usage(usage)

    def ended(self, status: int | None, *, out_of_memory: bool, of_node: bool = False) -> None:
        """Pass on an unfinished last line, and the end."""
        self.over = True
        if not self._detached:
            self._take(self._lines.end())
            self._timer.cancel()
            self._report_omitted(self._throttle.flush())
            self._listener.on_end(self, status, out_of_memory=out_of_memory, of_node=of_node)
        self._end.callback(None)

    def _take(self, lines: list[bytes]) -> None:
        now = self._reactor.seconds()
        self._report_omitted(self._throttle.ended(now))
        flooded = self._throttle.active
        for line in lines[: self._throttle.admit(lines, now)]:
            self._listener.on_line(text(line))
        if self._throttle.active and not flooded:
            self._listener.on_flood()
        if self._throttle.active and not self._timer.is_running:
            self._timer.start(WINDOW, self._check_throttle)
        startup = self._startup
        # Omitted lines count here all the same; most lines of a flood are equal.
        if startup is not None and any(startup.match(text(line)) for line in dict.fromkeys(lines)):
            self._startup = None
            self._listener.on_ready()

    def _check_throttle(self) -> None:
        self._report_omitted(self._throttle.ended(self._reactor.seconds()))
        if self._throttle.active:
            self._timer.start(WINDOW, self._check_throttle)

    def _report_omitted(self, count: int) -> None:
        if count:
            self._listener.on_line(f"[wingsd] {count} lines were left out")
