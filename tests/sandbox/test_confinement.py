"""What each part of the confinement takes away by itself, in a process of its own."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path

import pytest

from wingsd.sandbox import launch

pytestmark = pytest.mark.promise("user-archive-process-is-confined")

SCRIPT = """
import ctypes, encodings.idna, json, os, socket, sys
sys.path[:] = json.loads(sys.argv[1])
from wingsd.sandbox.confinement import restrict_calls, restrict_files

def tried(what, *args):
    try:
        what(*args)
    except OSError as error:
        return error.strerror
    return "done"

ctypes.CDLL(None).prctl(38, *map(ctypes.c_ulong, (1, 0, 0, 0)))
part = {"landlock": restrict_files, "system_calls": restrict_calls}[sys.argv[2]]
there = part()
connect = lambda: socket.create_connection(("127.0.0.1", 1))
found = {
    "open": tried(open, "/etc/passwd"), "mkdir": tried(os.mkdir, "/tmp/wingsd-made"),
    "rename": tried(os.rename, "/tmp/a", "/tmp/b"), "connect": tried(connect),
    "kill": tried(os.kill, os.getppid(), 0), "list": tried(os.listdir, "/"),
    "start": tried(os.fork) if there and part is restrict_calls else "",
    "read": tried(os.read, 0, 10), "memory": len(bytearray(1 << 24)),
}
sys.stdout.write(json.dumps([there, found]))
"""
#: Each attempt is made in a thread that was started afterwards.
CONFINED = """
import json, os, sys, threading
sys.path[:] = json.loads(sys.argv[1])
from wingsd.sandbox.confinement import confine_to

def tried(what, *args):
    def attempt():
        try:
            what(*args)
        except OSError as error:
            found.append(error.strerror)
        else:
            found.append("done")
    found = []
    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return found[0]

top = sys.argv[2]
there = confine_to(f"{top}/data", [f"{top}/modules", f"{top}/none"])
inside = [
    tried(lambda: open(f"{top}/data/one/file", "w").write("more")),
    tried(os.link, f"{top}/data/one/file", f"{top}/data/two/link"),
    tried(os.rename, f"{top}/data/one/file", f"{top}/data/two/moved"),
    tried(os.mkdir, f"{top}/data/three"),
    tried(os.rmdir, f"{top}/data/three"),
    tried(open, f"{top}/modules/module.py"),
]
outside = [
    tried(open, f"{top}/beside/secret"),
    tried(open, f"{top}/data/link/secret"),
    tried(open, f"{top}/modules/module.py", "a"),
    tried(open, "/etc/hostname"),
    tried(os.mkdir, f"{top}/beside/new"),
    tried(os.unlink, f"{top}/beside/secret"),
    tried(os.listdir, top),
]
print(json.dumps([there, inside, outside]))
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


@pytest.mark.promise("sftp-process-is-confined")
def test_what_is_confined_to_a_directory_does_there_all_and_elsewhere_nothing(
    tmp_path: Path,
) -> None:
    for name in ("data/one", "data/two", "beside", "modules"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "beside/secret").write_text("secret")
    (tmp_path / "modules/module.py").write_text("x = 1")
    (tmp_path / "data/one/file").write_text("file")
    (tmp_path / "data/link").symlink_to(tmp_path / "beside")
    command = [sys.executable, "-I", "-c", CONFINED, json.dumps(sys.path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    there, inside, outside = json.loads(done.stdout)
    if not there:
        pytest.skip("this kernel does not have it")
    assert inside == ["done"] * 6
    assert set(outside) == {"Permission denied"}
    assert (tmp_path / "beside/secret").read_text() == "secret"
    assert (tmp_path / "data/two/moved").read_text() == "more"


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
