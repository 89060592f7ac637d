"""Changes of the node's settings by its Panel: saved one after the other, logged, put in force."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

import attrs
from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from wingsd.config import (
    APPLIED,
    CALAGOPUS,
    VARIABLES,
    Config,
    LiveConfig,
    differences,
    is_reference,
    parse,
    port,
    positive,
    read_yaml,
    value_at,
)
from wingsd.config_file.editing import FileChanged, Value, edited, replace_file
from wingsd.errors import (
    ConfigError,
    Conflict,
    InvalidData,
    SettingsNotSaved,
    Unprocessable,
    WingsdError,
)
from wingsd.threadio import Workers
from wingsd.util.net import ServerCertificate
from wingsd.util.serialization import Keywords
from wingsd.util.text import disk_advice

_optional = attrs.validators.optional


@attrs.frozen(repr=False)
class SslSettings:
    """TLS of the node's interface."""

    enabled: bool | None = None
    cert: Annotated[str | None, "The path of a PEM file on the node."] = None
    key: Annotated[str | None, "The path of a PEM file on the node."] = None


@attrs.frozen(repr=False)
class ApiSettings:
    """The node's interface."""

    host: str | None = None
    port: int | None = None
    ssl: SslSettings = SslSettings()
    upload_limit: Annotated[int | None, "In MiB.", Keywords(minimum=1)] = attrs.field(
        default=None, validator=_optional(positive)
    )


@attrs.frozen(repr=False)
class SftpSettings:
    """The node's SFTP."""

    bind_address: str | None = None
    bind_port: Annotated[int | None, Keywords(minimum=1, maximum=65535)] = attrs.field(
        default=None, validator=_optional(port)
    )


@attrs.frozen(repr=False)
class SystemSettings:
    """The keys of `system` that may be changed."""

    sftp: SftpSettings = SftpSettings()


@attrs.frozen(repr=False)
class NodeSettings:
    """The node's settings at its Panel. What is absent stays."""

    uuid: str | None = None
    token_id: str | None = None
    token: str | None = None
    remote: Annotated[str | None, "The Panel's address."] = None
    debug: bool | None = None
    app_name: str | None = None
    api: ApiSettings = ApiSettings()
    system: SystemSettings = SystemSettings()
    allowed_mounts: tuple[str, ...] | None = None
    allowed_origins: tuple[str, ...] | None = None
    allow_cors_private_network: bool | None = None
    ignore_panel_config_updates: bool | None = None


_BY_ALL = {
    "debug",
    "api.host",
    "api.port",
    "api.ssl.enabled",
    "api.ssl.cert",
    "api.ssl.key",
    "api.upload_limit",
    "system.sftp.bind_address",
    "system.sftp.bind_port",
}
_BY_OTHERS = {"uuid", "token_id", "token", "remote", "allowed_mounts"}
_BY_CALAGOPUS = {
    "app_name",
    "allowed_origins",
    "allow_cors_private_network",
    "ignore_panel_config_updates",
}


def taken_over(family: str) -> set[str]:
    """Return the dotted paths of the keys that nodes of a family take over."""
    return _BY_ALL | (_BY_CALAGOPUS if family == CALAGOPUS else _BY_OTHERS)


def values(settings: Any, path: str = "") -> Iterator[tuple[str, Value]]:
    """Yield the settings that are not absent, each with its dotted path."""
    for field in attrs.fields(attrs.resolve_types(type(settings))):
        value, here = getattr(settings, field.name), f"{path}.{field.name}".lstrip(".")
        if attrs.has(field.type):
            yield from values(value, here)
        elif value is not None:
            yield here, value


_INVALID = "The data provided in the request could not be validated."
#: What a Panel sends when no other paths were named to it: the node's own stay.
_PANELS_CERTIFICATE = "/etc/letsencrypt/live/"
_ATTEMPTS = 3


