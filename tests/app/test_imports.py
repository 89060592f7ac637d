"""A node imports large libraries when it first uses them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

#: Libraries that a node without Docker, metrics, transfers and open consoles does without.
LATER = {
    "autobahn",
    "docker",
    "h11",
    "lxml",
    "lz4",
    "pathspec",
    "prometheus_client",
    "psutil",
    "pyzstd",
    "re2",
    "requests",
    "ruamel",
    "tomlkit",
    "treq",
    "twisted.application.internet",
}
SCRIPT = """
import sys
from twisted.internet import reactor
from wingsd.app.wiring import make_node
from wingsd.config import load
make_node(load(sys.argv[1])[0], "tcp:0", reactor)
print(*sys.modules)
"""


def test_a_node_is_made_without_what_it_may_never_need(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text(
        "{uuid: 12345678-1234-4234-8234-123456789abc, token_id: a, token: b, "
        f"remote: 'https://panel.invalid', docker: {{enabled: false}}, "
        f"system: {{data: {tmp_path}/volumes, root_directory: {tmp_path}}}}}"
    )
    command = [sys.executable, "-c", SCRIPT, str(path)]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not LATER & set(made.stdout.split())
