"""Transfers that are under way when the daemon is stopped and another one is started."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from machine import Machine, check
from twisted.internet.defer import ensureDeferred

from tests.support import Hang

__all__ = ["while_a_server_arrives", "while_the_panel_hears_of_it"]

Interruption = Callable[[], Awaitable[Any]]


async def while_a_server_arrives(machine: Machine, interruption: Interruption) -> None:
    """It fails cleanly, the Panel is told once, and the next attempt goes well."""
    uuid = machine.new_server()
    sending = ensureDeferred(machine.send(uuid, "--limit-rate", "100k"))
    await machine.until(lambda: machine.arriving(uuid), "the server to arrive")
    await interruption()
    status, body = await sending
    check("who sent it knows that it failed", status != 200, (status, body))  # noqa: PLR2004
    await machine.until(lambda: machine.reports(uuid), "the Panel to be told")
    check("so does the Panel", machine.reports(uuid) == ["failure"], machine.reports(uuid))
    machine.check_nothing_of(uuid)
    machine.panel.open_transfer(uuid, machine.node)
    answer = await machine.send(uuid)
    check("sent once more it arrives", answer == (200, ""), answer)
    machine.check_files(uuid)


async def while_the_panel_hears_of_it(machine: Machine, interruption: Interruption) -> None:
    """The server is here, and the next daemon tells the Panel."""
    uuid = machine.new_server()
    success = f"{uuid}/transfer/success"
    deaf = Hang()
    machine.panel.inject(success, deaf)
    told, told_again = machine.panel.called(success), machine.panel.called(success, 2)
    sending = ensureDeferred(machine.send(uuid))
    await machine.within(told, "the success to be told")
    await interruption()
    await sending
    await machine.within(told_again, "the success to be told by the next daemon")
    await machine.until(lambda: not machine.panel.in_transfer(uuid), "the Panel to hear of it")
    deaf.release()
    check("the Panel heard it from the next daemon", machine.panel.node_of(uuid) is machine.node)
    machine.check_files(uuid)
