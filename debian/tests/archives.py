#!/usr/bin/python3
"""Archives that users extract, by a process that confines itself in the service's sandbox."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

from machine import VOLUMES, Machine, check, main, run
from twisted.internet.defer import ensureDeferred

from tests.support.user_archives import ZipMember, rar5, zip_of_dictionary, zipped

ARCHIVES = {
    "z.zip": "7z a -bd -bso0 {to} .",
    "deflate64.zip": "7z a -bd -bso0 -mm=Deflate64 {to} .",
    "s.7z": "7z a -bd -bso0 {to} .",
    "t.tar.gz": "tar -czf {to} .",
    "t.tar.zst": "tar --zstd -cf {to} .",
    "t.tar.xz": "tar -cJf {to} .",
    "t.tbz2": "tar -cjf {to} .",
    "b.tar.br": "tar -c . | python3 -c '{brotli}' > {to}",
    "s.tar.sz": "tar -c . | PYTHONPATH={project} python3 -c '{snappy}' > {to}",
}
BROTLI = "import brotli, sys; sys.stdout.buffer.write(brotli.compress(sys.stdin.buffer.read()))"
SNAPPY = (
    "import sys; from tests.support.user_archives import snappy_framed; "
    "sys.stdout.buffer.write(snappy_framed(sys.stdin.buffer.read()))"
)
PROJECT = Path(__file__).resolve().parents[2]
#: What is refused, whole, with the code of the error.
REFUSED = {
    "dictionary.zip": (zip_of_dictionary(b"data", 1 << 30), "archive-excessive"),
    "cut.zip": (zipped(ZipMember(b"f", b"data"))[:30], "archive-damaged"),
    "text.zip": (b"hello\n", "archive-format-unknown"),
}
#: Soft limits of the process: no new descriptor, process or file, and a share of the memory.
LIMITS = {"open files": "3", "processes": "0", "file size": "0", "core file size": "0"}
NOTHING = {"CapEff": "0" * 16, "CapPrm": "0" * 16, "CapAmb": "0" * 16}
CONFINED = {**NOTHING, "Seccomp": "2", "NoNewPrivs": "1"}


async def test(machine: Machine) -> None:
    """Extract what programs make, then look at the process while it works."""
    await machine.configure()
    await run("systemctl", "restart", "wingsd")
    uuid = machine.new_server()
    check("a server is received", await machine.send(uuid) == (200, ""))
    for name, command in ARCHIVES.items():
        await it_extracts(machine, uuid, name, command)
    await a_rar_lands_inside(machine, uuid)
    await it_refuses(machine, uuid)
    await it_is_confined(machine, uuid)
    await run("systemctl", "stop", "wingsd")


async def ask(machine: Machine, uuid: str, name: str) -> tuple[int, Any]:
    """Ask for an archive to be extracted; return status and answer."""
    path = f"/api/servers/{uuid}/files/decompress"
    body = {"root": "/out", "file": name}
    answer: tuple[int, Any] = await machine.panel.ask(machine.node, "POST", path, body)
    return answer


async def extract(machine: Machine, uuid: str, name: str) -> None:
    """Have an archive extracted."""
    status, told = await ask(machine, uuid, name)
    done = (HTTPStatus.NO_CONTENT, HTTPStatus.ACCEPTED)
    check(f"{name} is extracted", status in done, (status, told))


async def it_extracts(machine: Machine, uuid: str, name: str, command: str) -> None:
    """An archive of a program gives its files."""
    home = VOLUMES / uuid
    text = name.encode() * 10_000
    source = home / "source"
    source.mkdir(exist_ok=True)
    (home / "out").mkdir(exist_ok=True)
    (source / "file").write_bytes(text)
    made = command.format(to=home / "out" / name, project=PROJECT, brotli=BROTLI, snappy=SNAPPY)
    await run("sh", "-c", f"cd {source} && {made}")
    await extract(machine, uuid, name)
    file = home / "out/file"
    check("its file is there", file.read_bytes() == text)
    owner = (home / "server.properties").stat().st_uid
    check("and belongs to the servers' user", file.stat().st_uid == owner, file.stat())


async def a_rar_lands_inside(machine: Machine, uuid: str) -> None:
    """No program of Debian makes one. Its name leads out of the server's directory."""
    out = VOLUMES / uuid / "out"
    (out / "r.rar").write_bytes(rar5((b"../../../../escape", b"inside")))
    await extract(machine, uuid, "r.rar")
    check("its file is inside", (out / "escape").read_bytes() == b"inside")
    escaped = [path for path in (VOLUMES, *VOLUMES.parents) if (path / "escape").exists()]
    check("and nothing outside", not escaped, escaped)


async def it_refuses(machine: Machine, uuid: str) -> None:
    """What is too large, damaged or no archive has a reason, and nothing is left of it."""
    out = VOLUMES / uuid / "out"
    for name, (data, code) in REFUSED.items():
        (out / name).write_bytes(data)
        before = sorted(out.iterdir())
        status, told = await ask(machine, uuid, name)
        found = (status, told["code"])
        check(f"{name} is refused", found == (HTTPStatus.BAD_REQUEST, code), told)
        check("nothing is left of it", sorted(out.iterdir()) == before)


async def it_is_confined(machine: Machine, uuid: str) -> None:
    """The process has no privileges, filters of system calls, and the archive alone."""
    archive = VOLUMES / uuid / "out/large.bz2"
    await run("sh", "-c", f"head -c 500M /dev/zero | bzip2 > {archive}")
    working = ensureDeferred(extract(machine, uuid, archive.name))
    found: dict[str, str] = {}

    def seen() -> bool:
        """Whether it has a filter more than the service, which it adds when it is ready."""
        with suppress(OSError):
            for pid in parsers():
                found.update(state(pid))
                service = state(Path("/proc") / found["PPid"])
                return int(found["Seccomp_filters"]) > int(service["Seccomp_filters"])
        return False

    await machine.until(seen, "a confined process")
    check("it has no privileges and a filter", {k: found[k] for k in CONFINED} == CONFINED, found)
    check("it has the archive and a pipe", found["fds"] == f"{archive} pipe /dev/null", found)
    check("it has no variables", found["environment"] == "", found)
    limits = {name: found[name] for name in LIMITS}
    check("it may open, start and write nothing", limits == LIMITS, limits)
    bounds = {name: found[name] for name in ("address space", "cpu time")}
    check("its memory and time are bounded", "unlimited" not in bounds.values(), bounds)
    await machine.within(working, "its end")


def parsers() -> list[Path]:
    """Return the directories in /proc of processes that parse archives."""
    pids = [path for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [path for path in pids if b"user_archives.child" in (path / "cmdline").read_bytes()]


def state(pid: Path) -> dict[str, str]:
    """Return what the kernel tells of a process."""
    found = dict(re.findall(r"^(\w+):\s*(\S*)", (pid / "status").read_text(), re.MULTILINE))
    links = [os.readlink(pid / "fd" / name) for name in sorted(os.listdir(pid / "fd"))]
    found["fds"] = " ".join(link.partition(":")[0] for link in links)
    found["environment"] = (pid / "environ").read_text()
    limits = (pid / "limits").read_text()
    found |= re.findall(r"^Max ([a-z ]+?) {2,}(\S+)", limits, re.MULTILINE)
    return found


main(test)
