"""The command `wingsctl`, also as `python -m wingsd.cli`: its subcommands and common options."""

from __future__ import annotations

import click

from wingsd import __version__
from wingsd.cli.backups import backups, verify
from wingsd.cli.check_config import check_config
from wingsd.cli.configure import configure
from wingsd.cli.diagnostics import diagnostics
from wingsd.cli.move import receive, send
from wingsd.cli.status import cancel, forget, show, status, transfers
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
    help="The daemon's control socket (control.socket in its configuration).",
)
def main(*, socket: str) -> None:
    """Control the wingsd on this machine, and transfer servers without a Panel.

    Exit status: 0 success, 1 failure, 2 invalid command line, 3 wingsd is not running, 4 no
    permission to open its socket, 5 no such server or transfer.
    """


for command in (
    status,
    transfers,
    show,
    cancel,
    forget,
    backups,
    verify,
    diagnostics,
    check_config,
    configure,
    send,
    receive,
):
    main.add_command(command)

if __name__ == "__main__":
    main(prog_name="wingsctl")
