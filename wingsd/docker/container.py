"""What Docker is asked for: a container, and the network it joins, as Engine API JSON.

Pure: from the node's configuration and a server to Docker Engine API JSON. The network driver's
options are those Wings gives, so that a network either of them made serves both.

Pure: values in, values out. `docker` carries the result to the engine and decides nothing.
The bodies hold the field names of the Docker Engine API; their contents are what Wings gives a
server, since eggs, images and people's firewalls rely on it.
"""

from __future__ import annotations

import posixpath
import re
import reprlib
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any

import attrs

from wingsd.config import Config, Overhead, Registry
from wingsd.errors import EnvironmentFailed
from wingsd.panel.schemas import Allocations, Build, Mount, Settings

__all__ = [
    "HOME",
    "ContainerSpec",
    "ImageSource",
    "NetworkSpec",
    "check_variables",
    "container_spec",
    "home_directory",
    "image_source",
    "is_below",
    "network_mode",
    "network_spec",
    "port_bindings",
    "reachable",
    "registry_for",
    "with_mounts",
]

_LOOPBACK = "127.0.0.1"
_ANY = "0.0.0.0"  # noqa: S104 - where the engine binds a port that has no address of its own
_MAX_PORT = 65535
_PROTOCOLS = ("tcp", "udp")
_ENGINES_OWN_NETWORKS = ("", "default", "bridge", "host", "none")


@attrs.frozen
class NetworkSpec:
    """A network by name; `body` is how to create it, None for one that has to exist already."""

    name: str
    body: dict[str, Any] | None = None


def network_spec(config: Config, server: Settings) -> NetworkSpec | None:
    """Return the network that must exist for `server`, None for one of the engine's own."""
    network = config.docker.network
    forced = _forced_ip(server.allocations)
    if forced:
        return NetworkSpec(_forced_network_name(forced), _forced_network(forced))
    if network.network_mode == network.name:
        return NetworkSpec(network.name, _main_network(config))
    mode = network.network_mode
    if mode in _ENGINES_OWN_NETWORKS or mode.startswith("container:"):
        return None
    return NetworkSpec(mode)


def network_mode(config: Config, server: Settings) -> str:
    """Return the name of the network, or the mode of the engine, that the container joins."""
    forced = _forced_ip(server.allocations)
    return _forced_network_name(forced) if forced else config.docker.network.network_mode


def reachable(config: Config, ip: str) -> str:
    """Return the address by which containers and the host reach what is said to be at `ip`."""
    # The host's loopback does not lead into a container; the network's own address does.
    return config.docker.network.interface if ip == _LOOPBACK else ip


def port_bindings(config: Config, allocations: Allocations) -> dict[str, list[dict[str, str]]]:
    """Return the server's ports, each with the host addresses it is bound to."""
    bindings: dict[str, list[dict[str, str]]] = {}
    for ip, ports in allocations.mappings.items():
        if ip == _LOOPBACK and config.docker.network.ispn:
            continue
        for port in ports:
            if not 0 < port <= _MAX_PORT:
                continue
            binding = {"HostIp": reachable(config, ip), "HostPort": str(port)}
            for protocol in _PROTOCOLS:
                of_port = bindings.setdefault(f"{port}/{protocol}", [])
                # 127.0.0.1 may have become an address that is mapped as well.
                if binding not in of_port:
                    of_port.append(binding)
    return bindings


def _forced_ip(allocations: Allocations) -> str:
    """Return the address that the server's own traffic must come from; empty for any."""
    ip = allocations.default.ip
    if not allocations.force_outgoing_ip or not ip:
        return ""
    try:
        address = ip_address(ip)
    except ValueError:
        return ""
    # Nothing can be sent from "every address" or from the loopback.
    return "" if address.is_unspecified or address.is_loopback else ip


def _forced_network_name(ip: str) -> str:
    return "ip-" + ip.replace(".", "-").replace(":", "-")


def _forced_network(ip: str) -> dict[str, Any]:
    return {
        "Driver": "bridge",
        "EnableIPv6": False,
        "Internal": False,
        "Options": {
            "encryption": "false",
            "com.docker.network.bridge.default_bridge": "false",
            "com.docker.network.host_ipv4": ip,
        },
    }


def _main_network(config: Config) -> dict[str, Any]:
    network = config.docker.network
    pools = [
        {"Subnet": pool.subnet, "Gateway": pool.gateway}
        for pool in (network.interfaces.v4, network.interfaces.v6)
        if pool.subnet
    ]
    return {
        "Driver": network.driver,
        # A node without IPv6 says so with an empty subnet.
        "EnableIPv6": bool(network.interfaces.v6.subnet),
        "Internal": network.is_internal,
        "IPAM": {"Driver": "default", "Config": pools},
        "Options": {
            "encryption": "false",
            "com.docker.network.bridge.default_bridge": "false",
            "com.docker.network.bridge.enable_icc": "true" if network.enable_icc else "false",
            "com.docker.network.bridge.enable_ip_masquerade": "true",
            "com.docker.network.bridge.host_binding_ipv4": _ANY,
            "com.docker.network.bridge.name": network.bridge_name,
            "com.docker.network.driver.mtu": str(network.network_mtu),
        },
    }


