"""What each part of the confinement takes away by itself, in a process of its own."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys

import pytest

from wingsd.sandbox import launch

SCRIPT = """
import ctypes, encodings.idna, json, os, socket, sys
sys.path[:] = json.loads(sys.argv[1])
from wingsd.sandbox import landlock, system_calls

def tried(what, *args):
    try:
        what(*args)
    except OSError as error:
        return error.strerror
    return "done"

ctypes.CDLL(None).prctl(38, *map(ctypes.c_ulong, (1, 0, 0, 0)))
part = {"landlock": landlock, "system_calls": system_calls}[sys.argv[2]]
there = part.restrict()
connect = lambda: socket.create_connection(("127.0.0.1", 1))
found = {
    "open": tried(open, "/etc/passwd"), "mkdir": tried(os.mkdir, "/tmp/wingsd-made"),
    "rename": tried(os.rename, "/tmp/a", "/tmp/b"), "connect": tried(connect),
    "kill": tried(os.kill, os.getppid(), 0), "list": tried(os.listdir, "/"),
    "start": tried(os.fork) if there and part is system_calls else "",
    "read": tried(os.read, 0, 10), "memory": len(bytearray(1 << 24)),
}
sys.stdout.write(json.dumps([there, found]))
"""
NOT_PERMITTED = "Operation not permitted"


def restricted(part: str) -> dict[str, str]:
    command = [sys.executable, "-I", "-c", SCRIPT, json.dumps(sys.path), part]
    done = subprocess.run(command, input=b"x", capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    there, found = json.loads(done.stdout)
    if not there:
        pytest.skip("this kernel does not have it")
    assert (found.pop("read"), found.pop("memory")) == ("done", 1 << 24)
    return dict(found)


def test_the_filter_leaves_no_call_that_opens_changes_or_starts_anything() -> None:
    assert set(restricted("system_calls").values()) == {NOT_PERMITTED}


def test_landlock_leaves_no_file_and_no_network() -> None:
    version = ctypes.CDLL(None).syscall(444, None, 0, 1)
    found = restricted("landlock")
    denied = {found[name] for name in ("open", "mkdir", "list")}
    assert denied == {"Permission denied"}
    if version >= 4:
        assert found["connect"] == "Permission denied"
    if version >= 6:
        assert found["kill"] == NOT_PERMITTED


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (-11, "signal 11 (Segmentation fault)"),
        (-36, "signal 36 (Real-time signal 2)"),
        (3, "its exit with status 3"),
    ],
)
def test_an_end_is_told_in_words(status: int, text: str) -> None:
    assert launch.ending(status) == text
