"""Reads a configuration file, and compares two configurations.

PyYAML reports errors of syntax with their place. For a value that does not fit its form or tag
(`2001-99-99`, `!!int x`) it raises various errors of Python.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs
import yaml

from wingsd.config.sections import (
    ApiConfig,
    Control,
    DockerConfig,
    Metrics,
    SearchConfig,
    SystemConfig,
    ThrottlesConfig,
)
from wingsd.config.validators import Seconds, is_uuid, not_empty, one_of, positive, url
from wingsd.config.vendors import (
    FAMILIES,
    PELICAN,
    defaults_of,
    family_of,
    is_unused,
    leads_to_unused,
)
from wingsd.errors import ConfigError, InvalidData
from wingsd.util.serialization import structure, unknown_keys
from wingsd.util.text import origin

__all__ = [
    "PLACES",
    "VARIABLES",
    "Config",
    "RemoteQuery",
    "differences",
    "find",
    "is_reference",
    "load",
    "parse",
    "read_yaml",
]

#: The variables that replace keys of the file, if they are not empty.
VARIABLES: Mapping[str, str] = {"token_id": "WINGS_TOKEN_ID", "token": "WINGS_TOKEN"}
_FILE = "file://"
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))", re.ASCII)


def is_reference(text: str) -> bool:
    """Return whether a credential is written elsewhere."""
    return text.startswith(_FILE) or "$" in text


def resolve(key: str, text: str, environ: Mapping[str, str]) -> str:
    """Return the credential that `text`, the value of `key`, stands for, as Wings does.

    `$NAME` and `${NAME}` in it stand for variables, and then `file:///path` for the content of a
    file.

    Raises `InvalidData` when a variable or a file is missing, or the credential empty.
    """
    if not is_reference(text):
        return text

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name not in environ:
            raise InvalidData(f"{key}: the variable {name}, which it names, is not set")
        return environ[name]

    found = _VARIABLE.sub(value, text)
    if found.startswith(_FILE):
        path = found.removeprefix(_FILE)
        try:
            found = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, ValueError) as error:
            raise InvalidData(f"{key}: {path}, which it names, cannot be read: {error}") from error
    if not found:
        raise InvalidData(f"{key}: what it names is empty")
    return found


T = TypeVar("T")

_MERGE = "tag:yaml.org,2002:merge"
_TWICE = "duplicate key"


class _Loader(yaml.SafeLoader):
    """A safe loader that reports the place of invalid values and of duplicate keys."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Return the value of a node."""
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception:
            raise yaml.MarkedYAMLError(problem_mark=node.start_mark) from None

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Return the node of a map. PyYAML takes the last of duplicate keys; YAML forbids them."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            # The merge key may be there several times.
            name = isinstance(key, yaml.ScalarNode) and (key.tag, key.value)
            if name in seen and key.tag != _MERGE:
                raise yaml.MarkedYAMLError(problem=_TWICE, problem_mark=key.start_mark)
            if name:
                seen.add(name)
        return node