#: Where a server's files are, seen from inside its container.
HOME = "/home/container"

_CAPABILITIES_DROPPED = (
    "setpcap",
    "mknod",
    "audit_write",
    "net_raw",
    "dac_override",
    "fowner",
    "fsetid",
    "net_bind_service",
    "sys_chroot",
    "setfcap",
)
#: What would end a variable's name early, or begin another variable or line where they are listed.
_NOT_IN_A_NAME = re.compile(r"[=\x00-\x1f\x7f-\x9f\u2028\u2029]")
_DOCKER_HUB = "docker.io"
_DOCKER_HUB_ALIASES = ("index.docker.io", "registry-1.docker.io")


@attrs.frozen
class ImageSource:
    """An image by name, and whether it must never be looked for in a registry."""

    name: str
    local_only: bool = False


@attrs.frozen
class ContainerSpec:
    """A container by name, and how to create it."""

    name: str
    body: dict[str, Any]


def container_spec(config: Config, server: Settings) -> ContainerSpec:
    """Return the container that `server` gets on the node of `config`, without its mounts.

    `with_mounts` adds these: which of them are allowed, the disk has to tell (`mounts`).

    Raises `EnvironmentFailed` when the server names no image, and as `check_variables` does.
    """
    check_variables(server)
    bindings = port_bindings(config, server.allocations)
    body = {
        "Image": image_source(server).name,
        "User": _user(config),
        "Hostname": server.uuid,
        "Domainname": config.docker.domainname,
        "Tty": True,
        "OpenStdin": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "Env": [f"{key}={value}" for key, value in _environment(config, server).items()],
        "Labels": _labels(server),
        "ExposedPorts": {port: {} for port in bindings},
        "HostConfig": {
            **_resources(config, server.build),
            "Mounts": [_mount(Mount(home_directory(config, server.uuid), HOME))],
            "PortBindings": bindings,
            "NetworkMode": network_mode(config, server),
            **_host_settings(config),
        },
    }
    return ContainerSpec(server.uuid, body)


def with_mounts(spec: ContainerSpec, mounts: Sequence[Mount]) -> ContainerSpec:
    """Return the container with these mounts beside its own."""
    host = spec.body["HostConfig"]
    more = [*host["Mounts"], *map(_mount, mounts)]
    return attrs.evolve(spec, body={**spec.body, "HostConfig": {**host, "Mounts": more}})


def check_variables(server: Settings) -> None:
    """Raise `EnvironmentFailed` for a variable that no container can have, and name it.

    Docker takes each as `NAME=value`: a name with `=` in it would set another variable.
    """
    for name, value in server.environment.items():
        if not name or _NOT_IN_A_NAME.search(name):
            raise EnvironmentFailed(
                f"{reprlib.repr(name)} cannot be the name of an environment variable, which is "
                "not empty and has no =, control character or line break; correct it in the "
                "server's settings"
            )
        if "\0" in _text(value):
            raise EnvironmentFailed(
                f"the value of the environment variable {reprlib.repr(name)} has a NUL character; "
                "correct it in the server's settings"
            )
    if "\0" in server.invocation:
        raise EnvironmentFailed(
            "the startup command has a NUL character; correct it in the server's settings"
        )


def home_directory(config: Config, uuid: str) -> str:
    """Return where the files of a server of this node are: what it sees as its `HOME`."""
    return posixpath.join(config.system.data, uuid)


def image_source(server: Settings) -> ImageSource:
    """Return the server's image; a leading `~` means that it is local and never pulled.

    Raises `EnvironmentFailed` when there is none.
    """
    image = server.container.image.strip()
    name = image.removeprefix("~")
    if not name:
        raise EnvironmentFailed("the server has no Docker image; choose one for it on the Panel")
    return ImageSource(name, image.startswith("~"))


def registry_for(registries: Mapping[str, Registry], image: str) -> Registry | None:
    """Return the credentials in `docker.registries` that `image` is pulled with, if any.

    A key is a registry's host, with or without scheme and the first parts of a path; of several
    that match, the longest counts.
    """
    wanted = _with_host(image)
    best = None
    longest = -1
    for key, registry in registries.items():
        prefix = _registry_prefix(key)
        if is_below(wanted, prefix) and len(prefix) > longest:
            best, longest = registry, len(prefix)
    return best


