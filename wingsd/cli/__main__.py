"""The command `wingsctl`, also as `python -m wingsd.cli`: its subcommands and common options."""

from __future__ import annotations

import click

from wingsd import __version__
from wingsd.cli.check_config import check_config
from wingsd.cli.move import receive, send
from wingsd.cli.status import cancel, show, status, transfers
from wingsd.config import DEFAULT_SOCKET

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="wingsctl")
@click.option(
    "--socket",
    type=click.Path(),
    envvar="WINGSCTL_SOCKET",
    default=DEFAULT_SOCKET,
    show_default=True,
    help="Where the daemon listens for this command (control.socket in its configuration).",
)
def main(*, socket: str) -> None:
    """Look after the wingsd that runs on this machine, and move servers by hand.

    It ends with 0 when all went well, 1 when not, 2 for a wrong command line, 3 without a daemon,
    4 when this user may not speak to it, and 5 when it knows no such server.
    """


for command in (status, transfers, show, cancel, check_config, send, receive):
    main.add_command(command)

if __name__ == "__main__":
    main(prog_name="wingsctl")
