"""A node under the service manager: told when it serves, what it does, that it lives, and ends."""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Callable
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import ILogObserver, Logger

from wingsd.bridge import relayed
from wingsd.node import STOP_WITHIN, Node
from wingsd.systemd import Notifier, Watchdog, watchdog_period

__all__ = ["READY_WITHIN", "SHOWN_EVERY", "Supervision"]

#: Seconds after which a node that listens is said to serve, though the Panel has not told it of
#: its servers: it goes on asking for as long as it takes, and what waits for the node to be up
#: (the Panel, on the same machine) must not wait for ever.
READY_WITHIN = 15.0
#: Seconds between two looks at what the node does.
SHOWN_EVERY = 2.0
#: Seconds beyond those that a node takes to end, for the process to be gone.
_MARGIN = 5.0
_STDERR = 2


class Supervision(MultiService):
    """The node, and what the service manager hears of it. Without a manager, only the node."""

    _log = Logger()

    def __init__(
        self,
        node: Node,
        reload: Callable[[], None],
        reactor: Any,
        notifier: Notifier,
        period: float | None = None,
        observer: ILogObserver | None = None,
    ) -> None:
        """Tell `notifier`; a watchdog wants a sign of life every `period` seconds, if not None.

        `reload` is called on SIGHUP. twistd logs by `observer`, in its own way without one.
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
            self._watchdog = Watchdog(notifier, period, node.pulse, reactor)
        self._shown = ""
        self._showing = LoopingCall(self._show)
        self._showing.clock = reactor

    @classmethod
    def from_environment(
        cls,
        node: Node,
        reload: Callable[[], None],
        reactor: Any,
        observer: ILogObserver | None = None,
    ) -> Supervision:
        """Return the supervision that the manager's variables ask for, and forget these."""
        notifier, period = Notifier.from_environment(os.environ), watchdog_period(os.environ)
        if period is not None:
            # What the watchdog ends, by SIGABRT, says where each thread of it was.
            faulthandler.enable(_STDERR)
        return cls(node, reload, reactor, notifier, period, observer)

    def setServiceParent(self, parent: Any) -> None:
        """Be a part of twistd's application, which says by what twistd logs."""
        super().setServiceParent(parent)
        if self._observer is not None:
            parent.setComponent(ILogObserver, self._observer)

    def startService(self) -> None:
        """Start the node, however long that takes; tell when it serves."""
        # A signal handler may interrupt anything; the reactor does it when it is safe. Not later
        # than this: whoever sees that it listens may send the signal, which else would end it.
        signal.signal(signal.SIGHUP, relayed(self._reactor, self._hang_up))
        self._notifier.status("starting: looking at what an earlier daemon left")
        with self._notifier.extending():
            super().startService()
        if self._watchdog is not None:
            self._watchdog.start()
        if self._notifier.is_heard:
            showing: Deferred[Any] = self._showing.start(SHOWN_EVERY)
            showing.addErrback(lambda failure: self._log.failure("no status is shown", failure))
            self._await_service()

    def _await_service(self) -> None:
        patience: Deferred[Any] = deferLater(self._reactor, READY_WITHIN)
        waiting = DeferredList([self._node.booted, patience], fireOnOneCallback=True)
        waiting.addCallback(self._serves)
        waiting.addBoth(lambda _: patience.cancel())
        patience.addErrback(lambda _: None)

    def _serves(self, first: tuple[Any, int]) -> None:
        booted, which = first
        if which == 0 and not booted:
            return  # It ends; or has failed, and the manager that waits in vain starts it anew.
        self._is_ready = True
        self._notifier.ready(self._node.doing)
        if self._notifier.error is not None:
            self._log.warn(
                "the service manager could not be told that the node serves: {error}",
                error=self._notifier.error,
            )

    def _show(self) -> None:
        doing = self._node.doing
        if doing != self._shown:
            self._shown = doing
            self._notifier.status(doing)

    def _hang_up(self, *_: object) -> None:
        if not self._is_ready:
            self._reload()
            return
        self._notifier.reloading()
        try:
            self._reload()
        except Exception:
            self._log.failure("reloading failed")
        self._notifier.ready(self._node.doing)

    def stopService(self) -> Deferred[Any]:
        """Tell that the node is ending, and end it."""
        self._is_ready = False
        self._notifier.stopping(f"ending: {self._node.doing}", STOP_WITHIN + _MARGIN)
        if self._showing.running:
            self._showing.stop()
        ended: Deferred[Any] = super().stopService()
        return ended.addBoth(self._over)

    def _over(self, result: Any) -> Any:
        if self._watchdog:
            self._watchdog.stop()
        return result
