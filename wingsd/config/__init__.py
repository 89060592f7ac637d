"""The node's configuration: the Panel's own `config.yml`, with Wings' defaults.

The classes here are the reference: a key's name, type and default are read from them. Keys that
only wingsd knows are marked so.
"""

from wingsd.config.loader import PLACES, Config, RemoteQuery, differences, find, load, parse
from wingsd.config.sections import (
    DEFAULT_SOCKET,
    ApiConfig,
    BackupsConfig,
    Control,
    DockerConfig,
    FormConfig,
    Interfaces,
    IPv4,
    IPv6,
    LimitsConfig,
    LogConfig,
    Metrics,
    NetworkConfig,
    Overhead,
    Registry,
    Rootless,
    Ssl,
    StoragePool,
    StreamsConfig,
    SystemConfig,
    TransfersConfig,
    User,
)
from wingsd.config.servers import (
    CrashDetectionConfig,
    MachineIdConfig,
    PasswdConfig,
    PelicanPasswdConfig,
    ThrottlesConfig,
)
from wingsd.config.vendors import CALAGOPUS, PELICAN, PTERODACTYL

__all__ = [
    "CALAGOPUS",
    "DEFAULT_SOCKET",
    "PELICAN",
    "PLACES",
    "PTERODACTYL",
    "ApiConfig",
    "BackupsConfig",
    "Config",
    "Control",
    "CrashDetectionConfig",
    "DockerConfig",
    "FormConfig",
    "IPv4",
    "IPv6",
    "Interfaces",
    "LimitsConfig",
    "LogConfig",
    "MachineIdConfig",
    "Metrics",
    "NetworkConfig",
    "Overhead",
    "PasswdConfig",
    "PelicanPasswdConfig",
    "Registry",
    "RemoteQuery",
    "Rootless",
    "Ssl",
    "StoragePool",
    "StreamsConfig",
    "SystemConfig",
    "ThrottlesConfig",
    "TransfersConfig",
    "User",
    "differences",
    "find",
    "load",
    "parse",
]
