"""A server's container, network and ports, as Engine API JSON, and the mounts that it may have.

Pure but for `check_mounts`, which looks at the disk, and `check_ports` (blocking). The bodies hold
the field names of the Docker Engine API; their contents are what Wings gives a server, since eggs,
images and firewalls rely on it. So are the options of the network's driver: a network that either
of them made serves both.

A mount's source is often in a directory that servers write to, and a link there can point
anywhere. So a source is allowed when it is below one of `allowed_mounts` after all links are
resolved, and the engine is given the resolved path: a link that is changed later has no effect.
What remains: the engine resolves the path once more when the container starts, some milliseconds
later. Who can rename directories within an allowed one can put a link into that path meanwhile.
"""

from __future__ import annotations

import errno
import os
import posixpath
import re
import reprlib
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

import attrs

from wingsd.config import CALAGOPUS, Config, Overhead
from wingsd.errors import EnvironmentFailed, SettingsInvalid
from wingsd.panel.schemas import Allocations, Build, InstallScript, Mount, Settings

#: By a family's default network, that of wingsd 0.1, which was Pterodactyl's for all families. A
#: node that has only the former goes on using it: containers refer to it, and the other cannot be
#: created beside it, since both have the same addresses.
FORMER_DEFAULTS = {"pelican_nw": "pterodactyl_nw"}

_LOOPBACK = "127.0.0.1"
_ANY = "0.0.0.0"  # noqa: S104 - the engine's default address for ports
_MAX_PORT = 65535
_PROTOCOLS = ("tcp", "udp")
_BRIDGE_NAME = "com.docker.network.bridge.name"
#: The keys that name the subnets of the main network, by their versions, and its bridge.
_KEYS = {4: "docker.network.interfaces.v4", 6: "docker.network.interfaces.v6"}
_BRIDGE_KEY = "docker.network.bridge_name"
_BUILT_IN_NETWORKS = ("", "default", "bridge", "host", "none")


@attrs.frozen
class NetworkSpec:
    """A network by name, and the body of its creation: None for one that has to exist."""

    name: str
    body: dict[str, Any] | None = None


def network_spec(config: Config, server: Settings) -> NetworkSpec | None:
    """Return the network that must exist for `server`, None for a built-in one."""
    network = config.docker.network
    forced = _forced_ip(server.allocations)
    if forced:
        return NetworkSpec(_forced_network_name(forced), _forced_network(forced))
    if network.network_mode == network.name:
        return NetworkSpec(network.name, _main_network(config))
    mode = network.network_mode
    if mode in _BUILT_IN_NETWORKS or mode.startswith("container:"):
        return None
    return NetworkSpec(mode)


def advice_against(spec: NetworkSpec, others: Iterable[Mapping[str, Any]]) -> str:
    """Return what to do where the engine refuses to create a network.

    `others` are its networks. Those that have what `spec` asks for are named.
    """
    subnets, bridge = _addressing(spec.body or {})
    advice = []
    for other in others:
        theirs, their_bridge = _addressing(other)
        shared = [
            f"the IPv{each.version} subnet {their} ({_KEYS[each.version]} asks for {each})"
            for each in subnets
            for their in theirs
            if each.version == their.version and each.overlaps(their)
        ]
        if bridge and bridge == their_bridge:
            shared.append(f"the bridge {bridge} ({_BRIDGE_KEY} asks for it)")
        if shared:
            name = other["Name"]
            advice.append(
                f"the network {name} is in its way with {', '.join(shared)}: choose others, or "
                f"remove that network if nothing uses it (docker network rm {name})"
            )
    asked = [f"the IPv{each.version} subnet {each} ({_KEYS[each.version]})" for each in subnets]
    if bridge:
        asked.append(f"the bridge {bridge} ({_BRIDGE_KEY})")
    if not advice and asked:
        advice.append(f"it asks for {', '.join(asked)}: choose others, or remove what has them")
    return "; ".join(advice) or "see `docker network ls` and the engine's log"


def _addressing(network: Mapping[str, Any]) -> tuple[list[IPv4Network | IPv6Network], str]:
    """Return the subnets of a network, and the name of its bridge, empty for none."""
    subnets = []
    for pool in (network.get("IPAM") or {}).get("Config") or ():
        with suppress(ValueError):  # of a driver that gives no addresses
            subnets.append(ip_network(pool.get("Subnet") or "", strict=False))
    return subnets, str((network.get("Options") or {}).get(_BRIDGE_NAME) or "")


