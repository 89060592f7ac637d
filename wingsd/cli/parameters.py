"""Types of command-line parameters: servers with completion, addresses, settings files."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from wingsd.cli.client import TIMEOUT, ControlClient, CtlError
from wingsd.cli.output import plain
from wingsd.config import DEFAULT_SOCKET
from wingsd.util.text import canonical_uuid, origin

#: Seconds that the daemon has to answer for the completion of a word.
_COMPLETION_TIMEOUT = 2.0


def daemon_client(context: click.Context | None = None, timeout: float = TIMEOUT) -> ControlClient:
    """Return a client for the daemon at `--socket`, that of the present command by default."""
    root = (context or click.get_current_context()).find_root()
    path = root.params.get("socket") or DEFAULT_SOCKET
    return ControlClient(path, timeout)


class _Uuid(click.ParamType):  # type: ignore[type-arg]  # not generic in older versions
    """A UUID."""

    name = "uuid"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the UUID in lower case. Fails when it is invalid."""
        return canonical_uuid(value) or self.fail(f"{value!r} is not a UUID", param, ctx)


UUID = _Uuid()


class _Server(_Uuid):
    """A server's UUID, the beginning of it, or its name; completed from the daemon's transfers."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the UUID in lower case. Fails where it is that of no server, or of several."""
        uuid = canonical_uuid(value)
        if uuid is not None or ctx is None:
            return uuid or super().convert(value, param, ctx)
        names = _known(ctx)
        # a name before the beginning of a UUID, which it may look like
        found = [each for each, name in names.items() if name.casefold() == value.casefold()]
        if value and not found:
            found = [each for each in names if each.startswith(value.lower())]
        if not found:
            text = "is not a UUID, nor the beginning of one or the name of a server of this node"
            if not any(names.values()):
                text += "; no names are known: see by wingsctl status whether servers are loaded"
            self.fail(f"{value!r} {text}", param, ctx)
        if len(found) > 1:
            shown = ", ".join(f"{each} ({plain(names[each] or '?')})" for each in sorted(found))
            self.fail(f"{value!r} is that of several servers: {shown}", param, ctx)
        return found[0]

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the servers of the daemon's transfers."""
        try:
            servers = _transferred(daemon_client(ctx, _COMPLETION_TIMEOUT))
        except CtlError:
            return []
        return [CompletionItem(uuid) for uuid in servers if uuid.startswith(incomplete)]


def _known(ctx: click.Context) -> dict[str, str]:
    """Return the names of servers that the daemon knows by their UUIDs, empty if not known.

    Raises `CtlError`.
    """
    client = daemon_client(ctx)
    names = dict.fromkeys(_transferred(client), "")
    with suppress(CtlError):  # of an older daemon, or one that has not loaded them
        names |= {each["server"]: each["name"] for each in client.ask("GET", "servers")["servers"]}
    return names


def _transferred(client: ControlClient) -> list[str]:
    """Return the UUIDs of the servers that are moved, or were. Raises `CtlError`."""
    found, kinds = client.ask("GET", "transfers"), ("running", "expected", "kept", "past")
    return list(dict.fromkeys(each["server"] for kind in kinds for each in found.get(kind, ())))


SERVER = _Server()


class _OptionalServer(click.ParamType):  # type: ignore[type-arg]  # as above
    """A server, or nothing before the name of a subcommand."""

    name = "uuid"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the UUID in lower case. Fails when it is invalid."""
        return value and SERVER.convert(value, param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the subcommands, and the servers of the daemon's transfers."""
        commands = ctx.command.commands if isinstance(ctx.command, click.Group) else {}
        names = [name for name in commands if name.startswith(incomplete)]
        return [*map(CompletionItem, names), *SERVER.shell_complete(ctx, param, incomplete)]


OPTIONAL_SERVER = _OptionalServer()


class ServerGroup(click.Group):
    """A command with an optional server, which the name of a subcommand is not."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments: a server and options in any order, or a subcommand with its own."""
        is_subcommand = args[:1] in [[name] for name in self.commands]
        ctx.allow_interspersed_args = not is_subcommand
        return super().parse_args(ctx, ["", *args] if is_subcommand else args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the parameters; none in the usage of a subcommand, which has no server."""
        return super().get_params(ctx) if ctx.command is self else []


def node_url(value: str) -> str:
    """Return a node's address unchanged. Raises `BadParameter`.

    An invalid one would otherwise fail only on the other node.
    """
    found = origin(value)
    if isinstance(found, str) or found[0] not in ("http", "https"):
        raise click.BadParameter(f"{value!r} is not a URL such as https://node.example.com:8080")
    return value


_UNITS = {"": 1} | {
    f"{prefix}{end}": 1024 ** (power + 1)
    for power, prefix in enumerate("KMGT")
    for end in ("", "iB")
}


def byte_size(value: str) -> int:
    """Return the bytes of a size such as 200GiB. Raises `BadParameter`."""
    number = value.strip().rstrip("KMGTiB")
    unit = value.strip()[len(number) :]
    try:
        found = int(float(number) * _UNITS[unit])
    except (KeyError, ValueError, OverflowError):
        found = 0
    if found <= 0:
        raise click.BadParameter(f"{value!r} is not a size such as 200GiB or 50000MiB")
    return found


class SettingsFile(click.Path):
    """A JSON file in the form of a Panel's answer to `GET /api/remote/servers/{uuid}`."""

    name = "file"

    def __init__(self) -> None:
        super().__init__(dir_okay=False, allow_dash=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the content of the file. Fails when it is invalid."""
        if isinstance(value, dict):
            return value
        path = str(super().convert(value, param, ctx))
        try:
            text = sys.stdin.read() if path == "-" else Path(path).read_text()
            found = json.loads(text)
        except OSError as error:
            self.fail(f"{path} cannot be read: {error.strerror or error}", param, ctx)
        except (ValueError, RecursionError) as error:
            self.fail(f"{path} cannot be read as JSON: {error}", param, ctx)
        if not isinstance(found, dict) or not isinstance(found.get("settings"), dict):
            self.fail(
                f"{path}: expected an object with the keys settings and process_configuration, as "
                "a Panel answers for a server",
                param,
                ctx,
            )
        return found
