"""The daemon goes down, is killed, and gets another certificate while servers arrive."""

from __future__ import annotations

import os
import signal

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.utils import getProcessOutputAndValue

from tests.daemon.harness import UUID, House, archive, reactor
from tests.daemon.silent_engine import SilentEngine
from tests.daemon.uploads import Sender
from tests.support import Hang


@pytest_twisted.ensureDeferred
async def test_sigterm_undoes_what_is_not_verified_and_tells(house: House) -> None:
    await house.start()
    sender = Sender(house, archive())
    await sender.begin()
    await house.wait_for_line("receiving the archive")
    house.signal("TERM")
    status, body = await sender.finish()
    assert (status, b"shutting down" in body) == (503, True)
    assert await house.ended() == -signal.SIGTERM
    await house.told_of_failure()
    assert house.left() == []
    assert house.panel.reports() == [(UUID, "failure")]


@pytest_twisted.ensureDeferred
async def test_sigterm_brings_what_is_verified_to_its_end(house: House) -> None:
    await house.start()
    hang = Hang()
    house.panel.inject("/success", hang)
    upload = Deferred.fromCoroutine(house.upload(archive()))
    await house.panel.called("/success")
    house.signal("TERM")
    await house.wait_for_line("Received SIGTERM")
    hang.release()
    assert await upload == (200, None)
    assert await house.ended() == -signal.SIGTERM
    assert house.left() == [UUID]
    assert house.panel.reports() == [(UUID, "success")]


@pytest_twisted.ensureDeferred
async def test_sigterm_does_not_wait_for_a_panel_that_hangs(house: House) -> None:
    await house.start()
    await house.loaded()
    house.panel.inject("/servers", Hang(), times=9)
    upload = Deferred.fromCoroutine(house.upload(archive()))
    await house.panel.called("/servers?", times=2)
    house.signal("TERM")
    status, answer = await upload
    assert (status, answer["code"]) == (503, "daemon-stopping")
    assert await house.ended() == -signal.SIGTERM


@pytest_twisted.ensureDeferred
async def test_sigterm_ends_it_in_time_though_the_engine_hangs(house: House) -> None:
    socket = str(house.directory / "engine.sock")
    engine = SilentEngine()
    await engine.listen(socket)
    await house.start(docker={"socket": socket})
    upload = Deferred.fromCoroutine(house.upload(archive()))
    await house.wait_for_line("configuring the environment")
    house.signal("TERM")
    status, answer = await upload
    assert (status, answer["code"]) == (503, "daemon-stopping")
    assert await Deferred.fromCoroutine(house.ended()).addTimeout(10, reactor) == -signal.SIGTERM
    # The engine keeps the container to itself; the rest is gone.
    await house.wait_for_line("the Panel was told of the failure")
    assert house.left() == []
    assert house.panel.reports() == [(UUID, "failure")]
    assert not [line for line in house.log if "Unhandled" in line]
    await engine.close()


@pytest_twisted.ensureDeferred
async def test_what_a_killed_daemon_left_is_cleared_by_the_next(house: House) -> None:
    await house.start()
    house.signal("KILL")
    await house.ended()
    (house.directory / ".volumes.staging" / UUID / "world").mkdir(parents=True)
    await house.start()
    await house.wait_for_line(f"{UUID}: removed an unfinished transfer")
    assert house.left() == []
    assert await house.upload(archive()) == (200, None)


@pytest_twisted.ensureDeferred
async def test_sighup_changes_the_certificate_and_drops_nobody(house: House) -> None:
    await house.start()
    sender = Sender(house, archive())
    await sender.begin()
    await house.wait_for_line("receiving the archive")
    before = await house.served_certificate()
    house.issue_certificate()
    os.kill(house.pid, signal.SIGHUP)
    await house.wait_for_line("certificate was read anew")
    assert await house.served_certificate() != before
    assert await sender.finish() == (200, b"")


@pytest_twisted.ensureDeferred
async def test_a_bad_certificate_at_sighup_is_logged_and_the_old_one_stays(house: House) -> None:
    await house.start()
    (house.directory / "cert.pem").write_text("")
    os.kill(house.pid, signal.SIGHUP)
    assert "api.ssl.cert" in await house.wait_for_line("certificate in use stays")
    assert await house.upload(archive()) == (200, None)


@pytest.mark.parametrize(
    ("option", "status"), [("--tls-max=1.1", 35), ("--tls-max=1.2", 0), ("--tlsv1.3", 0)]
)
@pytest_twisted.ensureDeferred
async def test_tls_is_1_2_or_above(house: House, option: str, status: int) -> None:
    await house.start()
    name, _, value = option.partition("=")
    command = ["-sS", name, *filter(None, [value]), "--cacert", f"{house.directory}/ca.pem"]
    _, _, code = await getProcessOutputAndValue("/usr/bin/curl", [*command, house.url], os.environ)
    assert code == status


@pytest_twisted.ensureDeferred
async def test_it_ends_without_a_word_more_while_the_panel_is_down(house: House) -> None:
    house.launch("--endpoint", "tcp:0:interface=127.0.0.1", remote="http://127.0.0.1:1")
    await house.wait_for_line("no good answer from the Panel")
    house.signal("TERM")
    assert await house.ended() == -signal.SIGTERM
    assert not [line for line in house.log if "Traceback" in line or "booting failed" in line]
