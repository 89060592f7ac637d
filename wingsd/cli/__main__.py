"""The command `wingsctl`, also as `python -m wingsd.cli`: its subcommands and common options."""

from __future__ import annotations

from importlib import import_module

import click

from wingsd import __version__
from wingsd.config import DEFAULT_SOCKET

#: By the name of each subcommand, the module that it is in.
_MODULES = {
    "backups": "backups",
    "cancel": "status",
    "check-config": "check_config",
    "configure": "configure",
    "diagnostics": "diagnostics",
    "evacuate": "evacuate",
    "explain": "diagnostics",
    "forget": "status",
    "history": "history",
    "maintenance": "pairs",
    "pair": "pairs",
    "receive": "move",
    "rewind": "rewind",
    "send": "move",
    "show": "status",
    "status": "status",
    "top": "status",
    "transfers": "status",
    "verify": "backups",
}


class _Subcommands(click.Group):
    """Imports only the subcommand that runs: some share code with the daemon, 0.4 s of it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return their names, in the order of the help page."""
        return sorted(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the subcommand of that name, None if there is none."""
        if cmd_name not in _MODULES:
            return None
        module = import_module(f"wingsd.cli.{_MODULES[cmd_name]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command


@click.group(cls=_Subcommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="wingsctl")
@click.option(
    "--socket",
    type=click.Path(readable=False),
    envvar="WINGSCTL_SOCKET",
    default=DEFAULT_SOCKET,
    show_default=True,
    help="The daemon's control socket (control.socket in its configuration).",
)
def main(*, socket: str) -> None:
    """Control the wingsd on this machine, and transfer servers without a Panel.

    Exit status: 0 success, 1 failure, 2 invalid command line, 3 wingsd is not running, 4 no
    permission to open its socket, 5 no such server or transfer.
    """


if __name__ == "__main__":
    main(prog_name="wingsctl")
