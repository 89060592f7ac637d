"""`wingsctl check-config`: checks a configuration as the daemon does when it starts.

Of a node that Wings runs, or ran, it also says whether Wings' service is in the way, what the
package's service cannot reach, and what is taken over. Blocking.
"""

from __future__ import annotations

import errno
import os
import posixpath
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import click
from cryptography import x509

from wingsd.cli.client import Exit
from wingsd.cli.output import json_option, plain, print_json, show
from wingsd.config import (
    DEFAULT_HISTORIES,
    POINTS,
    ApiConfig,
    Config,
    find,
    load,
    unusable_directories,
    value_at,
)
from wingsd.docker.container import is_below
from wingsd.docker.runtime import engine_address
from wingsd.errors import ConfigError, EnvironmentFailed
from wingsd.servers.running import STATES_FILE, parse_states
from wingsd.transfers.peer.client import check_ca_file
from wingsd.util.net import ServerCertificate

#: By unit, its properties.
SystemdUnits = Mapping[str, Mapping[str, str]]

_WINGS, WINGSD_UNIT = "wings.service", "wingsd.service"
_PROPERTIES = (
    "Id,LoadState,ActiveState,UnitFileState,ProtectSystem,ReadWritePaths,ProtectHome,PrivateTmp,"
    "BindPaths"
)
#: Seconds.
_PATIENCE = 10
_HOMES = ("/home", "/root", "/run/user")
#: Of which a service with `PrivateTmp=` has its own.
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - nothing is written there
_RAN = ("running", "starting")


