"""Reading the configuration anew while the node goes on serving."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from wingsd.config import Config, Ssl, differences, load
from wingsd.errors import ConfigError

__all__ = ["RELOADED", "Reload"]

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
