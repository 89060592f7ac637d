"""Nodes as the families' daemons leave them, and what these make of a node at their start."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import attrs
import yaml
from docker import APIClient
from docker.errors import NotFound
from docker.types import IPAMConfig, IPAMPool

from tests.support.configurations import (
    WRITTEN_BY_CALAGOPUS,
    WRITTEN_BY_PELICAN,
    WRITTEN_BY_WINGS,
    merged,
)
from tests.support.docker_engine import Engine

Json = dict[str, Any]
_CAPABILITIES_DROPPED = [
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
]
#: A key as Wings makes it: PKCS 8.
_HOST_KEY = b"""-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
"""


@attrs.frozen
class Dialect:
    """What differs between the families' daemons."""

    family: str
    app_name: str
    #: Keys that it writes into its configuration, beside Wings' own.
    keys: Json
    #: Megabytes of a server, in bytes.
    megabyte: int
    #: The first line of an installation's log.
    heading: str
    install_log: str
    #: Where a backup is, below the directory of backups; of the server and the backup.
    backup: str


DIALECTS = {
    dialect.family: dialect
    for dialect in (
        Dialect(
            family="pterodactyl",
            app_name="Pterodactyl",
            keys={},
            megabyte=1_000_000,
            heading="Pterodactyl Server Installation Log",
            install_log="install/{server}.log",
            backup="{backup}.tar.gz",
        ),
        Dialect(
            family="pelican",
            app_name="Pelican",
            keys=WRITTEN_BY_PELICAN | {"app_name": "Pelican"},
            megabyte=1_048_576,
            heading="Pelican Server Installation Log",
            install_log="install/{server}.log",
            backup="{server}/{backup}.tar.gz",
        ),
        Dialect(
            family="calagopus",
            app_name="Calagopus",
            keys=WRITTEN_BY_CALAGOPUS | {"app_name": "Calagopus"},
            megabyte=1_048_576,
            heading="Server Installation Log",
            install_log="install/{server}.log",
            backup="{backup}.tar.gz",
        ),
    )
}


@attrs.frozen
class Places:
    """Where a node has its directories and its configuration."""

    root: Path
    logs: Path
    identities: Path
    scripts: Path
    config_file: Path
    #: Whose the servers' files are.
    user: str

    @classmethod
    def below(cls, directory: Path) -> Places:
        """Return those of a node in a directory, whose servers' files are this process's."""
        return cls(
            root=directory / "lib",
            logs=directory / "log",
            identities=directory / "run",
            scripts=directory / "tmp",
            config_file=directory / "etc" / "config.yml",
            user=pwd.getpwuid(os.getuid()).pw_name,
        )


