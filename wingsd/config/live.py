"""The configuration in force, which a reload changes in part while the daemon runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from wingsd.config import Config, differences

#: The keys that take effect while the daemon runs; others need a restart.
APPLIED = frozenset(
    {
        "token_id",
        "token",
        "remote",
        "debug",
        "api.ssl.cert",
        "api.ssl.key",
        "api.upload_limit",
        "allowed_mounts",
        "allowed_origins",
        "allow_cors_private_network",
        "ignore_panel_config_updates",
        "system.sftp.read_only",
        "system.sftp.key_only",
        "system.sftp.disable_password_auth",
    }
)


class LiveConfig:
    """The configuration in force. Objects that outlive a request follow its changes.

    `started` is the configuration at the start, `path` its file, empty without one.
    """

    def __init__(self, started: Config, path: str = "") -> None:
        self.path = path
        self.current = started
        self._followers: list[Callable[[Config], object]] = []

    def follow(self, use: Callable[[Config], object]) -> None:
        """Call `use` with each later configuration."""
        self._followers.append(use)

    def replace(self, config: Config) -> list[str]:
        """Put the keys of `APPLIED` in force; return the paths of the others that differ."""
        differing = differences(self.current, config)
        applied = {path: value_at(config, path) for path in differing if path in APPLIED}
        if applied:
            self.current = _with_values(self.current, applied)
            for use in self._followers:
                use(self.current)
        return [path for path in differing if path not in APPLIED]


def value_at(section: Any, path: str) -> Any:
    """Return the value of a key by its dotted path. Raises `AttributeError` for an unknown key."""
    for name in path.split("."):
        section = getattr(section, name)
    return section


def _with_values(config: Config, values: dict[str, Any]) -> Config:
    for path, value in values.items():
        config = _with_value(config, path.split("."), value)
    return config


def _with_value(section: Any, names: list[str], value: Any) -> Any:
    name, *rest = names
    inner = _with_value(getattr(section, name), rest, value) if rest else value
    return attrs.evolve(section, **{name: inner})
