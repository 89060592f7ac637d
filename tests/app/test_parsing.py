"""The process that parses an egg file, started by a daemon that has capabilities without root."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.egg_files.test_process import spy

pytestmark = [pytest.mark.root, pytest.mark.promise("egg-files-are-parsed-apart")]

HELD = "+chown,+fowner,+dac_override"
DAEMON = """
import json, re, sys
sys.path[:] = json.loads(sys.argv[1])
from wingsd.egg_files.process import BOUNDS, RewriteJob
seen = json.loads(RewriteJob(BOUNDS, json.loads(sys.argv[2])).rewrite("json", b"{}", []).data)
held = re.search("CapEff:\t(.*)", open("/proc/self/status").read())[1]
print(int(held, 16), set(seen["users"]), set(sum(seen["capabilities"], [])), seen["tried"])
"""


def test_it_gives_up_the_capabilities_of_the_daemon() -> None:
    drop = ("setpriv", "--reuid=988", "--regid=988", "--clear-groups")
    keep = (f"--inh-caps=-all,{HELD}", f"--ambient-caps=-all,{HELD}")
    daemon = (sys.executable, "-c", DAEMON, json.dumps(sys.path), json.dumps(spy()))
    done = subprocess.run([*drop, *keep, *daemon], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "11 {'988'} {'0000000000000000'} [1, 1, 1, 1, 1, 1]\n"
