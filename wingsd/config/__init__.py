"""The node's configuration: the Panel's own `config.yml`, with Wings' defaults.

The classes here are the reference: a key's name, type and default are read from them. Keys that
only wingsd knows are marked so.
"""

from wingsd.config.api import DEFAULT_SOCKET, Api, Control, Limits, Metrics, Ssl
from wingsd.config.docker import (
    Docker,
    Interfaces,
    IPv4,
    IPv6,
    LogConfig,
    Network,
    Overhead,
    Registry,
)
from wingsd.config.loader import PLACES, Config, RemoteQuery, differences, find, load, parse
from wingsd.config.system import (
    Backups,
    Form,
    Rootless,
    StoragePool,
    Streams,
    System,
    Transfers,
    User,
)
from wingsd.config.vendors import CALAGOPUS, PELICAN, PTERODACTYL

__all__ = [
    "CALAGOPUS",
    "DEFAULT_SOCKET",
    "PELICAN",
    "PLACES",
    "PTERODACTYL",
    "Api",
    "Backups",
    "Config",
    "Control",
    "Docker",
    "Form",
    "IPv4",
    "IPv6",
    "Interfaces",
    "Limits",
    "LogConfig",
    "Metrics",
    "Network",
    "Overhead",
    "Registry",
    "RemoteQuery",
    "Rootless",
    "Ssl",
    "StoragePool",
    "Streams",
    "System",
    "Transfers",
    "User",
    "differences",
    "find",
    "load",
    "parse",
]
