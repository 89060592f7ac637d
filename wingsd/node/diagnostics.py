"""The diagnostics of a node: one text for those who help, without secrets.

The parts are asked for at the same time. One that fails is replaced by its reason.
"""

from __future__ import annotations

import platform
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.interfaces import IReactorTime

from wingsd import __version__
from wingsd.config import Config
from wingsd.docker.runtime import RunningContainer, ServerContainer
from wingsd.errors import WingsdError
from wingsd.node.answers import SharedAnswer
from wingsd.node.logs import MAX_LINES, LogUnavailable
from wingsd.node.redaction import Redaction, settings
from wingsd.threadio import Workers

if TYPE_CHECKING:
    from wingsd.node.engine import NodeEngine, OrphanedContainers

#: Seconds for each part: a Panel waits for five in all.
PATIENCE = 3.5
#: Seconds for which the lines of the log are kept.
KEPT = 1.0

#: Returns that many last lines of the log. Blocking. Raises `LogUnavailable`.
LogSource = Callable[[int], list[str]]


class OwnLog:
    """The daemon's own log. `source` is None where it cannot be read back."""

    def __init__(self, workers: Workers, reactor: IReactorTime) -> None:
        self.source: LogSource | None = None
        self._workers = workers
        self._reactor = reactor
        self._shared = SharedAnswer(self._read, reactor, keep=KEPT)

    async def last(self, lines: int) -> list[str]:
        """Return the last lines. Raises `LogUnavailable`."""
        try:
            found = await self._shared.get().addTimeout(PATIENCE, self._reactor)
        except TimedOut as error:
            raise LogUnavailable(f"it was not read within {PATIENCE:g} s") from error
        return found[-lines:] if lines else []

    async def _read(self) -> list[str]:
        if self.source is None:
            raise LogUnavailable("it is written to where this daemon cannot read it back")
        return await self._workers.run(self.source, MAX_LINES)


@attrs.frozen(eq=False, repr=False)
class ReportOptions:
    """The options of a report: hosts and addresses, and lines of the log, None for no log."""

    endpoints: bool = False
    log_lines: int | None = 200


@attrs.define(eq=False, repr=False, slots=False)
class Diagnostics:
    """Makes the reports. `config` returns the configuration in force."""

    _config: Callable[[], Config]
    _engine: NodeEngine | None
    _log: OwnLog
    _orphans: OrphanedContainers | None = None

    async def report(self, options: ReportOptions) -> str:
        """Return a report. It takes no longer than a Panel waits."""
        config, lines = self._config(), options.log_lines
        engine, orphans, disabled = self._engine, self._orphans, "Docker is disabled"
        info = None if engine is None else engine.report(PATIENCE)
        running = None if engine is None else engine.containers(PATIENCE)
        without_server = None if orphans is None else orphans.left(PATIENCE)
        log = None if lines is None else self._log.last(lines)
        asking = [
            _shown(info, _engine_lines, disabled),
            _shown(running, _container_lines, disabled),
            _shown(without_server, _orphan_lines, disabled),
            _shown(log, lambda found: found or ["none"], "left out"),
        ]
        parts = await gatherResults([Deferred.fromCoroutine(part) for part in asking])
        return report(config, options, *parts)


async def _shown(
    asked: Awaitable[Any] | None, show: Callable[[Any], Iterable[str]], without: str
) -> list[str]:
    """Return the lines on an answer, or why there is none; `without` where nothing is asked."""
    if asked is None:
        return [without]
    try:
        return list(show(await asked))
    except (WingsdError, LogUnavailable) as error:
        return [f"not available: {error}"]


def report(config: Config, options: ReportOptions, *parts: Iterable[str]) -> str:
    """Return the text of a report.

    `parts` are the lines on the engine, on its containers, on those without a server, and of the
    log.
    """
    values = attrs.asdict(config)
    redaction = Redaction(values, endpoints=options.endpoints)
    now = datetime.now(tz=UTC).isoformat(timespec="seconds")
    facts = [
        ("wingsd", __version__),
        ("Python", platform.python_version()),
        ("kernel", f"{platform.system()} {platform.release()} {platform.machine()}"),
        ("system", _distribution()),
        ("family", config.family or "not known"),
        ("time", now),
    ]
    shown = ((path, redaction.value(path, value)) for path, value in settings(values))
    sections: list[tuple[str, Iterable[str]]] = [
        ("Versions", _columns(facts)),
        ("Configuration", (f"{redaction.name(path)}: {_setting(value)}" for path, value in shown)),
        *zip(_PARTS, parts, strict=True),
    ]
    text = ["wingsd - Diagnostics Report"]
    for title, lines in sections:
        text += ["", "|", f"| {title}", "| ------------------------------"]
        text += lines if title == "Configuration" else map(redaction.text, lines)
    return "\n".join(text) + "\n"


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    return str(value) if value not in ("", None) else '""'


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return "not known"


def _columns(facts: Iterable[tuple[str, object]]) -> Iterator[str]:
    return (f"{name + ':':18}{value}" for name, value in facts)


_PARTS = (
    "Docker: Info",
    "Docker: Running Containers",
    "Docker: Containers without a Server",
    "Latest Logs",
)
_FACTS = {
    "Server Version": "ServerVersion",
    "Storage Driver": "Driver",
    "Logging Driver": "LoggingDriver",
    "Cgroup Driver": "CgroupDriver",
    "Cgroup Version": "CgroupVersion",
    "Default Runtime": "DefaultRuntime",
    "Images": "Images",
    "Containers": "Containers",
    "Running": "ContainersRunning",
}


def _engine_lines(info: Mapping[str, Any]) -> Iterator[str]:
    yield from _columns((name, info[key]) for name, key in _FACTS.items() if key in info)
    for name, value in info.get("DriverStatus") or ():
        yield f"  {name}: {value}"
    for warning in info.get("Warnings") or ():
        yield str(warning)


def _container_lines(containers: Iterable[RunningContainer]) -> Iterator[str]:
    yield f"{'CONTAINER ID':14}{'STATUS':24}{'NAME':38}IMAGE"
    for each in containers:
        yield f"{each.id:14}{each.status:23} {each.name:37} {each.image}"


def _orphan_lines(containers: Iterable[ServerContainer]) -> list[str]:
    return [f"{each.name} ({each.status}): {each.removal}" for each in containers] or ["none"]
