"""The manual pages: that they can be read, and tell of all that there is."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from wingsd.cli.__main__ import main
from wingsd.cli.client import Exit
from wingsd.config import DEFAULT_SOCKET, PLACES
from wingsd.tap import Options

HOME = Path(__file__).parent.parent.parent / "man"
#: Those written by hand; tests/handbook has what the one that is made is held to.
PAGES = [HOME / "wingsctl.1", HOME / "wingsd.8"]


def text(name: str) -> str:
    """Return a page's source without the macros' escapes."""
    return (HOME / name).read_text().replace("Fl -", "--").replace("Fl ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_mandoc_finds_no_fault(page: Path) -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("there is no mandoc")
    ran = subprocess.run(
        ["mandoc", "-T", "lint", str(page)], capture_output=True, text=True, check=False
    )
    # Pages that are not installed here cannot be found.
    faults = [
        line for line in ran.stdout.splitlines() if "referenced manual not found" not in line
    ]
    assert faults == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_man_warns_of_nothing(page: Path) -> None:
    if shutil.which("man") is None or shutil.which("groff") is None:
        pytest.skip("there is no man")
    ran = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(page)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stderr == ""


def commands() -> list[click.Command]:
    assert isinstance(main, click.Group)
    context = click.Context(main)
    found = [main.get_command(context, name) for name in main.list_commands(context)]
    return [command for command in found if command is not None]


@pytest.mark.parametrize("command", commands(), ids=lambda command: str(command.name))
def test_every_command_is_there_with_each_option(command: click.Command) -> None:
    page = text("wingsctl.1")
    assert f".It Ic {command.name} " in page
    # From its heading to the next one of its kind; what its options mean is in between.
    about = page.partition(f".It Ic {command.name} ")[2].partition("\n.It Ic ")[0]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            for name in (*parameter.opts, *parameter.secondary_opts):
                assert name in about, f"{command.name}: {name}"


def test_global_options_and_the_environment_are_documented() -> None:
    page = text("wingsctl.1")
    for parameter in main.params:
        if isinstance(parameter, click.Option):
            assert all(f".It {name}" in page for name in parameter.opts)
    for command in (main, *commands()):
        for parameter in command.params:
            if parameter.envvar is not None:
                assert f".It Ev {parameter.envvar}" in page
    assert f".It Pa {DEFAULT_SOCKET}" in page


def test_every_exit_status_is_documented() -> None:
    _, _, told = text("wingsctl.1").partition(".Sh EXIT STATUS")
    for status in Exit:
        assert f".It {status.value}\n" in told


def test_the_daemons_options_are_documented() -> None:
    page = text("wingsd.8")
    for name, letter, *_ in Options.optParameters:
        assert f".It -{letter} , --{name} " in page
    for place in PLACES:
        assert re.search(rf"^\.Pa {place}( \.| ,)?$", page, re.MULTILINE)