class WingsNode:
    """The node of `dialect` in its `places`, on the engine. `credentials` are keys of its file.

    `own` are keys of wingsd's that the operator has added.
    """

    def __init__(
        self,
        places: Places,
        dialect: Dialect,
        engine: Engine,
        credentials: Json,
        own: Json | None = None,
    ) -> None:
        self.places, self.dialect, self._engine = places, dialect, engine
        self.root, self.logs = places.root, places.logs
        self.data = self.root / "volumes"
        self.backups, self.archives = self.root / "backups", self.root / "archives"
        self.identities, self.scripts = places.identities, places.scripts
        self.config_file = places.config_file
        account = pwd.getpwnam(places.user)
        self.owner = account.pw_uid, account.pw_gid
        written = merged(yaml.safe_load(WRITTEN_BY_WINGS), dialect.keys)
        self.config = merged(merged(merged(written, self._keys()), credentials), own or {})
        self._network = self._make_network()

    def _keys(self) -> Json:
        docker = self._engine.config().docker
        v4 = docker.network.interfaces.v4
        name = docker.network.name
        system: Json = {
            "root_directory": str(self.root),
            "log_directory": str(self.logs),
            "data": str(self.data),
            "archive_directory": str(self.archives),
            "backup_directory": str(self.backups),
            "tmp_directory": str(self.scripts),
            "username": self.places.user,
            "user": {
                "uid": self.owner[0],
                "gid": self.owner[1],
                "passwd": {"directory": str(self.identities)},
            },
            "machine_id": {"directory": str(self.identities / "machine-id")},
            "passwd": {
                "enabled": self.dialect.family == "calagopus",
                "directory": str(self.identities / "etc"),
            },
        }
        network = {
            "name": name,
            "network_mode": name,
            "interface": v4.gateway,
            "interfaces": {"v4": {"subnet": v4.subnet, "gateway": v4.gateway}},
        }
        if self.dialect.family == "calagopus":
            network["mode"] = name
        return {"system": system, "docker": {"network": network}}

    def _make_network(self) -> str:
        network = self.config["docker"]["network"]
        v4 = network["interfaces"]["v4"]
        self._engine.client.create_network(
            network["name"],
            driver="bridge",
            options={"com.docker.network.driver.mtu": "1500"},
            ipam=IPAMConfig(pool_configs=[IPAMPool(subnet=v4["subnet"])]),
        )
        name: str = network["name"]
        return name

    # Files

    def lay_out(self, *servers: str, states: Json) -> None:
        """Write the files of a node with these servers, whose last known states are given."""
        for directory in (self.root, self.data, self.archives, self.backups, self.scripts):
            directory.mkdir(mode=0o700, parents=True)
        self.config_file.parent.mkdir(parents=True, exist_ok=True)
        _write(self.config_file, yaml.safe_dump(self.config).encode(), 0o600)
        (self.data / ".sftp").mkdir(mode=0o755)
        _write(self.data / ".sftp" / "id_ed25519", _HOST_KEY, 0o600)
        _write(self.root / "states.json", _compact(states), 0o644)
        if self.dialect.family == "calagopus":
            _write(self.root / "installing.json", b"{}", 0o644)
        else:
            self._make_database()
        _write(self.logs / "wings.log", b"INFO: [Nov 27 08:00:00] booting\n", 0o644)
        self._write_accounts()
        for server in servers:
            self._lay_out_server(server)

    def _lay_out_server(self, server: str) -> None:
        (self.data / server).mkdir(mode=0o755)
        _write(self.data / server / "world" / "level.dat", b"\x0a\x00", 0o644)
        for name in ("", "world", "world/level.dat"):
            os.chown(self.data / server / name, *self.owner)
        log = (
            f"{self.dialect.heading}\n\n|\n| Details\n| {'-' * 30}\n"
            f"  Server UUID:          {server}\n\n|\n| Script Output\n| {'-' * 30}\nall done\n"
        )
        _write(self.logs / self.dialect.install_log.format(server=server), log.encode(), 0o600)
        backup = hashlib.md5(server.encode(), usedforsecurity=False).hexdigest()
        path = self.backups / self.dialect.backup.format(server=server, backup=backup)
        _write(path, b"\x1f\x8b a backup", 0o600)
        _write(self.archives / f"{server}.tar.gz", b"\x1f\x8b an archive", 0o600)
        machine_id = server.replace("-", "") + "\n"
        _write(self.identities / "machine-id" / server, machine_id.encode(), 0o644)

    def _write_accounts(self) -> None:
        user = self.config["system"]["user"]
        uid, gid = user["uid"], user["gid"]
        if self.dialect.family == "calagopus":
            directory = self.identities / "etc"
            passwd = (
                f"root:x:0:0::/root:/bin/sh\ncontainer:x:{uid}:{gid}::/home/container:/bin/sh\n"
            )
            group = f"root:x:0:\ncontainer:x:{gid}:\nnogroup:x:65534:"
        else:
            directory = self.identities
            passwd = f"container:x:{uid}:{gid}::/home/container:/usr/sbin/nologin"
            group = f"container:x:{gid}:container"
        _write(directory / "passwd", passwd.encode(), 0o644)
        _write(directory / "group", group.encode(), 0o644)

    def _make_database(self) -> None:
        # Activity that was not sent yet.
        with closing(sqlite3.connect(self.root / "wings.db")) as database, database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute(
                "CREATE TABLE activities (id integer PRIMARY KEY AUTOINCREMENT, event text)"
            )
            database.execute("INSERT INTO activities (event) VALUES ('server:power.start')")

    def kept(self) -> dict[str, tuple[int, int, int, int, str]]:
        """Return owner, mode, time and checksum of each file that another daemon must not touch.

        The servers' own files and those of wingsd are not among them. Of a directory no time and
        no checksum.
        """
        found = {}
        tops = (self.root, self.logs, self.identities, self.scripts, self.config_file.parent)
        for path in (each for top in tops for each in (top, *sorted(top.rglob("*")))):
            is_mark = path.parent.name == "machine-id" and path.name.startswith(".")
            if path.name.startswith("wingsd.db") or is_mark or self._is_of_a_server(path):
                continue
            status = path.stat()
            is_file = path.is_file()
            digest = hashlib.sha256(path.read_bytes()).hexdigest() if is_file else ""
            time = status.st_mtime_ns if is_file else 0
            found[str(path)] = (status.st_uid, status.st_gid, status.st_mode, time, digest)
        return found

    def _is_of_a_server(self, path: Path) -> bool:
        names = path.relative_to(self.root).parts if path.is_relative_to(self.root) else ()
        return names[:1] == (".volumes.staging",) or (
            names[:1] == ("volumes",) and len(names) > 1 and names[1] != ".sftp"
        )

    # Containers

    def run(self, settings: Json, *, name: str = "") -> Json:
        """Start a server's container; return what the engine says of it.

        Its name is the server's UUID; with Calagopus it may have another `name`.
        """
        name = self._engine.will_make_container(name or settings["uuid"])
        self._engine.client.create_container_from_config(self._server_body(settings), name)
        return self._start(name)

    def install(self, settings: Json, script: str) -> Json:
        """Start an installer, in which a shell runs the script; return what the engine says."""
        uuid = settings["uuid"]
        name = self._engine.will_make_container(f"{uuid}_installer")
        (self.data / uuid).mkdir(exist_ok=True)
        _write(self.scripts / uuid / "install.sh", script.encode(), 0o644)
        self._engine.client.create_container_from_config(self._installer_body(settings), name)
        return self._start(name)

    def _start(self, name: str) -> Json:
        self._engine.client.start(name)
        found: Json = self._engine.client.inspect_container(name)
        return found

    def _server_body(self, settings: Json) -> Json:
        system = self.config["system"]
        uuid, build = settings["uuid"], settings["build"]
        default = settings["allocations"]["default"]
        host = {
            **self._common(),
            **self._limits(build["memory_limit"], build["cpu_limit"]),
            "MemorySwap": self._memory(build["memory_limit"]) + build["swap"] * self._megabyte,
            "PidsLimit": self.config["docker"]["container_pid_limit"],
            "Mounts": [_bind(self.data / uuid, "/home/container"), *self._identities(uuid)],
            "PortBindings": {
                f"{port}/{protocol}": [{"HostIp": ip, "HostPort": str(port)}]
                for ip, ports in settings["allocations"]["mappings"].items()
                for port in ports
                for protocol in ("tcp", "udp")
            },
            "SecurityOpt": ["no-new-privileges"],
            "ReadonlyRootfs": True,
            "CapDrop": self._capabilities_dropped(),
        }
        return {
            **self._terminal(settings, default),
            "Hostname": uuid,
            "Domainname": "",
            "Image": settings["container"]["image"].removeprefix("~"),
            "User": f"{system['user']['uid']}:{system['user']['gid']}",
            "Labels": {"Service": self.dialect.app_name, "ContainerType": "server_process"},
            "ExposedPorts": {port: {} for port in host["PortBindings"]},
            "HostConfig": host,
        }

    def _installer_body(self, settings: Json) -> Json:
        uuid, build = settings["uuid"], settings["build"]
        limits = self.config["docker"]["installer_limits"]
        memory = max(build["memory_limit"], limits["memory"])
        return {
            **self._terminal(settings, settings["allocations"]["default"]),
            "Hostname": "installer",
            "Image": settings["container"]["image"].removeprefix("~"),
            "Cmd": ["sh", "/mnt/install/install.sh"],
            "Labels": {"Service": self.dialect.app_name, "ContainerType": "server_installer"},
            "HostConfig": {
                **self._common(),
                **self._limits(memory, max(build["cpu_limit"], limits["cpu"])),
                "Mounts": [
                    _bind(self.data / uuid, "/mnt/server"),
                    _bind(self.scripts / uuid, "/mnt/install"),
                ],
            },
        }

    def _terminal(self, settings: Json, default: Json) -> Json:
        variables = {
            "TZ": self.config["system"]["timezone"],
            "STARTUP": settings["invocation"],
            "SERVER_MEMORY": settings["build"]["memory_limit"],
            "SERVER_IP": self.config["docker"]["network"]["interface"],
            "SERVER_PORT": default["port"],
            **(settings["environment"] or {}),
        }
        return {
            "AttachStdin": True,
            "AttachStdout": True,
            "AttachStderr": True,
            "OpenStdin": True,
            "Tty": True,
            "Env": [f"{key.upper()}={value}" for key, value in variables.items()],
        }

    def _common(self) -> Json:
        docker = self.config["docker"]
        log = docker["log_config"]
        return {
            "Tmpfs": {"/tmp": f"rw,exec,nosuid,size={docker['tmpfs_size']}M"},
            "Dns": docker["network"]["dns"],
            "LogConfig": {"Type": log["type"], "Config": log["config"]},
            "NetworkMode": self._network,
            "UsernsMode": docker["userns_mode"],
        }

    def _limits(self, memory: int, cpu: int) -> Json:
        limits = {
            "Memory": self._memory(memory),
            "MemoryReservation": memory * self._megabyte,
            "OomKillDisable": False,
        }
        if cpu > 0:
            limits |= {"CpuQuota": cpu * 1000, "CpuPeriod": 100_000, "CpuShares": 1024}
        return limits

    @property
    def _megabyte(self) -> int:
        return self.dialect.megabyte

    def _memory(self, limit: int) -> int:
        return round(limit * 1.15 * self._megabyte)

    def _identities(self, uuid: str) -> list[Json]:
        if self.dialect.family != "pelican":
            return []
        directory = self.identities
        return [
            _bind(directory / "passwd", "/etc/passwd", read_only=True),
            _bind(directory / "group", "/etc/group", read_only=True),
            _bind(directory / "machine-id" / uuid, "/etc/machine-id", read_only=True),
        ]

    def _capabilities_dropped(self) -> list[str]:
        more = ["sys_ptrace"] if self.dialect.family == "pelican" else []
        return [*_CAPABILITIES_DROPPED, *more]