def systemd_units() -> SystemdUnits:
    """Return the properties of both services; empty without systemd."""
    command = shutil.which("systemctl")
    if command is None or not os.path.isdir("/run/systemd/system"):
        return {}
    try:
        shown = subprocess.run(  # noqa: S603 - all of it is written here
            [command, "show", "--property", _PROPERTIES, _WINGS, WINGSD_UNIT],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return parse_units(shown)


def parse_units(shown: str) -> SystemdUnits:
    """Return the units that are loaded, of what `systemctl show` writes."""
    units = {}
    for block in shown.split("\n\n"):
        unit: dict[str, str] = {}
        for line in block.splitlines():
            name, _, value = line.partition("=")
            unit[name] = value
        if unit.get("LoadState") == "loaded":
            units[unit.get("Id", "")] = unit
    return units


def handover(units: SystemdUnits) -> Iterator[str]:
    """Yield a warning where Wings is started beside wingsd, with what to do."""
    wings = units.get(_WINGS, {})
    if _runs(wings) and _runs(units.get(WINGSD_UNIT, {})):
        yield (
            "wings.service and wingsd.service are both started, and each would handle the same "
            "servers: stop one, by systemctl disable --now wings to stay with wingsd"
        )
    elif _runs(wings):
        yield (
            "wings.service runs this node, and wingsd is not started beside it; to hand over: "
            "systemctl disable --now wings && systemctl start wingsd"
        )
    elif wings.get("UnitFileState") == "enabled":
        yield (
            "wings.service is enabled, and would be started with the machine: "
            "systemctl disable wings"
        )


def _runs(unit: Mapping[str, str]) -> bool:
    return unit.get("ActiveState") in ("active", "activating", "reloading")


def service_limits(config: Config, path: str, units: SystemdUnits) -> Iterator[str]:
    """Yield a warning for what the service's sandbox hides, with the settings that it needs.

    `path` is that of the configuration.
    """
    service = units.get(WINGSD_UNIT, {})
    written, read = _written(config), {"the configuration": path}
    if config.api.ssl.enabled:
        read |= {"api.ssl.cert": config.api.ssl.cert, "api.ssl.key": config.api.ssl.key}
    read = {key: os.path.realpath(each) for key, each in read.items()}
    hidden, settings = [], []
    if service.get("ProtectHome", "no") != "no":
        at_home = {key: each for key, each in (written | read).items() if _below(each, _HOMES)}
        if at_home:
            hidden += _named(at_home)
            settings.append("ProtectHome=no")
    bound = [entry.split(":")[0] for entry in _paths(service.get("BindPaths"))]
    in_tmp = {
        key: each
        for key, each in written.items()
        if _below(each, _TEMPORARY) and not _below(each, bound)
    }
    if service.get("PrivateTmp", "no") != "no" and in_tmp:
        hidden += _named(in_tmp)
        settings.append(f"BindPaths={_joined(in_tmp)}")
    if service.get("ProtectSystem") == "strict":
        writable = [*_paths(service.get("ReadWritePaths")), *bound, *_TEMPORARY]
        locked = {key: each for key, each in written.items() if not _below(each, writable)}
        if locked:
            hidden += [one for one in _named(locked) if one not in hidden]
            settings.append(f"ReadWritePaths={_joined(locked)}")
    if settings:
        yield (
            f"the service cannot use {', '.join(hidden)}, and may not start; to let it: systemctl "
            f"edit wingsd, and there, each on a line: [Service] {' '.join(settings)}"
        )


def _written(config: Config) -> dict[str, str]:
    system = config.system
    keys = ["root_directory", "data", "backup_directory", "log_directory", "tmp_directory"]
    if system.machine_id.enable and system.machine_id.enabled:
        keys.append("machine_id.directory")
    if config.is_pelican and system.user.passwd.enable:
        keys.append("user.passwd.directory")
    elif system.passwd.enabled:
        keys.append("passwd.directory")
    if system.has_histories:
        keys.append("history.directory")
    return {key: str(value_at(config, key)) for key in (f"system.{each}" for each in keys)}


def histories(config: Config) -> Iterator[str]:
    """Yield a warning where the directory of histories cannot, or should not, be used."""
    history, data = config.system.history, config.system.data
    if not config.system.has_histories:
        return
    where = f"system.history.directory ({history.directory})"
    try:
        device = os.stat(history.directory).st_dev
    except FileNotFoundError:
        if history.directory not in DEFAULT_HISTORIES:
            yield f"{where} does not exist, and no points are made: mount it, or make it"
        return
    except OSError as error:
        yield f"{where} cannot be used, and no points are made: {error.strerror}"
        return
    with suppress(OSError):
        if device == os.stat(data).st_dev:
            yield (
                f"{where} is on the file system of system.data: one disk that fails takes the "
                f"servers and their histories{_backups(config)}"
            )


def _backups(config: Config) -> str:
    return " and backups" if config.system.backups.wings.kind == POINTS else ""


def _paths(value: str | None) -> list[str]:
    return [path.lstrip("-+") for path in (value or "").split()]


def _below(path: str, tops: Sequence[str]) -> bool:
    real = os.path.realpath(path)
    return any(is_below(real, os.path.realpath(top)) for top in tops)


def _named(paths: Mapping[str, str]) -> list[str]:
    return [f"{key} ({path})" for key, path in paths.items()]


def _joined(paths: Mapping[str, str]) -> str:
    return " ".join(dict.fromkeys(paths.values()))


def taken_over(config: Config) -> Iterator[str]:
    """Yield what wingsd would find on this node, and do about it."""
    if not config.docker.enabled:
        return
    try:
        running = _containers(config, "server_process", "/home/container")
        installing = _containers(config, "server_installer", "/mnt/server")
    except EnvironmentFailed as error:
        yield f"not known which servers run: {error.detail or error.message}"
        return
    if running:
        yield f"running servers, which run on under wingsd: {len(running)}"
    if installing:
        yield f"installations under way, which go on under wingsd: {len(installing)}"
    ran: set[str] = set()
    with suppress(OSError, ValueError, RecursionError):
        states = parse_states((Path(config.system.root_directory) / STATES_FILE).read_bytes())
        ran = {server for server, state in states.items() if state in _RAN}
    down = ran - running
    if down:
        yield (
            f"servers that ran when {STATES_FILE} was written and do not run now, which wingsd "
            f"starts as Wings would: {len(down)}"
        )


def _containers(config: Config, kind: str, target: str) -> set[str]:
    """Return the servers of this node that have a running container. Raises as the engine."""
    # Here, since docker-py takes a while to import, and other commands do without it.
    from wingsd.docker.engine import FAILURES, DockerClient, explain  # noqa: PLC0415

    address = engine_address(config.docker.socket, os.environ)
    try:
        with closing(DockerClient(address)) as client:
            found = client.containers(filters={"label": f"ContainerType={kind}"})
    except FAILURES as error:
        raise EnvironmentFailed(
            f"the Docker engine at {address} does not answer: {explain(error)}"
        ) from error
    homes = [_source(container, target) for container in found]
    data = os.path.realpath(config.system.data)
    return {
        posixpath.basename(home)
        for home in homes
        if os.path.realpath(posixpath.dirname(home)) == data
    }


def _source(container: Mapping[str, Any], target: str) -> str:
    mounts = container.get("Mounts") or ()
    return next((str(each["Source"]) for each in mounts if each.get("Destination") == target), "")


#: A certificate that expires within this time is a warning.
EXPIRY_WARNING = timedelta(days=14)


def check_certificates(config: Config, found: Finding) -> None:
    """Add errors and warnings about the certificates of a configuration to what was found."""
    try:
        check_ca_file(config.system.transfers.ca_file)
    except ConfigError as error:
        found.errors.append(str(error))
    ssl = config.api.ssl
    if ssl.enabled:
        try:
            ServerCertificate(ssl.cert, ssl.key)
        except ConfigError as error:
            found.errors.append(str(error))
        else:
            certificate = x509.load_pem_x509_certificate(Path(ssl.cert).read_bytes())
            ends, now = certificate.not_valid_after_utc, datetime.now(UTC)
            if ends <= now + EXPIRY_WARNING:
                verb = "has expired" if ends < now else "expires"
                found.warnings.append(
                    f"api.ssl.cert: {ssl.cert} {verb} on {ends:%Y-%m-%d at %H:%M} UTC"
                )


@attrs.define
class Finding:
    """The result of a check: errors keep the daemon from starting, warnings do not.

    Notes say what it will do with what is there.
    """

    errors: list[str] = attrs.field(factory=list)
    warnings: list[str] = attrs.field(factory=list)
    notes: list[str] = attrs.field(factory=list)


@click.command("check-config")
@click.argument("file", type=click.Path(readable=False), required=False)
@click.option("--strict", is_flag=True, help="Treat warnings as errors.")
@json_option
def check_config(*, file: str | None, strict: bool, as_json: bool) -> None:
    """Check a configuration as the daemon does when it starts.

    The default FILE is the one that the daemon uses. The daemon does not need to run. Files are
    checked with the permissions of the current user. Where systemd runs, warnings name a Wings
    that runs, and directories that the service cannot use. Notes count the servers and
    installations that the daemon would take over.
    """
    path, found = _found(file)
    usable = not found.errors and not (strict and found.warnings)
    if as_json:
        print_json({"file": path, "usable": usable} | attrs.asdict(found))
    else:
        for kind in ("error", "warning", "note"):
            for line in getattr(found, f"{kind}s"):
                show(f"{kind}: {plain(line)}")
        show(f"{path or 'the configuration'}: {'valid' if usable else 'invalid'}")
    sys.exit(Exit.DONE if usable else Exit.FAILED)


def _found(file: str | None) -> tuple[str, Finding]:
    """Return the path of the configuration, empty without one, and its errors."""
    try:
        path = file or find()
    except ConfigError as error:
        return "", Finding(errors=[str(error)])
    return path, check(path, systemd_units())


def check(path: str, units: SystemdUnits) -> Finding:
    """Return what is found about the configuration at `path`, on a machine with these units."""
    found = Finding(warnings=list(handover(units)))
    if _is_open_to_all(path):
        found.warnings.append(
            f"{path} contains the node's token and is accessible to every user of this system: "
            f"chmod 600 {path}"
        )
    try:
        config, unknown = load(path)
    except ConfigError as error:
        # The first of several lines only names the file.
        first, *others = str(error).split("\n")
        found.errors += others or [first]
        return found
    found.warnings += [f"{key}: unknown key, ignored" for key in unknown]
    check_certificates(config, found)
    _check_directories(config, found)
    _check_listening(config.api, found)
    found.warnings += histories(config)
    found.warnings += service_limits(config, path, units)
    found.notes += taken_over(config)
    return found


def _is_open_to_all(path: str) -> bool:
    """Return whether users other than the owner and the group can open a file."""
    place = Path(path).resolve()
    try:
        reached = all(each.stat().st_mode & stat.S_IXOTH for each in place.parents)
        mode = place.stat().st_mode
        return reached and stat.S_ISREG(mode) and bool(mode & (stat.S_IROTH | stat.S_IWOTH))
    except OSError:
        return False  # Reading it fails as well, which is an error.


def _check_directories(config: Config, found: Finding) -> None:
    # The daemon may be another user than this one, and starts without the directory of backups.
    is_root = os.geteuid() == 0
    for place, why in unusable_directories(config).items():
        is_fatal = is_root and not place.startswith("system.backup_directory")
        kind = found.errors if is_fatal else found.warnings
        kind.append(f"{place}: this user can create nothing there: {why}")


def _check_listening(api: ApiConfig, found: Finding) -> None:
    where = f"api.host and api.port: {api.host} port {api.port}"
    family = socket.AF_INET6 if ":" in api.host else socket.AF_INET
    try:
        socket.create_server((api.host, api.port), family=family).close()
    except OSError as error:
        match error.errno:
            case errno.EADDRINUSE:
                found.warnings.append(
                    f"{where} is in use, by a running wingsd, by Wings or by another program"
                )
            case errno.EACCES:
                found.warnings.append(
                    f"{where} requires CAP_NET_BIND_SERVICE, which this user lacks; or use a "
                    "socket passed by systemd (--endpoint)"
                )
            case _:
                found.errors.append(f"{where}: cannot listen: {error.strerror or error}")
