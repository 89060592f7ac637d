"""Reloading: changes of the configuration's file and of the certificate, without a restart."""

from __future__ import annotations

import pwd
from collections.abc import Callable

import attrs
from twisted.logger import Logger

from wingsd.config import Config, LiveConfig, Ssl, differences, load
from wingsd.errors import ConfigError


class Reload:
    """Applies changes of the configuration's file, and logs those that need a restart.

    `renew_certificate` reads the certificate and returns whether TLS is used. Errors are logged;
    the old values stay in use.
    """

    _log = Logger()

    def __init__(self, live: LiveConfig, renew_certificate: Callable[[Ssl], bool]) -> None:
        self._live = live
        self._read = live.current
        self._ssl = live.current.api.ssl
        self._renew_certificate = renew_certificate

    def __call__(self, *, only_new: bool = False) -> None:
        """Read configuration and certificate. Does not raise.

        With `only_new`, changes that need a restart are logged unless an earlier call has read
        them.
        """
        ssl = self._ssl
        try:
            config, _ = load(self._live.path)
        except ConfigError as error:
            self._log.error("configuration not reloaded: {error}", error=error)
        else:
            self._apply(with_system_user(config), only_new=only_new)
            if not only_new:
                self._log.info("configuration reloaded: {path}", path=self._live.path)
            if config.api.ssl.enabled:
                ssl = config.api.ssl
        # Also with an invalid file: certificates are renewed independently of it.
        self._read_certificate(ssl)

    def _apply(self, config: Config, *, only_new: bool) -> None:
        need_restart = self._live.replace(config)
        new, self._read = differences(self._read, config), config
        if only_new:
            need_restart = [key for key in need_restart if key in new]
        if need_restart:
            self._log.warn(
                "{path}: changes that need a restart: {keys}",
                path=self._live.path,
                keys=", ".join(need_restart),
            )

    def _read_certificate(self, ssl: Ssl) -> None:
        try:
            is_used = self._renew_certificate(ssl)
        except ConfigError as error:
            self._log.error("certificate not reloaded: {error}", error=error)
            return
        self._ssl = ssl
        if is_used:
            self._log.info("certificate reloaded")


def with_system_user(config: Config) -> Config:
    """Return `config` with the ids of the account `system.username`, if it exists."""
    user = config.system.user
    if user.rootless.enabled:
        return config
    try:
        account = pwd.getpwnam(config.system.username)
    except KeyError:
        return config
    user = attrs.evolve(user, uid=account.pw_uid, gid=account.pw_gid)
    return attrs.evolve(config, system=attrs.evolve(config.system, user=user))
