"""A node imports some large libraries when it first uses them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

#: Libraries that a node without Docker, metrics, transfers and open consoles does without.
LATER = {
    "asyncssh",
    "autobahn",
    "docker",
    "inflate64",
    "libarchive",
    "lz4",
    "lxml",
    "pathspec",
    "prometheus_client",
    "psutil",
    "re2",
    "ruamel.yaml",
    "tomlkit",
    "twisted.application.internet",
}
SCRIPT = """
import sys
from twisted.internet import reactor
from wingsd.app.wiring import build_node
from wingsd.config import load
for path in sys.argv[1:]:
    build_node(load(path)[0], "tcp:0", reactor)
    print(*sys.modules)
"""
WINGSCTL = """
import sys
from wingsd.cli.__main__ import main
main(["transfers", "--help"], standalone_mode=False)
print(*sys.modules, file=sys.stderr)
"""


def test_a_node_is_made_without_what_it_may_never_need(tmp_path: Path) -> None:
    paths = [tmp_path / f"{docker}.yml" for docker in ("false", "true")]
    for path in paths:
        path.write_text(
            "{uuid: 12345678-1234-4234-8234-123456789abc, token_id: a, token: b, "
            f"remote: 'https://panel.invalid', docker: {{enabled: {path.stem}}}, "
            f"system: {{data: {tmp_path}/volumes, root_directory: {tmp_path}}}}}"
        )
    command = [sys.executable, "-c", SCRIPT, *map(str, paths)]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [LATER & {*line.split()} for line in made.stdout.splitlines()] == [set(), {"docker"}]


def test_wingsctl_does_without_what_a_daemon_needs() -> None:
    command = [sys.executable, "-c", WINGSCTL]
    imported = set(
        subprocess.run(command, capture_output=True, text=True, check=True).stderr.split()
    )
    assert "wingsd.cli.status" in imported
    assert not {"asyncio", "cryptography", "twisted", "wingsd.cli.check_config"} & imported


def test_what_parses_archives_of_users_does_without_what_a_daemon_needs() -> None:
    script = "import sys, wingsd.user_archives.child; print(*sys.modules)"
    command = [sys.executable, "-c", script]
    imported = set(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    )
    assert not {"cattrs", "twisted", "wingsd.config", "wingsd.threadio", "yaml"} & imported