@attrs.frozen(repr=False)
class Saved:
    """The outcome of saving a Panel's settings, as the dotted paths of keys.

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
        certificate = {"api.ssl.cert", "api.ssl.key"} & changes.keys()
        is_panels = any(str(changes[key]).startswith(_PANELS_CERTIFICATE) for key in certificate)
        if is_panels and self.config.api.ssl.cert and self.config.api.ssl.key:
            for key in certificate:
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
        ssl = config.api.ssl
        if ssl.enabled and any(key.startswith("api.ssl.") for key in changes):
            try:
                ServerCertificate(ssl.cert, ssl.key)
            except ConfigError as error:
                raise Unprocessable(_INVALID, str(error)) from error
        return text


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


class PanelUpdates:
    """Saves a Panel's settings in the configuration's file, and puts them in force.

    The Panel has saved them before it sends them, and does so whatever the answer is. So they are
    written before the answer: if it is lost, both sides have the same token nevertheless. Where
    they are refused, the log says what to do. `reload` reads the file.
    """

    _log = Logger()

    def __init__(self, live: LiveConfig, disk: Workers, reload: Callable[[], object]) -> None:
        self._live = live
        self._disk = disk
        self._reload = reload
        self._lock = DeferredLock()
        #: The values that were last not taken over, by their keys.
        self._left_out: Mapping[str, object] = {}

    async def save(
        self, settings: NodeSettings, others: Mapping[str, object]
    ) -> Sequence[str] | None:
        """Save what this node takes over of the settings; None where it takes over none.

        `others` are what was sent besides, by dotted paths. They are in force after `apply`, but
        for those that are returned: they wait for a restart. Raises `Unprocessable`, `Conflict`,
        `SettingsNotSaved`.
        """
        if not self._live.path:
            raise SettingsNotSaved("this node was started without a configuration file")
        await self._lock.acquire()
        try:
            saved = await self._disk.run(save, self._live.path, settings, others)
        except WingsdError as error:
            self._log.error("the Panel's settings are not saved: {error}", error=error)
            self._compare_tokens(settings)
            raise
        finally:
            self._lock.release()
        self._report(saved, settings, {**others, **dict(values(settings))})
        if saved.is_ignored:
            return None
        changed = {key: value for key, value in values(settings) if key in saved.changed}
        self._warn_if_open(str(changed.get("api.host", "")))
        return [
            key
            for key, value in changed.items()
            if key not in APPLIED and value != value_at(self._live.current, key)
        ]

    def apply(self) -> None:
        """Put the saved settings in force; the log names those that need a restart."""
        self._reload()

    def _report(self, saved: Saved, settings: NodeSettings, sent: Mapping[str, object]) -> None:
        if saved.is_ignored:
            self._log.info(
                "the Panel's settings are not saved, as ignore_panel_config_updates says"
            )
            self._compare_tokens(settings)
        if saved.changed:
            self._log.info(
                "{path}: changed by the Panel: {keys}",
                path=self._live.path,
                keys=", ".join(saved.changed),
            )
        before = self._left_out
        self._left_out = {key: sent[key] for key in saved.left_out}
        # Panels send all of them at each save.
        new = [key for key, value in self._left_out.items() if before.get(key) != value]
        if new:
            self._log.warn(
                "not taken over from the Panel, since only an operator may change it: {keys}",
                keys=", ".join(new),
            )

    def _warn_if_open(self, host: str) -> None:
        """Log a change of `api.host` that lets more than one address reach this node."""
        own = self._live.current.api.host
        if _is_any(host) and not _is_any(own):
            self._log.warn(
                "{path}: the Panel has changed api.host to {host}: after its next restart this "
                "node listens at all addresses of this machine, and not at {own} only. To keep "
                "that, write `api.host: {own}` and `ignore_panel_config_updates: true` there",
                path=self._live.path,
                host=host,
                own=own,
            )

    def _compare_tokens(self, settings: NodeSettings) -> None:
        """Log what to do when the Panel has a token that this node does not."""
        config = self._live.current
        own = (config.token_id, config.token)
        if (settings.token_id or own[0], settings.token or own[1]) != own:
            self._log.error(
                "the Panel has another token for this node: copy token_id and token from the "
                "node's Configuration tab into {path}, then reload this node",
                path=self._live.path,
            )


def _is_any(host: str) -> bool:
    """Return whether a host to listen at stands for all addresses of the machine."""
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False
