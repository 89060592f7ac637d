"""What a service manager hears of the daemon, and what it gives it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from twisted.internet.threads import deferToThread

from tests.support.node_process import LOOPBACK
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID, archive
from tests.support.upload_client import begun
from tests.systemd.listeners import Journal, Manager

#: Have the socket $1 for that of journald, and the output for what systemd has made a way to it.
UNDER_THE_JOURNAL = """
mount -t tmpfs none /run && mkdir -p /run/systemd/journal || exit
ln -s "$1" /run/systemd/journal/socket
shift
JOURNAL_STREAM=$(stat -Lc %d:%i /proc/$$/fd/1)
export JOURNAL_STREAM
exec "$@"
"""

Messages = list[dict[str, str]]


@pytest.fixture
def manager(daemon: ReceivingNode) -> Iterator[Manager]:
    """A manager that the daemon of `daemon` will speak to, with a watchdog of a second."""
    with Manager(daemon.directory) as made:
        daemon.variables |= {"NOTIFY_SOCKET": made.address, "WATCHDOG_USEC": "1000000"}
        yield made


async def heard(manager: Manager, assignment: str) -> Messages:
    messages: Messages = await deferToThread(manager.wait_for, assignment)
    return messages


async def entry(journal: Journal, text: str) -> dict[str, str]:
    found: dict[str, str] = await deferToThread(journal.wait_for, text)
    return found


async def test_systemd_is_notified_of_each_state(daemon: ReceivingNode, manager: Manager) -> None:
    await daemon.listen_panel()
    hang = daemon.panel.hold("/servers?")
    daemon.launch(*LOOPBACK)
    # It listens, and does not know its servers yet.
    await daemon.listening()
    before = await heard(manager, "WATCHDOG=1")
    assert before[0]["STATUS"].startswith("starting")
    assert not [message for message in before if "READY" in message]
    hang.release()
    ready = (await heard(manager, "READY=1"))[-1]
    assert ready["STATUS"] == "0 servers; no transfer under way"

    sender = await begun(daemon, archive())
    await heard(manager, f"STATUS=1 server; receiving {UUID}")
    assert await sender.finish() == (200, b"")
    for _ in range(2):
        await heard(manager, "WATCHDOG=1")

    daemon.signal("TERM")
    stopping = (await heard(manager, "STOPPING=1"))[-1]
    assert stopping["STATUS"].startswith("stopping")
    assert await daemon.ended() == -signal.SIGTERM


async def test_a_reload_is_notified_and_new_connections_get_the_new_certificate(
    manager: Manager, running: ReceivingNode
) -> None:
    await heard(manager, "READY=1")
    before = await running.served_certificate()
    # The file names another certificate, a level, and what cannot be changed.
    files = {name: str(running.directory / f"new-{name}.pem") for name in ("cert", "key")}
    running.command(debug=True, uuid="another", api={"ssl": files})
    running.issue_certificate("new-")
    running.signal("HUP")
    begun = (await heard(manager, "RELOADING=1"))[-1]
    assert int(begun["MONOTONIC_USEC"]) > 0
    await heard(manager, "READY=1")
    await running.wait_for_line("the log shows the level debug")
    assert (await running.wait_for_line("changes that need a restart")).endswith("restart: uuid")
    await running.wait_for_line("certificate reloaded")
    assert await running.served_certificate() != before


@pytest.mark.promise("hung-daemon-is-restarted")
async def test_sigabrt_of_the_watchdog_logs_the_stacks_of_all_threads(
    manager: Manager, running: ReceivingNode
) -> None:
    await heard(manager, "READY=1")
    os.kill(running.pid, signal.SIGABRT)
    assert await running.ended() == -signal.SIGABRT
    (begin,) = [number for number, line in enumerate(running.log) if "Aborted" in line]
    assert [line for line in running.log[begin:] if "most recent call first" in line]
    assert [line for line in running.log[begin:] if "in mainLoop" in line]


async def test_journald_gets_entries_with_fields(daemon: ReceivingNode) -> None:
    with Journal(daemon.directory) as journal:
        await daemon.listen_panel()
        namespace = ("/usr/bin/unshare", "--mount", "/bin/sh", "-c", UNDER_THE_JOURNAL)
        daemon.spawn([*namespace, "sh", journal.address, *daemon.command(*LOOPBACK)])
        early = await entry(journal, "the configuration is")
        assert early["WINGSD_PATH"] == str(daemon.directory / "config.yml")
        # What was logged before the log had begun has no place in the code any more.
        assert "CODE_FILE" not in early
        listens = await entry(journal, "listens on")
        assert listens["CODE_FILE"].endswith("wingsd/app/daemon.py")
        assert listens["CODE_FUNC"] == "Node.startService"
        assert (listens["PRIORITY"], listens["SYSLOG_IDENTIFIER"]) == ("6", "wingsd")
        daemon.url = listens["WINGSD_WHERE"]
        assert await daemon.upload(archive()) == (200, None)
        receiving = await entry(journal, "receiving the archive")
        assert receiving["WINGSD_SERVER"] == UUID
        assert receiving["WINGSD_TRANSFER"] == "1"
        assert receiving["WINGSD_NAMESPACE"] == "wingsd.transfers.steps.StepLog"
        assert daemon.log == []
