"""`wingsctl diagnostics`: a report on the node for those who help, without secrets."""

from __future__ import annotations

import click

from wingsd.cli.output import json_option, print_json
from wingsd.cli.parameters import client_of

__all__ = ["diagnostics"]


@click.command()
@click.option("--endpoints", is_flag=True, help="Show hosts and addresses.")
@click.option("--no-logs", is_flag=True, help="Leave out the log.")
@click.option(
    "--log-lines",
    type=click.IntRange(0, 500),
    default=200,
    show_default=True,
    help="The number of last lines of the log.",
)
@json_option
@click.pass_context
def diagnostics(
    context: click.Context, *, endpoints: bool, no_logs: bool, log_lines: int, as_json: bool
) -> None:
    """Print a report on the node, to be sent to those who help.

    It has versions, the configuration, the state of Docker and the log's last lines. Secrets are
    left out; look through the log all the same before you publish it.
    """
    shown = {
        "include_endpoints": str(endpoints).lower(),
        "include_logs": str(not no_logs).lower(),
        "log_lines": log_lines,
    }
    query = "&".join(f"{key}={value}" for key, value in shown.items())
    found = client_of(context).ask("GET", f"diagnostics?{query}")
    if as_json:
        print_json(found)
    else:
        click.echo(found["report"], nl=False)
