"""`twistd wingsd`: the command's options, and the service that they make."""

from __future__ import annotations

import os
import pwd
from typing import Any, ClassVar

import attrs
from twisted.application.service import Service
from twisted.logger import Logger
from twisted.python.usage import Options as UsageOptions

from wingsd.app import process as descriptors
from wingsd.app.daemon import Node
from wingsd.app.logging import LogOutput
from wingsd.app.process import set_thresholds, steady
from wingsd.app.service import Reload, Supervision
from wingsd.config import PLACES, Config, find, load
from wingsd.errors import ConfigError
from wingsd.http.listener import tcp_endpoint
from wingsd.systemd import passed_endpoint

__all__ = ["Options", "makeService"]


class Options(UsageOptions):
    """The command line. A configuration that cannot be used is refused here."""

    optParameters: ClassVar[list[list[str | None]]] = [
        [
            "config",
            "c",
            None,
            "The node's configuration, as the Panel prints it. By default the first that is "
            f"there of {', '.join(PLACES)}.",
        ],
        [
            "endpoint",
            "e",
            None,
            "Where to listen, as a Twisted endpoint (systemd:domain=INET:index=0, "
            "tcp:8080, ...), in place of a socket that systemd passes, and of api.host and "
            "api.port.",
        ],
    ]
    config: Config
    unknown: list[str]

    def postOptions(self) -> None:
        """Read the configuration."""
        try:
            # Read anew on SIGHUP, when twistd is in the directory of --rundir.
            self["config"] = os.path.abspath(self["config"] or find())
            self.config, self.unknown = load(self["config"])
        except ConfigError as error:
            # Not a UsageError: older versions of twistd exit with 0 on that.
            raise SystemExit(f"wingsd: {error}") from error


def makeService(options: Options, reactor: Any = None) -> Service:
    """Return the node that `options` describe. `reactor` defaults to the one that is installed."""
    if reactor is None:
        # Importing it installs one, which must be left to whoever starts the program.
        from twisted.internet import reactor  # noqa: PLC0415
    logs = LogOutput(debug=options.config.debug)
    Logger().info("the configuration is {path}", path=options["config"])
    if options.unknown:
        Logger().warn("configuration keys not known: {keys}", keys=", ".join(options.unknown))
    steady(reactor)
    set_thresholds()
    _allow_many_files()
    config = with_system_user(options.config)
    api = config.api
    try:
        endpoint = (
            options["endpoint"] or passed_endpoint(reactor) or tcp_endpoint(api.host, api.port)
        )
        node = Node(config, endpoint, reactor)
    except ConfigError as error:
        raise SystemExit(f"wingsd: {error}") from error
    reload = Reload(options["config"], options.config, logs.show_debug, node.renew_certificate)
    observer = None if options.parent is None else logs.observer(options.parent, reactor)
    return Supervision.from_environment(node, reload, reactor, observer)


def _allow_many_files() -> None:
    limit = descriptors.raise_limit()
    Logger().info("at most {limit} files and connections at a time", limit=limit)
    if limit < descriptors.ENOUGH:
        Logger().warn(
            "that is little; let whatever starts wingsd allow {enough} (LimitNOFILE= in a systemd "
            "unit, ulimit -Hn in a shell)",
            enough=descriptors.ENOUGH,
        )


def with_system_user(config: Config) -> Config:
    """Return `config` with the ids of the account `system.username`, if there is one."""
    user = config.system.user
    if user.rootless.enabled:
        return config
    try:
        account = pwd.getpwnam(config.system.username)
    except KeyError:
        return config
    user = attrs.evolve(user, uid=account.pw_uid, gid=account.pw_gid)
    return attrs.evolve(config, system=attrs.evolve(config.system, user=user))