def _with_host(image: str) -> str:
    # The first part is a host only if it looks like one; so does Docker tell it.
    first, slash, _ = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return _unalias(image)
    return f"{_DOCKER_HUB}/{image}"


def _registry_prefix(key: str) -> str:
    prefix = key.split("://", 1)[-1].rstrip("/")
    # `docker login` keeps Docker Hub's credentials under https://index.docker.io/v1/.
    return _DOCKER_HUB if prefix == "index.docker.io/v1" else _unalias(prefix)


def _unalias(name: str) -> str:
    host, slash, rest = name.partition("/")
    return (_DOCKER_HUB if host in _DOCKER_HUB_ALIASES else host) + slash + rest


def is_below(path: str, top: str) -> bool:
    """Return whether a path is `top` or lies below it; both are normal."""
    return path == top or path.startswith(top.rstrip("/") + "/")


def _user(config: Config) -> str:
    user = config.system.user
    if user.rootless.enabled:
        return f"{user.rootless.container_uid}:{user.rootless.container_gid}"
    return f"{user.uid}:{user.gid}"


def _text(value: object) -> str:
    """Return a scalar as the Panel's users expect to see it in an environment variable."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _environment(config: Config, server: Settings) -> dict[str, str]:
    """Return the variables of the container: the node's own, then the server's.

    A null is left out, so that the image's own default shows: to the Panel's answers, too, a
    null is an absent key. The node's own five cannot be overridden.
    """
    default = server.allocations.default
    own = {
        "TZ": config.system.timezone,
        "STARTUP": server.invocation,
        "SERVER_MEMORY": str(server.build.memory_limit),
        "SERVER_IP": reachable(config, default.ip),
        "SERVER_PORT": str(default.port),
    }
    given = {
        key.upper(): _text(value)
        for key, value in server.environment.items()
        if value is not None and key.upper() not in own
    }
    return own | given


def _labels(server: Settings) -> dict[str, str]:
    labels = {key: _text(value) for key, value in server.labels.items() if value is not None}
    return labels | {"Service": "Pterodactyl", "ContainerType": "server_process"}


def _mount(mount: Mount) -> dict[str, Any]:
    # A mount, not a "bind" text: a source that is missing is an error and not made by the engine,
    # and a colon in a path stays a colon.
    return {
        "Type": "bind",
        "Source": mount.source,
        "Target": mount.target,
        "ReadOnly": mount.read_only,
    }


def _overhead_factor(overhead: Overhead, limit: int) -> float:
    """Return the factor for `limit` MB: that of the smallest step it does not exceed."""
    rules = overhead if overhead.override else Overhead()
    steps = sorted((int(up_to), factor) for up_to, factor in rules.multipliers.items())
    return next((factor for up_to, factor in steps if limit <= up_to), rules.default_multiplier)


def _resources(config: Config, build: Build) -> dict[str, Any]:
    """Return the limits, in the Engine API's units: bytes, and microseconds of CPU time."""
    per_mb = 1_048_576 if config.is_pelican else 1_000_000
    reservation = max(build.memory_limit, 0) * per_mb
    memory = round(reservation * _overhead_factor(config.docker.overhead, build.memory_limit))
    limits: dict[str, Any] = {
        "Memory": memory,
        # The engine refuses a reservation above the limit, which a factor below 1 would make.
        "MemoryReservation": min(reservation, memory),
        "MemorySwap": _memory_swap(memory, build.swap, per_mb),
        "BlkioWeight": build.io_weight,
        "OomKillDisable": build.oom_kill_disabled,
        "PidsLimit": config.docker.container_pid_limit,
    }
    if build.cpu_limit > 0:
        limits |= {"CpuQuota": build.cpu_limit * 1000, "CpuPeriod": 100_000, "CpuShares": 1024}
    if build.threads:
        limits["CpusetCpus"] = build.threads
    return limits


def _memory_swap(memory: int, swap: int, per_mb: int) -> int:
    """Return the sum of memory and swap in bytes: -1 for no limit, 0 for the engine's default."""
    if swap < 0:
        return -1
    # The engine refuses a limit of both without one of memory.
    return memory + swap * per_mb if memory else 0


def _host_settings(config: Config) -> dict[str, Any]:
    docker = config.docker
    return {
        "Tmpfs": {"/tmp": f"rw,exec,nosuid,size={docker.tmpfs_size}M"},  # noqa: S108
        "SecurityOpt": ["no-new-privileges"],
        "ReadonlyRootfs": True,
        "CapDrop": list(_CAPABILITIES_DROPPED),
        "LogConfig": {
            "Type": docker.log_config.type,
            "Config": {key: _text(value) for key, value in docker.log_config.config.items()},
        },
        "UsernsMode": docker.userns_mode,
        "Dns": list(docker.network.dns),
    }
