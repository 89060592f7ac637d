"""`wingsctl check-config`: whether the daemon could start with a configuration."""

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
from wingsd.config import ApiConfig, Config, find, load
from wingsd.errors import ConfigError
from wingsd.transfers.peer.tls import checked
from wingsd.util.tls import ServerCertificate

__all__ = ["Finding", "check", "check_certificates", "check_config"]

#: A certificate that ends sooner is told of.
SOON = timedelta(days=14)


def check_certificates(config: Config) -> tuple[list[str], list[str]]:
    """Return what keeps the daemon from starting, and what may become a trouble."""
    errors: list[str] = []
    warnings: list[str] = []
    try:
        checked(config.system.transfers.ca_file)
    except ConfigError as error:
        errors.append(str(error))
    ssl = config.api.ssl
    if ssl.enabled:
        try:
            ServerCertificate(ssl.cert, ssl.key)
        except ConfigError as error:
            errors.append(str(error))
        else:
            warnings += _age(ssl.cert)
    return errors, warnings


def _age(path: str) -> list[str]:
    certificate = x509.load_pem_x509_certificate(Path(path).read_bytes())
    ends, now = certificate.not_valid_after_utc, datetime.now(UTC)
    if ends > now + SOON:
        return []
    word = "has expired" if ends < now else "expires"
    return [f"api.ssl.cert: {path} {word} on {ends:%Y-%m-%d at %H:%M} UTC"]


@attrs.define
class Finding:
    """What is wrong with a configuration: what keeps the daemon from starting, and what may."""

    errors: list[str] = attrs.field(factory=list)
    warnings: list[str] = attrs.field(factory=list)


@click.command("check-config")
@click.argument("file", type=click.Path(), required=False)
@click.option("--strict", is_flag=True, help="Take every warning for an error.")
@json_option
def check_config(*, file: str | None, strict: bool, as_json: bool) -> None:
    """Check a configuration as the daemon does when it starts.

    Without FILE it is the one that the daemon finds. No daemon is needed; what the files that it
    names are worth is seen as this user sees them.
    """
    path, found = _found(file)
    usable = not found.errors and not (strict and found.warnings)
    if as_json:
        print_json({"file": path, "usable": usable} | attrs.asdict(found))
    else:
        for kind, lines in (("error", found.errors), ("warning", found.warnings)):
            for line in lines:
                show(f"{kind}: {plain(line)}")
        show(f"{path or 'the configuration'} {'can' if usable else 'cannot'} be used")
    sys.exit(Exit.DONE if usable else Exit.FAILED)


def _found(file: str | None) -> tuple[str, Finding]:
    """Return which configuration it is, empty for none, and what is wrong with it."""
    try:
        path = file or find()
    except ConfigError as error:
        return "", Finding(errors=[str(error)])
    return path, check(path)


def check(path: str) -> Finding:
    """Return what is wrong with the configuration at `path`."""
    found = Finding()
    if _is_open_to_all(path):
        found.warnings.append(
            f"{path} can be read or written by every user of this system, and the node's token is "
            f"in it: chmod 600 {path}"
        )
    try:
        config, unknown = load(path)
    except ConfigError as error:
        # Of several lines the first only says of which file the others are.
        first, *others = str(error).split("\n")
        found.errors += others or [first]
        return found
    found.warnings += [f"{key}: not a key that wingsd knows; it is ignored" for key in unknown]
    # What that reads in takes a while, and no other command has a use for it.

    errors, warnings = check_certificates(config)
    found.errors += errors
    found.warnings += warnings
    _check_listening(config.api, found)
    return found


def _is_open_to_all(path: str) -> bool:
    """Return whether others than its owner and group can reach and open a file."""
    place = Path(path).resolve()
    try:
        reached = all(each.stat().st_mode & stat.S_IXOTH for each in place.parents)
        return reached and bool(place.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH))
    except OSError:
        return False  # Where it cannot be read either, that is told.


def _check_listening(api: ApiConfig, found: Finding) -> None:
    where = f"api.host and api.port: {api.host} port {api.port}"
    family = socket.AF_INET6 if ":" in api.host else socket.AF_INET
    try:
        socket.create_server((api.host, api.port), family=family).close()
    except OSError as error:
        match error.errno:
            case errno.EADDRINUSE:
                found.warnings.append(
                    f"{where} is in use, by a wingsd that runs already or by another program"
                )
            case errno.EACCES:
                found.warnings.append(
                    f"{where} needs CAP_NET_BIND_SERVICE, which this user has not; or let systemd "
                    "hand the socket over (--endpoint)"
                )
            case _:
                found.errors.append(f"{where} cannot be listened at: {error.strerror or error}")
