"""The node's settings as a Panel sends them, and which of them a node takes over.

Directories are not among them: anyone with the node's token could make the daemon write anywhere
(CVE-2024-34066).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import attrs

from wingsd.config import CALAGOPUS, port, positive
from wingsd.config_file.editing import Value
from wingsd.util.serialization import Keywords

__all__ = ["NodeSettings", "taken_over", "values"]

_optional = attrs.validators.optional


@attrs.frozen
class SslSettings:
    """TLS of the node's interface."""

    enabled: bool | None = None
    cert: Annotated[str | None, "The path of a PEM file on the node."] = None
    key: Annotated[str | None, "The path of a PEM file on the node."] = None


@attrs.frozen
class ApiSettings:
    """The node's interface."""

    host: str | None = None
    port: int | None = None
    ssl: SslSettings = SslSettings()
    upload_limit: Annotated[int | None, "In MiB.", Keywords(minimum=1)] = attrs.field(
        default=None, validator=_optional(positive)
    )


@attrs.frozen
class SftpSettings:
    """The node's SFTP."""

    bind_address: str | None = None
    bind_port: Annotated[int | None, Keywords(minimum=1, maximum=65535)] = attrs.field(
        default=None, validator=_optional(port)
    )


@attrs.frozen
class SystemSettings:
    """What of `system` may be changed."""

    sftp: SftpSettings = SftpSettings()


@attrs.frozen
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
