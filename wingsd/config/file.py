"""The whole file, read and checked. Reading it is the only thing done to the world."""

from __future__ import annotations

from pathlib import Path

import attrs

from wingsd.config.api import Api
from wingsd.config.checks import not_empty, positive, url
from wingsd.config.control import Control
from wingsd.config.docker import Docker
from wingsd.config.system import System
from wingsd.errors import ConfigError, InvalidData
from wingsd.structure import structure, unknown_keys
from wingsd.yamldata import read_yaml

__all__ = ["DEFAULT_PATH", "Config", "RemoteQuery", "load", "parse"]

DEFAULT_PATH = "/etc/pterodactyl/config.yml"


@attrs.frozen
class RemoteQuery:
    """`remote_query`: seconds to wait for the Panel, servers to ask for at once."""

    timeout: int = attrs.field(default=30, validator=positive)
    boot_servers_per_page: int = attrs.field(default=50, validator=positive)


@attrs.frozen
class Config:
    """The whole file. `remote` (the Panel's address), `token_id` and `token` have no defaults."""

    token_id: str = attrs.field(validator=not_empty)
    token: str = attrs.field(validator=not_empty, repr=False)
    remote: str = attrs.field(validator=url)
    debug: bool = False
    app_name: str = "Pterodactyl"
    uuid: str = ""
    api: Api = Api()
    system: System = System()
    remote_query: RemoteQuery = RemoteQuery()
    docker: Docker = Docker()
    control: Control = Control()
    allowed_mounts: tuple[str, ...] = ()
    #: Origins of browsers, beside the Panel's own, that may open a WebSocket; `*` is any.
    allowed_origins: tuple[str, ...] = ()

    @property
    def is_pelican(self) -> bool:
        """Whether this node serves a Pelican Panel, told by the directories it was given."""
        return "/pelican" in self.system.data or "/pelican" in self.system.root_directory


def parse(text: str, source: str) -> tuple[Config, list[str]]:
    """Return the configuration written in `text` and the paths of the keys it did not know.

    `source` names the text in errors. Raises `ConfigError`.
    """
    try:
        data = read_yaml(text)
    except InvalidData as error:
        raise ConfigError(f"{source} is not YAML: {error}".rstrip(": ")) from None
    try:
        config = structure(data, Config)
    except InvalidData as error:
        raise ConfigError(f"{source} cannot be used:\n{error}") from error
    if config.api.ssl.enabled and not (config.api.ssl.cert and config.api.ssl.key):
        raise ConfigError(
            f"{source} cannot be used:\n"
            "api.ssl: expected cert and key, the paths of two PEM files, since it is enabled"
        )
    return config, unknown_keys(data, Config)


def load(path: str) -> tuple[Config, list[str]]:
    """Return what `parse` makes of the file at `path`. Raises `ConfigError`."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no {path}: save the node's configuration from the Panel there, "
            "or name another file with --config"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    return parse(text, path)
