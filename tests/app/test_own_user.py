"""A node as the servers' own user: without root and any capability, all of a server's way."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

OWNER = 988
# All is imported before: whoever it becomes may not be able to read the interpreter's files.
WAY = """
import gzip, io, os, stat, sys, tarfile
from wingsd.archive.compress import Compression
from wingsd.archive.extract import extract
from wingsd.archive.pack import pack
from wingsd.archive.policy import Kind
from wingsd.egg_files.process import read
from wingsd.filesystem.openers import directory_opener
from wingsd.filesystem.root import ServerRoot
from wingsd.servers.files import ServerDirectories
from wingsd.transfers.storage.staging import Staging

os.setgroups([])
os.setresgid(988, 988, 988)
os.setresuid(988, 988, 988)
data, uuid, owner = sys.argv[1], "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10", (988, 988)

archive = io.BytesIO()
with tarfile.open(fileobj=archive, mode="w:gz") as tar:
    for name, kind, mode, link in (
        ("world", tarfile.DIRTYPE, 0o750, ""),
        ("world/level.dat", tarfile.REGTYPE, 0o640, ""),
        ("world/again", tarfile.LNKTYPE, 0o640, "world/level.dat"),
        ("link", tarfile.SYMTYPE, 0o777, "world"),
    ):
        member = tarfile.TarInfo(name)
        member.type, member.mode, member.linkname = kind, mode, link
        member.size = 5 if kind == tarfile.REGTYPE else 0
        tar.addfile(member, io.BytesIO(b"level"))

staging = Staging(data, owner, durable=True)
staging.prepare()
extract(iter([archive.getvalue()]), staging.create(uuid), owner, print)
staging.flush(uuid)
staging.swap(uuid)
staging.finish(uuid)
home = os.path.join(data, uuid)
level = os.stat(os.path.join(home, "world", "again"))
assert (level.st_uid, level.st_gid, level.st_nlink) == (988, 988, 2), level
assert stat.S_IMODE(level.st_mode) == 0o640, level
with ServerRoot(home, directory_opener("auto"), owner) as root:
    path, _ = read(root, "server.properties", 100)
    root.write(path, [b"server-port=1"])
sent = pack(
    home, lambda block: None, links=True, compression=Compression.NONE, warn=print,
    progress=lambda size, files: None,
)
print(*(sent.counts[kind] for kind in (Kind.FILE, Kind.HARD_LINK, Kind.SYMLINK, Kind.SKIPPED)))
directories = ServerDirectories(data, owner)
directories.delete(directories.set_aside(uuid))
print(sorted(os.listdir(data)))
"""


def test_it_receives_rewrites_sends_and_deletes_a_server() -> None:
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        os.chown(place, OWNER, OWNER)
        done = subprocess.run(
            [sys.executable, "-c", WAY, str(place / "volumes")],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    # Two files, one more name of one of them, a symlink; nothing left out, and nothing left.
    assert done.stdout.splitlines() == ["2 1 1 0", "[]"]
