"""`twistd wingsd`: the command's options, and the service that they make."""

from __future__ import annotations

import faulthandler
import linecache
import os
from typing import ClassVar

from twisted.application.service import Service
from twisted.logger import Logger
from twisted.python.usage import Options as UsageOptions

from wingsd.app import process
from wingsd.app.logging import LogOutput, log_source
from wingsd.app.process import set_thresholds, use_monotonic_clock
from wingsd.app.reload import with_system_user
from wingsd.app.service import Supervision
from wingsd.app.wiring import build_node
from wingsd.config import PLACES, Config, find, load
from wingsd.errors import ConfigError
from wingsd.http.listener import tcp_endpoint
from wingsd.systemd.sd_daemon import Notifier, passed_endpoint, watchdog_period
from wingsd.util.reactor import Reactor, installed_reactor

_STDERR = 2


class Options(UsageOptions):
    """The command line, and the configuration that it names."""

    optParameters: ClassVar[list[list[str | None]]] = [
        [
            "config",
            "c",
            None,
            "The node's configuration file. The default is the first of "
            f"{', '.join(PLACES)} that exists.",
        ],
        [
            "endpoint",
            "e",
            None,
            "The listening socket as a Twisted endpoint (systemd:domain=INET:index=0, "
            "tcp:8080, ...), in place of a socket passed by systemd, and of api.host and "
            "api.port.",
        ],
    ]
    config: Config
    unknown: list[str]

    def postOptions(self) -> None:
        """Read the configuration."""
        try:
            # Absolute: twistd changes to --rundir, and SIGHUP reads it again.
            self["config"] = os.path.abspath(self["config"] or find())
            self.config, self.unknown = load(self["config"])
        except ConfigError as error:
            # Not a UsageError, on which older versions of twistd exit with 0.
            raise SystemExit(f"wingsd: {error}") from error


def makeService(options: Options, reactor: Reactor | None = None) -> Service:
    """Return the service. `reactor` defaults to the installed one."""
    reactor = reactor or installed_reactor()
    logs = LogOutput(debug=options.config.debug)
    Logger().info("the configuration is {path}", path=options["config"])
    if options.unknown:
        Logger().warn("unknown configuration keys: {keys}", keys=", ".join(options.unknown))
    use_monotonic_clock(reactor)
    set_thresholds()
    # attrs and cattrs keep the sources of methods there that they have made, half a MiB.
    linecache.clearcache()
    _allow_many_files()
    config = with_system_user(options.config)
    api = config.api
    try:
        endpoint = (
            options["endpoint"] or passed_endpoint(reactor) or tcp_endpoint(api.host, api.port)
        )
        node = build_node(config, endpoint, reactor, options["config"])
    except ConfigError as error:
        raise SystemExit(f"wingsd: {error}") from error
    if options.parent is not None:
        node.context.own_log.source = log_source(options.parent)
    node.context.live.follow(lambda changed: logs.show_debug(changed.debug))
    observer = None if options.parent is None else logs.observer(options.parent, reactor)
    notifier, period = Notifier.from_environment(os.environ), watchdog_period(os.environ)
    if period is not None:
        # The watchdog sends SIGABRT: print the tracebacks of all threads.
        faulthandler.enable(_STDERR)
    return Supervision(node, node.reload, reactor, notifier, period, observer)


def _allow_many_files() -> None:
    limit = process.raise_limit()
    Logger().info("at most {limit} files and connections can be open", limit=limit)
    if limit < process.RECOMMENDED_LIMIT:
        Logger().warn(
            "the limit is low; allow {recommended} (LimitNOFILE= in a systemd unit, ulimit -Hn in "
            "a shell)",
            recommended=process.RECOMMENDED_LIMIT,
        )
