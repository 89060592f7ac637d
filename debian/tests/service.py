#!/usr/bin/python3
"""The service as it is installed: it waits for a configuration, runs, reloads, and is hardened."""

from __future__ import annotations

import pwd
import ssl
from pathlib import Path

from machine import VOLUMES, Failed, Machine, check, main, run
from twisted.internet.threads import deferToThread

WINGS = Path("/run/systemd/system/wings.service")
MAX_EXPOSURE = 22  # 2.2 in tenths


async def test(machine: Machine) -> None:
    """Go through it as an operator does."""
    await without_configuration(machine)
    await machine.configure()
    await beside_wings(machine)
    await run("systemctl", "start", "wingsd")
    await it_runs(machine)
    await it_is_controlled()
    await it_shows_its_machine(machine)
    await it_receives_and_deletes(machine)
    await it_reloads(machine)
    await hardening()
    await run("systemctl", "stop", "wingsd")
    check("it ends cleanly", await machine.property("Result") == "success")


async def without_configuration(machine: Machine) -> None:
    """It is enabled, and skipped."""
    await run("systemctl", "restart", "wingsd")
    state = [await machine.property(name) for name in ("UnitFileState", "ActiveState")]
    check("without a configuration it is skipped", state == ["enabled", "inactive"], state)


async def beside_wings(machine: Machine) -> None:
    """A node that Wings runs is left to it."""
    # Not by systemd-run: its unit stays as long as that of wingsd names it.
    WINGS.parent.mkdir(exist_ok=True)
    WINGS.write_text("[Service]\nExecStart=sleep 600\n")
    await run("systemctl", "daemon-reload")
    try:
        await run("systemctl", "start", "wings")
        await run("systemctl", "start", "wingsd")
    finally:
        await run("systemctl", "stop", "wings")
        WINGS.unlink()
        await run("systemctl", "daemon-reload")
    state = await machine.property("ActiveState"), await machine.property("Result")
    check(
        "while Wings runs the node it is skipped", state == ("inactive", "exec-condition"), state
    )
    said = "wings.service runs this node" in await machine.log()
    check("and it says so", said, await machine.log())


async def it_runs(machine: Machine) -> None:
    """As its own user, and with all it needs."""
    state = await machine.property("ActiveState")
    check("it is active as soon as it is started", state == "active", await machine.log())
    pid = await machine.property("MainPID")
    owner = pwd.getpwuid(Path(f"/proc/{pid}").stat().st_uid).pw_name
    check("it is not root", owner == "_wingsd", owner)
    log = await machine.log()
    check("nothing limits it", "the daemon is limited" not in log, log)
    check("it could use Twisted's list of plugins", "dropin.cache" not in log, log)


async def it_is_controlled() -> None:
    """By root and the group wingsd, and by nobody else."""
    await run("wingsctl", "status")
    anyone = ("setpriv", "--reuid=nobody", "--regid=nogroup")
    await run(*anyone, "--groups=wingsd", "wingsctl", "status")
    check("root and the group wingsd control it", True)
    try:
        await run(*anyone, "--clear-groups", "wingsctl", "status")
    except Failed as refused:
        check("nobody else does", True)
        print(refused)
    else:
        raise Failed("anyone may control it")


async def it_shows_its_machine(machine: Machine) -> None:
    """The sandbox lets it see what Panels show: figures, addresses, disks and its own log."""
    for path in ("utilization", "stats", "ips"):
        status, told = await machine.panel.ask(machine.node, "GET", f"/api/system/{path}")
        check(f"it tells its {path}", status == 200, told)  # noqa: PLR2004
        if path == "utilization":
            tags = {tag for disk in told["disk_details"] for tag in disk["tags"]}
            check("it knows the disk of its servers", "Data" in tags, told)
    report = await run("wingsctl", "diagnostics")
    log = report.partition("Latest Logs")[2]
    check("its report has its log from the journal", "listens on" in log, report)
    check("its report has no token", "token: {redacted}" in report, report)


async def it_receives_and_deletes(machine: Machine) -> None:
    """A server comes, and goes when the Panel says so."""
    uuid = machine.new_server()
    answer = await machine.send(uuid)
    check("a server is received over TLS", answer == (200, ""), answer)
    check("the Panel was told", machine.reports(uuid) == ["success"], machine.panel.reports())
    machine.check_files(uuid)
    closed = VOLUMES / uuid / "closed"
    closed.mkdir(mode=0o500)
    status, _ = await machine.panel.ask(machine.node, "DELETE", f"/api/servers/{uuid}")
    await machine.until(lambda: not (VOLUMES / uuid).exists(), "its files to be deleted")
    check("it is deleted when the Panel says so", status == 204, status)  # noqa: PLR2004


async def it_reloads(machine: Machine) -> None:
    """A new certificate is shown by the same process."""
    pid = await machine.property("MainPID")
    before = await deferToThread(ssl.get_server_certificate, ("127.0.0.1", 8080))
    machine.issue_certificate()
    await run("systemctl", "reload", "wingsd")
    after = await deferToThread(ssl.get_server_certificate, ("127.0.0.1", 8080))
    check("a reload reads the new certificate", before != after)
    check("it is the same process", await machine.property("MainPID") == pid)


async def hardening() -> None:
    """What systemd thinks of the unit."""
    threshold = f"--threshold={MAX_EXPOSURE}"
    verdict = await run("systemd-analyze", "security", "--no-pager", threshold, "wingsd.service")
    check("its exposure is 2.2 at most", True)
    print(verdict.splitlines()[-1])
    # Where no manual pages are installed it cannot look at them.
    await run("systemd-analyze", "verify", "--man=no", "wingsd.service", "wingsd.socket")
    check("systemd finds nothing wrong in its units", True)


main(test)
