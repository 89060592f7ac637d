"""The node's configuration: the Panel's own `config.yml`, with Wings' defaults.

The classes here are the reference: a key's name, type and default are read from them. Keys that
only wingsd knows are marked so.
"""

from wingsd.config.api import DEFAULT_SOCKET, ApiConfig, Control, LimitsConfig, Metrics, Ssl
from wingsd.config.docker import (
    DockerConfig,
    Interfaces,
    IPv4,
    IPv6,
    LogConfig,
    NetworkConfig,
    Overhead,
    Registry,
)
from wingsd.config.loader import PLACES, Config, RemoteQuery, differences, find, load, parse
from wingsd.config.servers import (
    CrashDetectionConfig,
    InstallerLimits,
    MachineIdConfig,
    PasswdConfig,
    PelicanPasswdConfig,
    SearchConfig,
    ThrottlesConfig,
)
from wingsd.config.system import BackupsConfig, Rootless, SystemConfig, User
from wingsd.config.transfers import (
    FormConfig,
    LiveMovesConfig,
    MovesConfig,
    StoragePool,
    StreamsConfig,
    TransfersConfig,
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
    "InstallerLimits",
    "Interfaces",
    "LimitsConfig",
    "LiveMovesConfig",
    "LogConfig",
    "MachineIdConfig",
    "Metrics",
    "MovesConfig",
    "NetworkConfig",
    "Overhead",
    "PasswdConfig",
    "PelicanPasswdConfig",
    "Registry",
    "RemoteQuery",
    "Rootless",
    "SearchConfig",
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