def network_mode(config: Config, server: Settings) -> str:
    """Return the container's network mode: the name of a network, or a built-in mode."""
    forced = _forced_ip(server.allocations)
    return _forced_network_name(forced) if forced else config.docker.network.network_mode


def reachable(config: Config, ip: str) -> str:
    """Return the address at which containers and the host reach a service at `ip`."""
    # The host's loopback is not reachable from a container; the network's interface is.
    return config.docker.network.interface if ip == _LOOPBACK else ip


def port_bindings(config: Config, allocations: Allocations) -> dict[str, list[dict[str, str]]]:
    """Return the server's ports, each with its bindings on the host."""
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
                # 127.0.0.1 is replaced by an address that may be mapped as well.
                if binding not in of_port:
                    of_port.append(binding)
    return bindings


def check_ports(bindings: Mapping[str, Sequence[Mapping[str, str]]]) -> None:
    """Bind each port for a moment. Blocking.

    Raises `EnvironmentFailed` for one that another program of this machine uses. Whatever else
    keeps a port from being used is left to the engine.
    """
    for name, of_port in bindings.items():
        kind = socket.SOCK_DGRAM if name.endswith("udp") else socket.SOCK_STREAM
        for binding in of_port:
            if _is_taken(kind, binding["HostIp"], int(binding["HostPort"])):
                raise EnvironmentFailed(
                    f"the port {name} of {binding['HostIp']} is in use on this machine: end the "
                    "program that has it (`ss -lntup` shows which), or give the server another "
                    "port in the Panel",
                    is_final=True,
                )


def _is_taken(kind: socket.SocketKind, ip: str, port: int) -> bool:
    try:
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        with socket.socket(family, kind) as trial:
            if kind == socket.SOCK_STREAM:
                # A port that only a closed connection has left behind counts as free.
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((ip, port))
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def _forced_ip(allocations: Allocations) -> str:
    """Return the source address for the server's outgoing traffic; empty for any."""
    ip = allocations.default.ip
    if not allocations.force_outgoing_ip or not ip:
        return ""
    try:
        address = ip_address(ip)
    except ValueError:
        return ""
    # The unspecified address and the loopback cannot be source addresses.
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
        # An empty subnet means that the node has no IPv6.
        "EnableIPv6": bool(network.interfaces.v6.subnet),
        "Internal": network.is_internal,
        "IPAM": {"Driver": "default", "Config": pools},
        "Options": {
            "encryption": "false",
            "com.docker.network.bridge.default_bridge": "false",
            "com.docker.network.bridge.enable_icc": "true" if network.enable_icc else "false",
            "com.docker.network.bridge.enable_ip_masquerade": "true",
            "com.docker.network.bridge.host_binding_ipv4": _ANY,
            _BRIDGE_NAME: network.bridge_name,
            "com.docker.network.driver.mtu": str(network.network_mtu),
        },
    }


#: Where a server's files are, seen from inside its container, and from inside its installer.
HOME = "/home/container"
#: Where it looks for the id of its machine.
MACHINE_ID = "/etc/machine-id"
INSTALLED = "/mnt/server"
#: The labels of servers' containers, whichever daemon made them.
SERVER_LABELS = {"ContainerType": "server_process"}
#: The label that has the UUID of the node which has made the container.
NODE_LABEL = "Node"

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
#: Characters that would end a variable's name, or begin another variable or line in a listing.
_NOT_IN_A_NAME = re.compile(r"[=\x00-\x1f\x7f-\x9f\u2028\u2029]")


@attrs.frozen(repr=False)
class ImageSource:
    """An image by name; one that is `local_only` is never pulled."""

    name: str
    local_only: bool = False


@attrs.frozen(eq=False, repr=False)
class ContainerSpec:
    """A container by name, and the body of its creation."""

    name: str
    body: dict[str, Any]