def _bind(source: Path, target: str, *, read_only: bool = False) -> Json:
    return {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": read_only}


def _compact(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _write(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


# What the families' daemons make of a node at their start, by the rules of their sources


_STATES = ("offline", "starting", "stopping", "running")
#: The fields by section, and after the colon those of another kind than text: whole numbers,
#: fractions, switches, lists and maps of texts.
_FIELDS: Mapping[str, str] = {
    "": (
        "app_name uuid token_id token remote debug:switch allowed_mounts:list "
        "allowed_origins:list allow_cors_private_network:switch "
        "ignore_panel_config_updates:switch"
    ),
    "api": (
        "host port:number disable_remote_download:switch upload_limit:number trusted_proxies:list"
    ),
    "api.ssl": "enabled:switch cert key",
    "system": (
        "root_directory log_directory data archive_directory backup_directory tmp_directory "
        "username timezone disk_check_interval:number activity_send_interval:number "
        "activity_send_count:number check_permissions_on_boot:switch enable_log_rotate:switch "
        "websocket_log_count:number openat_mode"
    ),
    "system.user": "uid:number gid:number",
    "system.user.rootless": "enabled:switch container_uid:number container_gid:number",
    "system.user.passwd": "enable:switch directory",
    "system.machine_id": "enable:switch directory",
    "system.sftp": "bind_address bind_port:number read_only:switch",
    "system.crash_detection": ("enabled:switch detect_clean_exit_as_crash:switch timeout:number"),
    "system.backups": "write_limit:number compression_level",
    "system.transfers": "download_limit:number",
    "system.transfers.storage_pool": "enabled:switch pool_name",
    "docker": (
        "domainname tmpfs_size:number container_pid_limit:number use_performant_inspect:switch "
        "userns_mode"
    ),
    "docker.network": (
        "interface dns:list name ispn:switch driver network_mode is_internal:switch "
        "enable_icc:switch network_mtu:number"
    ),
    "docker.network.interfaces.v4": "subnet gateway",
    "docker.network.interfaces.v6": "subnet gateway",
    "docker.installer_limits": "memory:number cpu:number",
    "docker.overhead": "override:switch default_multiplier:number",
    "docker.log_config": "type config:map",
    "throttles": "enabled:switch lines:number line_reset_interval:number",
    "remote_query": "timeout:number boot_servers_per_page:number",
}


class Fate(Enum):
    """What becomes of a server at the start."""

    ATTACHED = "it runs, and is attached to"
    STARTED = "it is started"
    OFFLINE = "it is offline"


def configuration_faults(text: str) -> list[str]:
    """Return the keys of a configuration whose values Wings cannot decode."""
    config = yaml.safe_load(text)
    if not isinstance(config, dict):
        return ["the whole file"]
    return list(_faults(config))


def _faults(config: Mapping[str, Any]) -> Iterator[str]:
    for section, fields in _FIELDS.items():
        values: Any = config
        for name in filter(None, section.split(".")):
            values = values.get(name) if isinstance(values, dict) else None
        if values is None:
            continue
        if not isinstance(values, dict):
            yield section
            continue
        for field in fields.split():
            name, _, kind = field.partition(":")
            if not _fits(values.get(name), kind):
                yield f"{section}.{name}".lstrip(".")


def _fits(value: object, kind: str) -> bool:
    # A null is the zero value. Into a text goes each scalar, into a whole number also a fraction.
    match kind:
        case _ if value is None:
            return True
        case "switch":
            return isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "list":
            return isinstance(value, list) and all(_fits(each, "") for each in value)
        case "map":
            return isinstance(value, dict) and all(_fits(each, "") for each in value.values())
    return not isinstance(value, list | dict)


def read_states(root: Path) -> dict[str, str]:
    """Return the states in `states.json`. Raises `ValueError` where a daemon would drop it."""
    text = (root / "states.json").read_text()
    states = json.loads(text) if text else {}
    for server, state in states.items():
        if str(UUID(server)) != server or state not in _STATES:
            raise ValueError(f"{server}: {state}")
    return dict(states)


def fates(client: APIClient, config: Mapping[str, Any], servers: list[str]) -> dict[str, Fate]:
    """Return what becomes of the servers that the Panel lists."""
    states = read_states(Path(config["system"]["root_directory"]))
    return {server: _fate(client, config, server, states.get(server)) for server in servers}


def _fate(client: APIClient, config: Mapping[str, Any], server: str, state: str | None) -> Fate:
    try:
        found = client.inspect_container(server)
    except NotFound:
        runs = False
    else:
        runs = found["State"]["Running"]
        # It reads its console through a terminal, and asks for the files by this path.
        assert found["Config"]["Tty"], server
        assert found["Config"]["OpenStdin"], server
        assert found["Config"]["Labels"]["ContainerType"] == "server_process"
        home = f"{config['system']['data']}/{server}"
        sources = {mount["Destination"]: mount["Source"] for mount in found["Mounts"]}
        assert sources["/home/container"] == home
    if runs:
        return Fate.ATTACHED
    return Fate.STARTED if state in ("running", "starting") else Fate.OFFLINE
