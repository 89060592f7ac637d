#!/usr/bin/python3
"""A restart with transfers under way, and without a connection refused where systemd listens."""

from __future__ import annotations

from interrupted import while_a_server_arrives, while_the_panel_hears_of_it
from machine import Machine, check, main, run
from twisted.internet.defer import ensureDeferred


async def test(machine: Machine) -> None:
    """Restart it, by itself and behind its socket."""

    async def restart() -> None:
        await run("systemctl", "restart", "wingsd")

    await machine.configure()
    await restart()
    await while_a_server_arrives(machine, restart)
    await while_the_panel_hears_of_it(machine, restart)
    await run("systemctl", "stop", "wingsd")
    await run("systemctl", "enable", "--now", "wingsd.socket")
    try:
        await behind_its_socket(machine)
        await while_a_server_arrives(machine, restart)
    finally:
        await run("systemctl", "disable", "--now", "wingsd.socket")
        await run("systemctl", "stop", "wingsd")


async def behind_its_socket(machine: Machine) -> None:
    """The first connection starts it, and those during a restart wait."""
    uuid = machine.new_server()
    answer = await machine.send(uuid)
    check("the first connection starts it", answer == (200, ""), answer)
    uuid = machine.new_server()
    before = await machine.property("MainPID")
    restarting = ensureDeferred(run("systemctl", "restart", "wingsd"))
    # a connection that the one before has taken ends with it
    while await machine.property("MainPID") == before:
        pass
    answer = await machine.send(uuid)
    await restarting
    check("while it is restarted they wait", answer == (200, ""), answer)


main(test)