def container_spec(config: Config, server: Settings) -> ContainerSpec:
    """Return the container that `server` gets on the node of `config`, without its mounts.

    `with_mounts` adds those that `check_mounts` allows.

    Raises `SettingsInvalid` when the server names no image, and as `check_variables` does.
    """
    check_variables(server)
    bindings = port_bindings(config, server.allocations)
    uid, gid = container_user(config)
    labels = {key: _text(value) for key, value in server.labels.items() if value is not None}
    body = {
        "Image": image_source(server).name,
        "User": f"{uid}:{gid}",
        "Hostname": server.uuid,
        "Domainname": config.docker.domainname,
        **_terminal(environment(config, server)),
        "Labels": labels
        | {"Service": service_label(config), NODE_LABEL: config.uuid, **SERVER_LABELS},
        "ExposedPorts": {port: {} for port in bindings},
        "HostConfig": {
            **resources(config, server.build),
            "Mounts": [mount_of(Mount(home_directory(config, server.uuid), HOME))],
            "PortBindings": bindings,
            "NetworkMode": network_mode(config, server),
            "SecurityOpt": ["no-new-privileges"],
            "ReadonlyRootfs": True,
            "CapDrop": list(_CAPABILITIES_DROPPED),
            **host_settings(config),
        },
    }
    return ContainerSpec(server.uuid, body)


def _terminal(variables: Mapping[str, str]) -> dict[str, Any]:
    """Return what all containers have: a terminal that can be attached to, and variables."""
    return {
        "Tty": True,
        "OpenStdin": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "Env": [f"{key}={value}" for key, value in variables.items()],
    }


def with_network(spec: ContainerSpec, mode: str) -> ContainerSpec:
    """Return the container in another network, or mode of the engine."""
    return _with_host(spec, NetworkMode=mode)


def with_mounts(spec: ContainerSpec, mounts: Sequence[Mount]) -> ContainerSpec:
    """Return the container with additional mounts."""
    present = spec.body["HostConfig"]["Mounts"]
    return _with_host(spec, Mounts=[*present, *map(mount_of, mounts)])


def _with_host(spec: ContainerSpec, **changes: object) -> ContainerSpec:
    host = {**spec.body["HostConfig"], **changes}
    return attrs.evolve(spec, body={**spec.body, "HostConfig": host})


def rehearsal_spec(config: Config, server: Settings) -> ContainerSpec:
    """Return a container like that of `server`, under a name that only this node gives.

    In place of the server's files, which may not be there yet, it has the directory of all, and
    it is never started. Raises as `container_spec`.
    """
    files = mount_of(Mount(config.system.data, HOME, read_only=True))
    spec = _with_host(container_spec(config, server), Mounts=[files])
    return attrs.evolve(spec, name=rehearsal_name(config, server.uuid))


def rehearsal_name(config: Config, uuid: str) -> str:
    """Return the name of that container."""
    node = sha256(home_directory(config, uuid).encode()).hexdigest()[:12]
    return f"{uuid}.rehearsal.{node}"


def check_variables(server: Settings) -> None:
    """Raise `SettingsInvalid` for a variable that no container can have.

    Docker takes each as `NAME=value`: a name with `=` in it would set another variable.
    """
    for name, value in server.environment.items():
        if not name or _NOT_IN_A_NAME.search(name):
            raise SettingsInvalid(
                f"{reprlib.repr(name)} cannot be the name of an environment variable, which is "
                "not empty and has no =, control character or line break; correct it in the "
                "server's settings"
            )
        if "\0" in _text(value):
            raise SettingsInvalid(
                f"the value of the environment variable {reprlib.repr(name)} has a NUL character; "
                "correct it in the server's settings"
            )
    if "\0" in server.invocation:
        raise SettingsInvalid(
            "the startup command has a NUL character; correct it in the server's settings"
        )


def home_directory(config: Config, uuid: str) -> str:
    """Return the directory of a server's files, which is mounted at `HOME`."""
    return posixpath.join(config.system.data, uuid)


def image_source(server: Settings) -> ImageSource:
    """Return the server's image; a leading `~` means that it is local and never pulled.

    Raises `SettingsInvalid` when there is none.
    """
    image = image_named(server.container.image)
    if not image.name:
        raise SettingsInvalid("the server has no Docker image; choose one for it on the Panel")
    return image


def image_named(text: str) -> ImageSource:
    """Return the image that a text names; its name is empty where the text is."""
    name = text.strip()
    return ImageSource(name.removeprefix("~"), name.startswith("~"))


def is_below(path: str, top: str) -> bool:
    """Return whether a path is `top` or lies below it; both are normal."""
    return path == top or path.startswith(top.rstrip("/") + "/")


