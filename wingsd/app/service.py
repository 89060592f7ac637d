"""The daemon as a service: readiness, status and watchdog for the manager, and reloading."""

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

from wingsd.app.daemon import STOP_WITHIN, Node
from wingsd.config import Config, Ssl, differences, load
from wingsd.errors import ConfigError
from wingsd.systemd import Notifier, Watchdog, watchdog_period
from wingsd.threadio import relayed

__all__ = ["READY_WITHIN", "RELOADED", "SHOWN_EVERY", "Reload", "Supervision"]

RELOADED = frozenset({"debug", "api.ssl.cert", "api.ssl.key"})
"""The keys that need no new start."""


class Reload:
    """Takes what can be changed at once from the file at `path`, and tells what else differs.

    `config` is what that file was at the start. `show_debug` sets the log's level, as `Logs` does,
    and `renew_certificate` reads a certificate, as `Node` does. What is no good is logged, and
    what was in use before stays.
    """

    _log = Logger()

    def __init__(
        self,
        path: str,
        config: Config,
        show_debug: Callable[[bool], None],
        renew_certificate: Callable[[Ssl], bool],
    ) -> None:
        self._path = path
        self._config = config
        self._ssl = config.api.ssl
        self._show_debug = show_debug
        self._renew_certificate = renew_certificate

    def __call__(self) -> None:
        """Read configuration and certificate. Raises nothing."""
        ssl = self._ssl
        try:
            config, _ = load(self._path)
        except ConfigError as error:
            self._log.error("the configuration in use stays: {error}", error=error)
        else:
            self._show_debug(config.debug)
            self._compare(config)
            if config.api.ssl.enabled:
                ssl = config.api.ssl
        # With a file that is no good too: a certificate is renewed by programs that do not know.
        self._read_certificate(ssl)

    def _read_certificate(self, ssl: Ssl) -> None:
        try:
            is_used = self._renew_certificate(ssl)
        except ConfigError as error:
            self._log.error("the certificate in use stays: {error}", error=error)
            return
        self._ssl = ssl
        if is_used:
            self._log.info("the certificate was read anew")

    def _compare(self, config: Config) -> None:
        differing = [key for key in differences(self._config, config) if key not in RELOADED]
        if differing:
            self._log.warn(
                "{path} differs from what this node was started with, and it needs to be started "
                "again to use it: {keys}",
                path=self._path,
                keys=", ".join(differing),
            )


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
