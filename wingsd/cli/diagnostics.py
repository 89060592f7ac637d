"""`wingsctl explain` and `diagnostics`: errors explained, and a report on the node.

`wingsctl explain` prints what an error means, and `wingsctl diagnostics` a report on the node for
those who help, without secrets.
"""

from __future__ import annotations

from difflib import get_close_matches

import click

from wingsd.cli.client import CtlError, Exit
from wingsd.cli.output import answer, facts, json_option, print_json
from wingsd.cli.parameters import daemon_client
from wingsd.config import find, load
from wingsd.errors import ConfigError, explanations
from wingsd.node.diagnostics import ReportOptions, report
from wingsd.node.logs import LogUnavailable, journal_log


@click.command()
@click.argument(
    "code",
    required=False,
    shell_complete=lambda _, __, typed: [
        each for each in explanations() if each.startswith(typed)
    ],
)
@json_option
def explain(*, code: str | None, as_json: bool) -> None:
    """Explain an error by its code: its cause, and what to do.

    The code is at the end of a line of the log, and in each answer with an error. Without one,
    all codes are listed. The daemon does not need to run.
    """
    found = explanations()
    if code is None:
        titles = facts((each.code, each.title) for each in found.values())
        answer([each._asdict() for each in found.values()], as_json, titles)
        return
    if code not in found:
        close = ", ".join(get_close_matches(code, found))
        advice = f"is it one of {close}? " if close else ""
        raise CtlError(
            f"no error has the code {code}",
            f"{advice}wingsctl explain lists all codes",
            Exit.UNKNOWN,
        )
    if as_json:
        print_json(found[code]._asdict())
    else:
        click.echo(found[code].text)


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
def diagnostics(*, endpoints: bool, no_logs: bool, log_lines: int, as_json: bool) -> None:
    """Print a report on the node, for people who help you.

    The report has versions, the configuration, the state of Docker and the log's last lines.
    Secrets are left out; read it before you publish it.

    If the daemon does not run, the report has versions, configuration and journal, and the exit
    status is 3. That report needs a valid configuration: see wingsctl check-config.
    """
    shown = {
        "include_endpoints": str(endpoints).lower(),
        "include_logs": str(not no_logs).lower(),
        "log_lines": log_lines,
    }
    query = "&".join(f"{key}={value}" for key, value in shown.items())
    try:
        found = daemon_client().ask("GET", f"diagnostics?{query}")
    except CtlError as error:
        if error.exit_code != Exit.NO_DAEMON:
            raise
        _print({"report": _report_without_daemon(error, endpoints, log_lines, no_logs)}, as_json)
        raise
    _print(found, as_json)


def _print(found: dict[str, str], as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        click.echo(found["report"], nl=False)


def _report_without_daemon(error: CtlError, endpoints: bool, log_lines: int, no_logs: bool) -> str:
    try:
        config, _ = load(find())
    except ConfigError as invalid:
        raise CtlError(error.message, f"its configuration: {invalid}", Exit.NO_DAEMON) from error
    log = ["left out"]
    if not no_logs:
        try:
            log = journal_log(log_lines, lambda: "/wingsd.service")
        except LogUnavailable as reason:
            log = [f"not available: {reason}"]
    unasked = ["not asked: wingsd does not run"]
    return report(config, ReportOptions(endpoints=endpoints), unasked, unasked, unasked, log)
