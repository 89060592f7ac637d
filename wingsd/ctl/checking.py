"""`wingsctl check-config`: whether the daemon could start with a configuration, and what with."""

from __future__ import annotations

import errno
import socket
import stat
import sys
from pathlib import Path

import attrs
import click

from wingsd.config import Api, find, load
from wingsd.ctl.exits import Exit
from wingsd.ctl.printing import json_option, plain, print_json, show
from wingsd.errors import ConfigError

__all__ = ["Finding", "check", "check_config"]


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
    from wingsd.ctl.certificates import check_certificates  # noqa: PLC0415

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


def _check_listening(api: Api, found: Finding) -> None:
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
