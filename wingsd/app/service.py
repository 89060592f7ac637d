"""The daemon as a service: readiness, status and watchdog for systemd, and SIGHUP."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, Logger

from wingsd.app.daemon import STOP_TIMEOUT, Node
from wingsd.systemd.sd_daemon import Notifier, Watchdog
from wingsd.threadio import relayed
from wingsd.util.deferreds import fires_within
from wingsd.util.reactor import Periodic, ThreadedReactor

#: Seconds after which the node reports readiness without its servers. It continues to ask the
#: Panel for them, which may itself be waiting for the node on the same machine.
READY_WITHIN = 15.0
#: Seconds between two updates of the status.
STATUS_INTERVAL = 2.0
#: Seconds after the end of the node for the process to exit.
_MARGIN = 5.0


class Supervision(MultiService):
    """The node, and its notifications to the service manager, if there is one."""

    _log = Logger()

    def __init__(
        self,
        node: Node,
        reload: Callable[[], None],
        reactor: ThreadedReactor,
        notifier: Notifier,
        period: float | None = None,
        observer: ILogObserver | None = None,
    ) -> None:
        """`period` is the seconds of the manager's watchdog, None without one.

        `reload` is called on SIGHUP. `observer` replaces twistd's log observer.
        """
        super().__init__()
        node.setServiceParent(self)
        self._node = node
        self._reload = reload
        self._notifier = notifier
        self._observer = observer
        self._is_ready = False
        self._reactor = reactor
        self._watchdog = None
        if period is not None:
            self._watchdog = Watchdog(notifier, period, node.ping_database, reactor)
        self._shown = ""
        self._updating = Periodic(reactor, self._update_status)

    def setServiceParent(self, parent: Any) -> None:
        """Set the log observer of twistd's application."""
        super().setServiceParent(parent)
        if self._observer is not None:
            parent.setComponent(ILogObserver, self._observer)

    def startService(self) -> None:
        """Start the node, and notify the manager when it is ready."""
        # Handled by the reactor, since a signal handler may interrupt anything. Installed before
        # the node listens: without a handler SIGHUP would end the process.
        signal.signal(signal.SIGHUP, relayed(self._reactor, self._handle_sighup))
        self._notifier.status("starting: checking for unfinished transfers")
        with self._notifier.extending():
            super().startService()
        if self._watchdog is not None:
            self._watchdog.start()
        if self._notifier.is_enabled:
            showing: Deferred[Any] = self._updating.start(STATUS_INTERVAL)
            showing.addErrback(lambda failure: self._log.failure("status updates failed", failure))
            Deferred.fromCoroutine(self._report_ready())

    async def _report_ready(self) -> None:
        booted = self._node.booted
        if await fires_within(booted, READY_WITHIN, self._reactor) and not booted.result:
            return  # It is stopping; or has failed, and the manager restarts it after its timeout.
        self._is_ready = True
        self._notifier.ready(self._node.status)
        if self._notifier.error is not None:
            self._log.warn(
                "readiness not reported to the service manager: {error}",
                error=self._notifier.error,
            )

    def _update_status(self) -> None:
        status = self._node.status
        if status != self._shown:
            self._shown = status
            self._notifier.status(status)

    def _handle_sighup(self, *_: object) -> None:
        if not self._is_ready:
            self._reload()
            return
        self._notifier.reloading()
        try:
            self._reload()
        except Exception:
            self._log.failure("reloading failed")
        self._notifier.ready(self._node.status)

    def stopService(self) -> Deferred[Any]:
        """Notify the manager, and stop the node."""
        self._is_ready = False
        self._notifier.stopping(f"stopping: {self._node.status}", STOP_TIMEOUT + _MARGIN)
        self._updating.stop()
        ended: Deferred[Any] = super().stopService()
        return ended.addBoth(self._stop_watchdog)

    def _stop_watchdog(self, result: Any) -> Any:
        if self._watchdog:
            self._watchdog.stop()
        return result
