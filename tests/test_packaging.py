"""The Debian package agrees with pyproject.toml."""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from wingsd import __release__, __version__

HOME = Path(__file__).parent.parent
PROJECT = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]
CONTROL = (HOME / "debian/control").read_text()
# Where Debian's name is not "python3-" and the distribution's.
NAMES = {
    "attrs": "attr",
    "cattrs": "cattr",
    "google-re2": "re2",
    "pyjwt": "jwt",
    "python-snappy": "snappy",
    "pyyaml": "yaml",
    "twisted[tls]": "twisted",
}


def requirements() -> dict[str, str]:
    """Return the project's dependencies, the lowest version by the name."""
    pairs = (line.split(" >= ") for line in PROJECT["dependencies"])
    return {name.lower(): version for name, version in pairs}


@pytest.mark.parametrize("name", sorted(requirements()))
def test_what_the_daemon_needs_is_there_when_it_is_built(name: str) -> None:
    package = f"python3-{NAMES.get(name, name)}"
    found = re.search(rf"^ {re.escape(package)}(?: \(>= (\S+)\))? <!nocheck>,$", CONTROL, re.M)
    assert found, f"{package} is not in Build-Depends"
    # RE2 counts otherwise in Debian.
    assert found[1] == (None if name == "google-re2" else requirements()[name])


def test_the_command_is_installed() -> None:
    place = PROJECT["scripts"]["wingsctl"]
    module, _, function = place.partition(":")
    assert callable(getattr(import_module(module), function))


def test_the_package_has_the_projects_version() -> None:
    changelog = (HOME / "debian/changelog").read_text()
    found = re.match(r"wingsd \((\S+)\)", changelog)
    assert found
    # 0.2.0~dev0 is before 0.2.0, as 0.2.0.dev0 is; what follows a plus is the packaging's own.
    assert found[1].partition("+")[0] == re.sub(r"\.?(dev|a|b|rc)", r"~\1", __version__)


def test_the_last_release_is_that_of_the_changelog() -> None:
    changelog = (HOME / "CHANGELOG.md").read_text()
    found = re.search(r"^## (\S+)", changelog, re.MULTILINE)
    assert found
    assert __release__ == found[1]
    numbers = [re.match(r"(\d+)\.(\d+)\.(\d+)", each) for each in (__release__, __version__)]
    release, version = ([int(part) for part in each.groups()] for each in numbers if each)
    assert __release__ == __version__ or release < version


@pytest.mark.promise("user-archive-process-is-confined")
def test_the_daemon_outlives_a_parser_that_the_kernel_ends_for_its_memory() -> None:
    # By default systemd stops the whole unit, systemd.service(5).
    unit = (HOME / "debian/wingsd.service").read_text()
    assert "\nOOMPolicy=continue\n" in unit


def test_the_tests_that_ci_leaves_out_with_the_newest_versions_are_there() -> None:
    printing = "named: ; @echo $(KEPT) $(ANY_VERSION)"
    command = ["make", "--silent", "--no-print-directory", "--eval", printing, "named"]
    names = subprocess.check_output(command, cwd=HOME, text=True).split()
    assert len(names) > 80
    assert [name for name in names if not (HOME / "tests" / name).exists()] == []
