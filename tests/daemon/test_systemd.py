"""What a service manager hears of the daemon, and what it gives it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from tests.daemon.harness import UUID, House, archive
from tests.daemon.uploads import Sender
from tests.support import Hang
from tests.systemd.journal import Journal
from tests.systemd.manager import Manager

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
def manager(house: House) -> Iterator[Manager]:
    """A manager that the daemon of `house` will speak to, with a watchdog of a second."""
    with Manager(house.directory) as made:
        house.variables |= {"NOTIFY_SOCKET": made.address, "WATCHDOG_USEC": "1000000"}
        yield made


async def heard(manager: Manager, assignment: str) -> Messages:
    messages: Messages = await deferToThread(manager.wait_for, assignment)
    return messages


async def entry(journal: Journal, text: str) -> dict[str, str]:
    found: dict[str, str] = await deferToThread(journal.wait_for, text)
    return found


@pytest_twisted.ensureDeferred
async def test_it_tells_from_its_start_to_its_end_how_it_is(
    house: House, manager: Manager
) -> None:
    await house.listen_panel()
    hang = Hang()
    house.panel.inject("/servers?", hang)
    house.launch("--endpoint", "tcp:0:interface=127.0.0.1")
    # It listens, and does not know its servers yet.
    await house.listening()
    before = await heard(manager, "WATCHDOG=1")
    assert before[0]["STATUS"].startswith("starting")
    assert not [message for message in before if "READY" in message]
    hang.release()
    ready = (await heard(manager, "READY=1"))[-1]
    assert ready["STATUS"] == "0 servers; no transfer under way"

    sender = Sender(house, archive())
    await sender.begin()
    await heard(manager, f"STATUS=1 server; receiving {UUID}")
    assert await sender.finish() == (200, b"")
    for _ in range(2):
        await heard(manager, "WATCHDOG=1")

    house.signal("TERM")
    stopping = (await heard(manager, "STOPPING=1"))[-1]
    assert stopping["STATUS"].startswith("ending")
    assert await house.ended() == -signal.SIGTERM


@pytest_twisted.ensureDeferred
async def test_a_reload_is_told_and_new_connections_are_shown_the_new_certificate(
    house: House, manager: Manager
) -> None:
    await house.start()
    await heard(manager, "READY=1")
    before = await house.served_certificate()
    # The file names another certificate, a level, and what cannot be changed.
    configuration = house.configuration(remote=house.panel.url, debug=True, uuid="another")
    for name in ("cert", "key"):
        configuration["api"]["ssl"][name] = str(house.directory / f"new-{name}.pem")
    house.command(configuration)
    house.issue_certificate("new-")
    house.signal("HUP")
    begun = (await heard(manager, "RELOADING=1"))[-1]
    assert int(begun["MONOTONIC_USEC"]) > 0
    await heard(manager, "READY=1")
    await house.wait_for_line("the log shows the level debug")
    assert (await house.wait_for_line("differs from what this node")).endswith("use it: uuid")
    await house.wait_for_line("certificate was read anew")
    assert await house.served_certificate() != before


@pytest_twisted.ensureDeferred
async def test_what_the_watchdog_ends_says_where_it_was(house: House, manager: Manager) -> None:
    await house.start()
    await heard(manager, "READY=1")
    os.kill(house.pid, signal.SIGABRT)
    assert await house.ended() == -signal.SIGABRT
    (begin,) = [number for number, line in enumerate(house.log) if "Aborted" in line]
    assert [line for line in house.log[begin:] if "most recent call first" in line]
    assert [line for line in house.log[begin:] if "in mainLoop" in line]


@pytest_twisted.ensureDeferred
async def test_under_the_journal_it_logs_with_fields(house: House) -> None:
    with Journal(house.directory) as journal:
        await house.listen_panel()
        command = house.command(house.configuration(), "--endpoint", "tcp:0:interface=127.0.0.1")
        house.spawn(
            [
                *("/usr/bin/unshare", "--mount", "/bin/sh", "-c", UNDER_THE_JOURNAL),
                *("sh", journal.address, *command),
            ]
        )
        early = await entry(journal, "the configuration is")
        assert early["WINGSD_PATH"] == str(house.directory / "config.yml")
        # What was logged before the log had begun has no place in the code any more.
        assert "CODE_FILE" not in early
        listens = await entry(journal, "listens on")
        assert listens["CODE_FILE"].endswith("wingsd/app/daemon.py")
        assert listens["CODE_FUNC"] == "Node.startService"
        assert (listens["PRIORITY"], listens["SYSLOG_IDENTIFIER"]) == ("6", "wingsd")
        house.url = listens["WINGSD_WHERE"]
        assert await house.upload(archive()) == (200, None)
        receiving = await entry(journal, "receiving the archive")
        assert receiving["WINGSD_SERVER"] == UUID
        assert receiving["WINGSD_TRANSFER"] == "1"
        assert receiving["WINGSD_NAMESPACE"] == "wingsd.transfers.step_log.Announcer"
        assert house.log == []
