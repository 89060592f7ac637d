"""What several commands have in common: a server's name, and the completion of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from wingsd.cli.client import ControlClient, CtlError
from wingsd.config import DEFAULT_SOCKET
from wingsd.util.text import canonical_uuid, origin

__all__ = ["ADDRESS", "SERVER", "SettingsFile", "client_of"]

#: Seconds that the daemon has to help with completing a word.
_HELP_WITHIN = 2.0


def client_of(context: click.Context, timeout: float | None = None) -> ControlClient:
    """Return the client for the daemon that the command line names."""
    path = context.find_root().params.get("socket") or DEFAULT_SOCKET
    return ControlClient(path) if timeout is None else ControlClient(path, timeout)


class _Server(click.ParamType):  # type: ignore[type-arg]  # older versions have none
    """A server's UUID; those of transfers are offered for completion."""

    name = "uuid"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it in lower case; fail for what is none."""
        uuid = canonical_uuid(value)
        if uuid is None:
            self.fail(f"{value!r} is not the UUID of a server", param, ctx)
        return uuid

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the servers that are or were moved, as far as the daemon tells."""
        try:
            found = client_of(ctx, _HELP_WITHIN).ask("GET", "transfers")
        except CtlError:
            return []
        servers = [
            each["server"] for kind in ("running", "expected", "past") for each in found[kind]
        ]
        return [
            CompletionItem(uuid) for uuid in dict.fromkeys(servers) if uuid.startswith(incomplete)
        ]


SERVER = _Server()


class _Address(click.ParamType):  # type: ignore[type-arg]  # older versions have none
    """A node's address: what is none would be told of by the other node's command alone."""

    name = "url"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it as it is; fail for what is none."""
        found = origin(value)
        if isinstance(found, str) or found[0] not in ("http", "https"):
            self.fail(
                f"{value!r} is not an address such as https://node.example.com:8080", param, ctx
            )
        return value


ADDRESS = _Address()


class SettingsFile(click.Path):
    """A JSON file with what a Panel answers to `GET /api/remote/servers/{uuid}`."""

    name = "file"

    def __init__(self) -> None:
        super().__init__(dir_okay=False, allow_dash=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return what the file holds; fail where that is no JSON object."""
        if isinstance(value, dict):
            return value
        path = str(super().convert(value, param, ctx))
        try:
            text = sys.stdin.read() if path == "-" else Path(path).read_text()
            found = json.loads(text)
        except (OSError, ValueError, RecursionError) as error:
            self.fail(f"{path} cannot be read as JSON: {error}", param, ctx)
        if not isinstance(found, dict) or not isinstance(found.get("settings"), dict):
            self.fail(
                f"{path}: expected an object with the keys settings and process_configuration, as "
                "a Panel answers for a server",
                param,
                ctx,
            )
        return found