def read_yaml(text: str) -> object:
    """Return the data of the one document in `text`.

    Raises `InvalidData` with the place of the fault, and no text of the file, which may be secret.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - it is a safe one
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"see line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        twice = getattr(error, "problem", None) == _TWICE
        raise InvalidData(f"{_TWICE}, {where}" if twice else where) from None
    except RecursionError:
        raise InvalidData("it is nested too deeply") from None


PLACES = ("/etc/wingsd/config.yml", "/etc/pterodactyl/config.yml", "/etc/pelican/config.yml")
"""The places of the configuration; the first that exists is used."""


@attrs.frozen(repr=False)
class RemoteQuery:
    """`remote_query`: how the Panel is asked."""

    #: The time to wait for an answer of the Panel, at least 30.
    timeout: Seconds = attrs.field(default=30, validator=positive)
    #: The number of servers per request when the node starts.
    boot_servers_per_page: int = attrs.field(default=50, validator=positive)


@attrs.frozen(repr=False)
class Config:
    """The whole file. `remote` (the Panel's address), `token_id` and `token` have no defaults."""

    #: The public half of the node's credentials at the Panel. The variable `WINGS_TOKEN_ID`
    #: replaces it; `$NAME` stands for a variable, and `file:///path` for the content of a file.
    token_id: str = attrs.field(validator=not_empty)
    #: The secret half. The Panel calls this node with it, and signs the tokens of transfers and
    #: consoles; with it anyone can send servers to this node. The variable `WINGS_TOKEN` replaces
    #: it, and it may be written as `token_id`.
    token: str = attrs.field(validator=not_empty, repr=False)
    #: The Panel's address, such as `https://panel.example.com`.
    remote: str = attrs.field(validator=url)
    #: Log more, such as each request.
    debug: bool = False
    #: The name that this node's lines in servers' consoles begin with: `[Pterodactyl Daemon]:`. It
    #: also serves to recognise the Panel's family if `family` is empty; with Pelican the default
    #: is `Pelican`.
    app_name: str = "Pterodactyl"
    #: The family of this node's Panel. Empty: recognised by the place of the file, its directories
    #: and `app_name` (wingsd's own).
    family: str = attrs.field(default="", validator=one_of("", *FAMILIES))
    #: The node's name at the Panel. It distinguishes this node's files in a shared
    #: `system.backup_directory`, and on the volume of `system.transfers.storage_pool`.
    uuid: str = ""
    api: ApiConfig = ApiConfig()
    system: SystemConfig = SystemConfig()
    remote_query: RemoteQuery = RemoteQuery()
    Search: SearchConfig = SearchConfig()
    docker: DockerConfig = DockerConfig()
    throttles: ThrottlesConfig = ThrottlesConfig()
    metrics: Metrics = Metrics()
    control: Control = Control()
    #: Directories of the host below which mounts of servers are allowed, after all symlinks in
    #: both are resolved; the engine gets the resolved path. Of a directory that servers can write
    #: to, allow only parts that all of them may access: a server that can rename directories there
    #: can replace one by a symlink between this node's check and the engine's. Direct transfers
    #: bring no mounts.
    allowed_mounts: tuple[str, ...] = ()
    #: Origins, in addition to the Panel's, from which browsers may call this node and open a
    #: WebSocket; `*` is any.
    allowed_origins: tuple[str, ...] = ()
    #: Refuse the changes that the Panel sends when the node's settings are saved there.
    ignore_panel_config_updates: bool = False
    #: Let pages of these origins call this node also when it has a private address and they come
    #: from a public one, where browsers ask for it.
    allow_cors_private_network: bool = False

    @property
    def is_pelican(self) -> bool:
        """True if this node serves a Pelican Panel."""
        traces = (self.system.data, self.system.root_directory, self.app_name)
        return family_of(self.family, traces) == PELICAN

    @property
    def deletes_dropped_backups(self) -> bool:
        """True if local backups that Pelican's page drops when a server moves are deleted."""
        return self.is_pelican and self.system.backups.remove_backups_on_server_delete

    def allows_origin(self, page: str) -> bool:
        """Return whether web pages of an origin, a value of the header `Origin`, may call."""
        return any(
            allowed == "*" or origin(allowed) == origin(page)
            for allowed in (self.remote, *self.allowed_origins)
        )


def parse(
    text: str, source: str, environ: Mapping[str, str] = os.environ
) -> tuple[Config, list[str]]:
    """Return the configuration written in `text` and the paths of unknown keys.

    A family's key that this node does not use is not unknown. `source` names the text in errors;
    `environ` may have the credentials. Raises `ConfigError`.
    """
    try:
        data = read_yaml(text)
    except InvalidData as error:
        raise ConfigError(f"{source} is not YAML: {error}".rstrip(": ")) from None
    try:
        config = _with_credentials(structure(_with_variables(data, environ), Config), environ)
    except InvalidData as error:
        raise ConfigError(f"{source} cannot be used:\n{error}") from error
    if missing := "\n".join(_missing(config)):
        raise ConfigError(f"{source} cannot be used:\n{missing}")
    return _of_its_family(config, data, source), _unknown(data)


def _with_variables(data: object, environ: Mapping[str, str]) -> object:
    if not isinstance(data, Mapping):
        return data
    given = {key: environ[name] for key, name in VARIABLES.items() if environ.get(name)}
    return {**data, **given}


def _with_credentials(config: Config, environ: Mapping[str, str]) -> Config:
    return attrs.evolve(
        config,
        token_id=resolve("token_id", config.token_id, environ),
        token=resolve("token", config.token, environ),
    )


def _unknown(data: Any) -> list[str]:
    keys = unknown_keys(data, Config)
    return [path for key, value in keys.items() for path in _not_unused(key, value)]


def _not_unused(path: str, value: object) -> Iterator[str]:
    """Yield `path`, or the paths below it, that are not keys of a family."""
    if is_unused(path, value):
        return
    below = leads_to_unused(path)
    if below and isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _not_unused(f"{path}.{key}", inner)
    elif not (below and value is None):
        yield path


def _missing(config: Config) -> Iterator[str]:
    """Yield a line for each key that is missing, and needed by something enabled."""
    ssl, pool = config.api.ssl, config.system.transfers.storage_pool
    if ssl.enabled and not (ssl.cert and ssl.key):
        yield "api.ssl: expected cert and key, the paths of two PEM files, since it is enabled"
    if pool.enabled and not pool.pool_name:
        yield "system.transfers.storage_pool: expected pool_name, since it is enabled"
    if pool.enabled and not is_uuid(config.uuid):
        yield (
            "uuid: expected that of the node, as the Panel prints it, since "
            "system.transfers.storage_pool is enabled"
        )


def _of_its_family(config: Config, data: Any, source: str) -> Config:
    """Return `config` with its family, and the defaults that are that family's own."""
    # Only a place in /etc is a trace: elsewhere files may have any path.
    place = source if source.startswith("/etc/") else ""
    system = config.system
    traces = (place, system.data, system.root_directory, config.app_name)
    family = family_of(config.family, traces)
    return attrs.evolve(_with_defaults(config, defaults_of(family), data), family=family)


def _with_defaults(section: T, defaults: Mapping[str, Any], written: Any) -> T:
    """Return a section of the configuration with other defaults, for keys that are not written."""
    keys = written if isinstance(written, Mapping) else {}
    changes = {}
    for key, value in defaults.items():
        if isinstance(value, Mapping):
            changes[key] = _with_defaults(getattr(section, key), value, keys.get(key))
        elif keys.get(key) is None:
            changes[key] = value
    return attrs.evolve(section, **changes)  # type: ignore[misc]


def find(places: Sequence[str] = PLACES) -> str:
    """Return the first of `places` that is there.

    Raises `ConfigError` if none exists, and for one that cannot be accessed: the next could be
    another node's.
    """
    for path in places:
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be accessed: {error.strerror}; run this as root or as a user "
                f"with access to it, or name another file (twistd wingsd --config)"
            ) from error
        return path
    raise ConfigError(
        f"no configuration found: none of {', '.join(places)} exists. Save the file that the "
        f"Panel shows on the node's Configuration tab as one of them, or name another file "
        f"(twistd wingsd --config, wingsctl check-config FILE)"
    )


def load(path: str) -> tuple[Config, list[str]]:
    """Return what `parse` makes of the file at `path`, with `system.data` free of symlinks.

    Raises `ConfigError`.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no {path}: save the node's configuration from the Panel there, "
            "or name another file (twistd wingsd --config, wingsctl check-config FILE)"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        why = (isinstance(error, OSError) and error.strerror) or error
        raise ConfigError(f"{path} cannot be read: {why}") from error
    config, unknown = parse(text, path)
    # As Wings does, whose containers have the resolved path.
    system = attrs.evolve(config.system, data=os.path.realpath(config.system.data))
    return attrs.evolve(config, system=system), unknown


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Return the paths of the keys whose values differ in two configurations, in order.

    Never the values, which may be secrets. A map or a list differs as a whole.
    """
    if one == other:
        return []
    if not attrs.has(type(one)):
        return [path]
    found = []
    for field in attrs.fields(type(one)):
        here = f"{path}.{field.name}" if path else field.name
        found += differences(getattr(one, field.name), getattr(other, field.name), here)
    return found
