"""`wingsctl check-config`: checks a configuration as the daemon does when it starts."""

from __future__ import annotations

import errno
import socket
import stat
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import click
from cryptography import x509

from wingsd.cli.client import Exit
from wingsd.cli.output import json_option, plain, print_json, show
from wingsd.cli.takeover import (
    SystemdUnits,
    handover,
    service_limits,
    systemd_units,
    taken_over,
)
from wingsd.config import ApiConfig, Config, find, load
from wingsd.errors import ConfigError
from wingsd.transfers.peer.client import peer_tls
from wingsd.util.net import ServerCertificate

__all__ = ["Finding", "check", "check_certificates", "check_config"]

#: A certificate that expires within this time is a warning.
EXPIRY_WARNING = timedelta(days=14)


def check_certificates(config: Config) -> tuple[list[str], list[str]]:
    """Return errors, which keep the daemon from starting, and warnings."""
    errors: list[str] = []
    warnings: list[str] = []
    try:
        peer_tls(config.system.transfers.ca_file)
    except ConfigError as error:
        errors.append(str(error))
    ssl = config.api.ssl
    if ssl.enabled:
        try:
            ServerCertificate(ssl.cert, ssl.key)
        except ConfigError as error:
            errors.append(str(error))
        else:
            warnings += _expiry(ssl.cert)
    return errors, warnings


def _expiry(path: str) -> list[str]:
    certificate = x509.load_pem_x509_certificate(Path(path).read_bytes())
    ends, now = certificate.not_valid_after_utc, datetime.now(UTC)
    if ends > now + EXPIRY_WARNING:
        return []
    verb = "has expired" if ends < now else "expires"
    return [f"api.ssl.cert: {path} {verb} on {ends:%Y-%m-%d at %H:%M} UTC"]


@attrs.define
class Finding:
    """The result of a check: errors keep the daemon from starting, warnings do not.

    Notes say what it will do with what is there.
    """

    errors: list[str] = attrs.field(factory=list)
    warnings: list[str] = attrs.field(factory=list)
    notes: list[str] = attrs.field(factory=list)


@click.command("check-config")
@click.argument("file", type=click.Path(), required=False)
@click.option("--strict", is_flag=True, help="Treat warnings as errors.")
@json_option
def check_config(*, file: str | None, strict: bool, as_json: bool) -> None:
    """Check a configuration as the daemon does when it starts.

    The default FILE is the one that the daemon uses. The daemon does not need to run. Files are
    checked with the permissions of the current user. Where systemd runs, this also says whether
    Wings is in the way, and what the service cannot use. Notes count what it takes over.
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
    errors, warnings = check_certificates(config)
    found.errors += errors
    found.warnings += warnings
    _check_listening(config.api, found)
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
