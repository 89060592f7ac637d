"""Saves the settings that a Panel sends in the configuration's file, or refuses all of them."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from wingsd.config import Config, Ssl, differences, parse
from wingsd.config.credentials import VARIABLES, is_reference
from wingsd.config.live import value_at
from wingsd.config.loader import read_yaml
from wingsd.config_file.editing import Value, edited
from wingsd.config_file.panel_settings import NodeSettings, taken_over, values
from wingsd.config_file.replacing import FileChanged, replace_file
from wingsd.errors import (
    ConfigError,
    Conflict,
    InvalidData,
    SettingsNotSaved,
    Unprocessable,
)
from wingsd.util.net import ServerCertificate
from wingsd.util.text import disk_advice

__all__ = ["Saved", "save"]

_INVALID = "The data provided in the request could not be validated."
#: What a Panel sends when no other paths were named to it: the node's own stay.
_PANELS_CERTIFICATE = "/etc/letsencrypt/live/"
_ATTEMPTS = 3


@attrs.frozen
class Saved:
    """What has come of a Panel's settings, as the dotted paths of keys.

    `left_out` are those that differ from the node's, and are not taken over. None is taken over
    where the node's configuration says so, and `is_ignored` is true.
    """

    changed: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    is_ignored: bool = False


def save(path: str, settings: NodeSettings, others: Mapping[str, object]) -> Saved:
    """Save in the file at `path` what nodes of its family take over of the settings.

    `others` are what the Panel sent besides, by dotted paths. Nothing is changed when one value is
    invalid. Raises `Unprocessable`, `Conflict`, `SettingsNotSaved`.
    """
    for _ in range(_ATTEMPTS):
        try:
            before = Path(path).read_bytes()
            file = _File(path, before.decode())
            if file.config.ignore_panel_config_updates:
                return Saved(is_ignored=True)
            changes, left_out = file.compared(settings, others)
            if changes:
                replace_file(path, file.changed(changes).encode(), expected=before)
            return Saved(tuple(changes), tuple(left_out))
        except FileChanged:
            continue
        except UnicodeDecodeError as error:
            raise SettingsNotSaved(f"{path} cannot be read: {error}") from error
        except OSError as error:
            raise SettingsNotSaved(f"{path} cannot be replaced: {disk_advice(error)}") from error
    raise SettingsNotSaved(f"{path} is being changed by somebody else; try again")


class _File:
    """The text of the file at `path`, and the configuration that it contains."""

    def __init__(self, path: str, text: str) -> None:
        """Raise `SettingsNotSaved` when the text is no valid configuration."""
        self._path = path
        self._text = text
        try:
            self.config, _ = parse(text, path)
        except ConfigError as error:
            reason = "; ".join(str(error).split("\n"))
            raise SettingsNotSaved(f"{reason}; correct it, then save again") from error
        self._data: Any = read_yaml(text)

    def compared(
        self, settings: NodeSettings, others: Mapping[str, object]
    ) -> tuple[dict[str, Value], list[str]]:
        """Return the values to be changed, and the paths of those that are left out.

        Raises `Conflict` for credentials that are not in the file.
        """
        sent = dict(values(settings))
        taken = taken_over(self.config.family)
        changes = {
            key: value for key, value in sent.items() if key in taken and self._value(key) != value
        }
        for key in _kept_certificate(changes, self.config.api.ssl):
            del changes[key]
        for key in VARIABLES.keys() & changes.keys():
            self._check_credential(key, str(changes[key]))
        if "app_name" in changes and not self._data.get("family"):
            # The name may be the only trace of the family.
            changes["family"] = self.config.family
        refused = {**others, **{key: value for key, value in sent.items() if key not in taken}}
        return changes, [key for key, value in refused.items() if self._value(key) != value]

    def _value(self, key: str) -> object:
        """Return the present value of a key; None for one that is neither known nor written."""
        try:
            return value_at(self.config, key)
        except AttributeError:
            found = self._data
            for name in key.split("."):
                found = found.get(name) if isinstance(found, Mapping) else None
            return found

    def _check_credential(self, key: str, sent: str) -> None:
        if is_reference(sent):
            raise Unprocessable(_INVALID, f"{key}: expected the text itself, without $ and file:")
        where = ""
        if os.environ.get(VARIABLES[key]):
            where = f"the variable {VARIABLES[key]}"
        elif is_reference(written := str(self._data.get(key))):
            where = written
        if where:
            raise Conflict(
                "this node's token is not in its configuration",
                f"{key}: it comes from {where}; put the Panel's there, then reload this node",
            )

    def changed(self, changes: Mapping[str, Value]) -> str:
        """Return the text with the changes.

        Raises `Unprocessable` when a value cannot be used, `SettingsNotSaved` when the text cannot
        be changed.
        """
        try:
            text = edited(self._text, changes)
        except InvalidData as error:
            raise SettingsNotSaved(f"{self._path} cannot be changed: {error}") from error
        try:
            config, _ = parse(text, self._path)
        except ConfigError as error:
            _, *faults = str(error).split("\n")
            raise Unprocessable(_INVALID, "; ".join(faults) or str(error)) from error
        also = set(differences(self.config, config)) - changes.keys()
        if also:
            # One value in several places, by an anchor.
            raise SettingsNotSaved(
                f"{self._path} cannot be changed: it shares values between "
                f"{', '.join(sorted({*changes, *also}))}; write them separately"
            )
        _check_listening(config, changes)
        _check_certificate(config.api.ssl, changes)
        return text


def _kept_certificate(changes: Mapping[str, Value], own: Ssl) -> set[str]:
    """Return the keys of the certificate that stay the node's own."""
    keys = {"api.ssl.cert", "api.ssl.key"} & changes.keys()
    is_panels = any(str(changes[key]).startswith(_PANELS_CERTIFICATE) for key in keys)
    return keys if is_panels and own.cert and own.key else set()


def _check_certificate(ssl: Ssl, changes: Mapping[str, Value]) -> None:
    if not ssl.enabled or not any(key.startswith("api.ssl.") for key in changes):
        return
    try:
        ServerCertificate(ssl.cert, ssl.key)
    except ConfigError as error:
        raise Unprocessable(_INVALID, str(error)) from error


def _check_listening(config: Config, changes: Mapping[str, Value]) -> None:
    """Check that a new port is free; the node listens at the old one until it is restarted."""
    if "api.port" not in changes:
        return
    api = config.api
    family = socket.AF_INET6 if ":" in api.host else socket.AF_INET
    try:
        socket.create_server((api.host, api.port), family=family).close()
    except (TypeError, ValueError) as error:  # NUL, or what IDNA does not allow
        raise Unprocessable(
            _INVALID, f"api.port: cannot listen at {api.host!r}: {error}"
        ) from error
    except OSError as error:
        reason = "another program uses it" if error.errno == errno.EADDRINUSE else error.strerror
        raise Unprocessable(
            _INVALID, f"api.port: cannot listen at {api.host} port {api.port}: {reason or error}"
        ) from error
