"""Whether a running server waits for a restart: its settings are not those that it runs with.

Limits are applied to the running container, and are not among them (`wingsd.servers.limits`).
"""

from __future__ import annotations

from collections.abc import Callable

from wingsd.panel.schemas import Settings

__all__ = ["PendingRestart"]


class PendingRestart:
    """Compares a server's settings with those of its run.

    `publish` is called with `true` or `false`, as the event's argument, whenever that changes.
    """

    def __init__(self, publish: Callable[[str], object]) -> None:
        self._publish = publish
        self._launched: Settings | None = None
        #: Whether a restart would change anything.
        self.pending = False

    def launched(self, settings: Settings) -> None:
        """Note the settings with which a run begins, or has been found."""
        self._launched = settings
        self._set(pending=False)

    def ended(self) -> None:
        """Note the end of the run: the next start has the settings of then."""
        self._launched = None
        self._set(pending=False)

    def compare(self, settings: Settings) -> None:
        """Compare the settings that the Panel has now."""
        run = self._launched
        self._set(pending=run is not None and _of_start(run) != _of_start(settings))

    def _set(self, *, pending: bool) -> None:
        if pending is not self.pending:
            self.pending = pending
            self._publish("true" if pending else "false")


def _of_start(settings: Settings) -> tuple[object, ...]:
    """Return what only a start can give to a server."""
    return (
        settings.invocation,
        settings.environment,
        settings.labels,
        settings.container,
        settings.allocations,
        settings.mounts,
        settings.build.oom_kill_disabled,
    )