def container_user(config: Config) -> tuple[int, int]:
    """Return the user and group id of the program in a server's container."""
    user = config.system.user
    if user.rootless.enabled:
        return user.rootless.container_uid, user.rootless.container_gid
    return user.uid, user.gid


def _text(value: object) -> str:
    """Return a scalar as the Panel shows it in an environment variable."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def environment(config: Config, server: Settings) -> dict[str, str]:
    """Return the variables of the container: the node's own, then the server's.

    A null is left out, so that the image's default applies, as the Panel treats a null like an
    absent key. The node's five cannot be overridden.
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


def service_label(config: Config) -> str:
    """Return the label `Service` of the node's containers: that of its family."""
    if config.family == CALAGOPUS:
        return config.app_name
    return "Pelican" if config.is_pelican else "Pterodactyl"


def mount_of(mount: Mount) -> dict[str, Any]:
    """Return a mount in the form of the Engine API."""
    # A mount, not a "bind" text: a missing source is an error and not created by the engine, and a
    # path may contain a colon.
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


def resources(config: Config, build: Build) -> dict[str, Any]:
    """Return the limits, in the Engine API's units: bytes, and microseconds of CPU time."""
    is_calagopus = config.family == CALAGOPUS
    # Sources: environment/settings.go of Wings; server/configuration/mod.rs of Calagopus' node,
    # with MiB in all versions, no limit of swap at 0 up to 0.22, and `overhead_memory` in later.
    per_mb = 1_048_576 if is_calagopus or config.is_pelican else 1_000_000
    limit = build.memory_limit + build.overhead_memory if build.memory_limit > 0 else 0
    reservation = limit * per_mb
    memory = round(reservation * _overhead_factor(config.docker.overhead, limit))
    limits: dict[str, Any] = {
        "Memory": memory,
        # The engine refuses a reservation above the limit, which a factor below 1 would make.
        "MemoryReservation": min(reservation, memory),
        "MemorySwap": _memory_swap(memory, build.swap, per_mb, limits_none=not is_calagopus),
        "BlkioWeight": build.io_weight,
        "OomKillDisable": build.oom_kill_disabled,
        "PidsLimit": config.docker.container_pid_limit,
    }
    if build.cpu_limit > 0:
        limits |= {"CpuQuota": build.cpu_limit * 1000, "CpuPeriod": 100_000, "CpuShares": 1024}
    if build.threads:
        limits["CpusetCpus"] = build.threads
    return limits


def _memory_swap(memory: int, swap: int, per_mb: int, *, limits_none: bool) -> int:
    """Return the limit of memory and swap in bytes: -1 for none, 0 for the engine's default.

    `limits_none` says whether a swap of 0 is a limit.
    """
    if swap < 0:
        return -1
    # The engine refuses a limit of the sum without one of memory.
    return memory + swap * per_mb if memory and (swap or limits_none) else 0


def host_settings(config: Config) -> dict[str, Any]:
    """Return what the node's configuration says of all containers."""
    docker = config.docker
    return {
        "Tmpfs": {"/tmp": f"rw,exec,nosuid,size={docker.tmpfs_size}M"},  # noqa: S108
        "LogConfig": {
            "Type": docker.log_config.type,
            "Config": {key: _text(value) for key, value in docker.log_config.config.items()},
        },
        "UsernsMode": docker.userns_mode,
        "Dns": list(docker.network.dns),
    }


def check_mounts(
    directories: Sequence[str], mounts: Sequence[Mount]
) -> tuple[list[Mount], list[Mount]]:
    """Return which `mounts` are below one of the `directories`, those of `allowed_mounts`.

    Their sources are resolved. Return the refused ones as well: a refused source that is a symlink
    is followed by its target in parentheses.

    Raises `EnvironmentFailed` for an allowed source that cannot be resolved.
    """
    tops = [top for top in directories if top.startswith("/")]
    real_tops = []
    for top in tops:
        with suppress(OSError, ValueError):
            real_tops.append(os.path.realpath(top, strict=True))
    allowed, refused = [], []
    for mount in mounts:
        real = _resolve(mount.source, tops)
        if real is None:
            refused.append(mount)
        elif any(is_below(real, top) for top in real_tops):
            target = _normal(mount.target)
            allowed.append(attrs.evolve(mount, source=real, target=target))
        else:
            target_note = "" if real == _normal(mount.source) else f" ({real})"
            refused.append(attrs.evolve(mount, source=mount.source + target_note))
    return allowed, refused


