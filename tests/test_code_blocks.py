"""The code in the documents: it can be read, and the commands in it are there."""

from __future__ import annotations

import ast
import configparser
import importlib.util
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest
import yaml

from tests.support.documents import HOME, PAGES, Block
from wingsd.cli.__main__ import main
from wingsd.config import parse
from wingsd.tap import Options

BLOCKS = [block for page in PAGES.values() for block in page.blocks]
#: What a configuration must have, for those that show a part of one.
LEAST = {"token_id": "id", "token": "secret", "remote": "https://panel.example.com"}
#: Programs that a page may use, all of them in Debian, or the shell's own.
PROGRAMS = {
    *(
        "apt",
        "cd",
        "certbot",
        "cp",
        "chown",
        "curl",
        "git",
        "head",
        "install",
        "journalctl",
        "kill",
        "ln",
    ),
    *("ls", "mkdir", "pre-commit", "sha256sum", "systemctl"),
}
#: Sections of a unit.
SECTIONS = {"Unit", "Service", "Socket", "Install"}
#: Units that may be named.
UNITS = {"wings", "wingsd", "wingsd.socket", "wingsd-evacuate"}
#: A variable that is set for one command.
ASSIGNED = re.compile(r"[A-Z_]+=.*")
JOINED = re.compile(r"\\\n\s*")
#: Inline code that is a command to type, and no message that begins as one.
COMMAND = re.compile(r"(?:make|python3? -m|twistd|wingsctl(?! cannot)|systemctl|journalctl) .+")


def blocks(*languages: str) -> pytest.MarkDecorator:
    found = [block for block in BLOCKS if block.language in languages]
    assert found
    return pytest.mark.parametrize("block", found, ids=[block.place for block in found])


def test_every_language_is_one_that_is_looked_at() -> None:
    known = {"ini", "js", "python", "sh", "text", "yaml", "{include}", "{toctree}"}
    assert {block.language for block in BLOCKS} <= known


@blocks("yaml")
def test_what_is_yaml_is_a_configuration_unless_it_says_of_what_else(block: Block) -> None:
    data = yaml.safe_load(block.code)
    assert isinstance(data, dict)
    if not block.about:
        _, unknown = parse(yaml.safe_dump(LEAST | data), block.place)
        assert unknown == []


@blocks("python")
def test_what_is_python_can_be_read(block: Block) -> None:
    assert ast.parse(block.code).body


@pytest.mark.skipif(
    not (shutil.which("node") or os.environ.get("CI")), reason="there is no node to read it"
)
@blocks("js")
def test_what_is_javascript_can_be_read(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "shown.mjs"
    path.write_text(block.code)
    subprocess.run(["node", "--check", str(path)], check=True)


@blocks("ini")
def test_what_is_of_a_unit_can_be_read(block: Block) -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # its names have capitals
    unit.read_string(block.code)
    assert unit.sections()
    for section in unit.sections():
        assert section in SECTIONS
        for name, value in unit.items(section):
            assert re.fullmatch(r"[A-Z][A-Za-z]+", name)
            assert value


@blocks("sh")
def test_what_is_of_a_shell_can_be_read(block: Block) -> None:
    subprocess.run(["bash", "-n"], input=block.code.encode(), check=True)


def test_the_commands_in_blocks_are_there() -> None:
    for block in BLOCKS:
        if block.language == "sh":
            for line in JOINED.sub(" ", block.code).splitlines():
                for command in _commands(line):
                    _check(command)


def test_the_commands_in_the_text_are_there() -> None:
    for page in PAGES.values():
        for text in filter(COMMAND.fullmatch, page.code):
            for command in _commands(text):
                _check(command)


def _commands(line: str) -> list[list[str]]:
    """Return the commands of a line, each as its words."""
    words = shlex.split(line, comments=True, posix=True)
    commands: list[list[str]] = [[]]
    for word in words:
        if word in ("&&", "|", ";"):
            commands.append([])
        else:
            commands[-1].append(word)
    return [command for command in commands if command]


def _check(command: list[str]) -> None:
    """Fail when what a command names is not there."""
    program, *words = itertools.dropwhile(ASSIGNED.fullmatch, command)
    program = program.removeprefix("/opt/wingsd/bin/")
    if program == "tools/venv":
        program, *words = words
    match program:
        case "make":
            _check_make(words)
        case "python" | "python3":
            assert words[0] == "-m"
            assert words[1] == "venv" or importlib.util.find_spec(words[1]), words[1]
        case "pip":
            assert words == ["install", "."]
        case "twistd":
            _check_twistd(words)
        case "wingsctl":
            _check_wingsctl(words)
        case "systemctl":
            assert set(words[1:]) - {"--now"} <= UNITS, command
        case "journalctl":
            assert words[:2] == ["-u", "wingsd"] or words[0].startswith("WINGSD_"), command
        case _:
            assert program in PROGRAMS, f"{program}: is it in Debian? Then name it here"


def _check_make(words: list[str]) -> None:
    rules = (HOME / "Makefile").read_text()
    for word in words:
        variable, assigned, _ = word.partition("=")
        line = rf"^# {variable}=" if assigned else rf"^{word}: "
        assert re.search(line, rules, re.MULTILINE), word


def _check_twistd(words: list[str]) -> None:
    where = words.index("wingsd")
    assert set(words[:where]) <= {"-n", "--pidfile="}
    for option in filter(lambda word: word.startswith("--"), words[where:]):
        assert f"{option[2:]}=" in Options().longOpt, option


def _check_wingsctl(words: list[str]) -> None:
    assert isinstance(main, click.Group)
    options = {name for parameter in main.params for name in parameter.opts} | {"--help"}
    given, found = words[0], main.get_command(click.Context(main), words[0])
    assert found is not None or given in options, given
    if isinstance(found, click.Group) and words[1:2] != [] and words[1] in found.commands:
        found = found.commands[words[1]]
    if found is not None:
        known = {name for parameter in found.params for name in parameter.opts} | {"--help"}
        assert {word for word in words if word.startswith("--")} <= known, words


def test_json_in_the_text_can_be_read() -> None:
    texts = [text for page in PAGES.values() for text in page.code if text.startswith('{"')]
    assert texts
    for text in texts:
        assert json.loads(text)