def _resolve(source: str, tops: Sequence[str]) -> str | None:
    """Return a source without symlinks; None where it may not be mounted in any case."""
    if not source.startswith("/"):
        return None
    try:
        # Strict: else a symlink below an unreadable directory would not count as one.
        return os.path.realpath(source, strict=True)
    except (OSError, ValueError) as error:
        if not any(is_below(_normal(source), _normal(top)) for top in tops):
            return None
        why = error.strerror if isinstance(error, OSError) else error
        raise EnvironmentFailed(
            f"the mount of {source} cannot be made: {why}; create it, remove the mount in the "
            "Panel, or let this node see it (under systemd, ProtectHome= and PrivateTmp= hide "
            "directories)",
            is_final=True,
        ) from error


def _normal(path: str) -> str:
    # POSIX distinguishes two leading slashes from one; Linux does not.
    return posixpath.normpath("/" + path.lstrip("/"))


#: The name of the script in its directory, and where that is, seen from inside.
SCRIPT = "install.sh"
_SCRIPT_DIRECTORY = "/mnt/install"
INSTALLER_LABELS = {"ContainerType": "server_installer"}
#: Processes that an installer may have, unless `docker.container_pid_limit` is larger.
MIN_PROCESSES = 4096
#: Tells this daemon's installers from those of Wings.
OWN_LABELS = {"Daemon": "wingsd"}


def installer_name(uuid: str) -> str:
    """Return the name of a server's installer."""
    return f"{uuid}_installer"


def installer_spec(
    config: Config, server: Settings, script: InstallScript, directory: str
) -> ContainerSpec:
    """Return the container that runs `script`, which is in `directory`, for `server`.

    It runs as the image's user and may write to its own root, since scripts install packages. It
    is not privileged, has no ports, and sees of the host the server's directory and the script
    only.

    Raises `SettingsInvalid` when the egg names no image or no interpreter, and as
    `check_variables` does.
    """
    if not script.entrypoint.strip():
        raise SettingsInvalid(
            "the egg names no program that runs its installation script, such as bash; choose one "
            "for the egg on the Panel"
        )
    image = image_named(script.container_image)
    if not image.name:
        raise SettingsInvalid(
            "the egg has no Docker image for its installation script; choose one on the Panel"
        )
    variables = installer_environment(config, server, script)
    uid, gid = container_user(config)
    user = {"User": f"{uid}:{gid}"} if config.system.user.rootless.enabled else {}
    body = {
        "Image": image.name,
        **user,
        "Hostname": "installer",
        "Domainname": config.docker.domainname,
        "Cmd": [script.entrypoint, f"{_SCRIPT_DIRECTORY}/{SCRIPT}"],
        **_terminal(variables),
        "Labels": {"Service": service_label(config), **INSTALLER_LABELS, **OWN_LABELS},
        "HostConfig": {
            **_resources(config, server.build),
            "Mounts": [
                mount_of(Mount(home_directory(config, server.uuid), INSTALLED)),
                mount_of(Mount(directory, _SCRIPT_DIRECTORY)),
            ],
            "NetworkMode": network_mode(config, server),
            **host_settings(config),
        },
    }
    return ContainerSpec(installer_name(server.uuid), body)


def installer_environment(
    config: Config, server: Settings, script: InstallScript
) -> dict[str, str]:
    """Return the variables of the installer: the server's, and those of the script.

    Raises `SettingsInvalid` for one that no container can have.
    """
    given = attrs.evolve(server, environment={**server.environment, **script.environment})
    check_variables(given)
    return environment(config, given)


def _resources(config: Config, build: Build) -> dict[str, Any]:
    """Return the larger limits of the server's and the node's, no limit where one has none."""
    limits = config.docker.installer_limits
    larger = attrs.evolve(
        build,
        memory_limit=_larger(build.memory_limit, limits.memory),
        cpu_limit=_larger(build.cpu_limit, limits.cpu),
    )
    # Wings gives installers no limit of processes; but a script may run what users have written.
    processes = config.docker.container_pid_limit
    most = max(processes, MIN_PROCESSES) if processes > 0 else None
    return {**resources(config, larger), "PidsLimit": most}


def _larger(one: int, other: int) -> int:
    return max(one, other) if one > 0 and other > 0 else 0
