"""The daemon goes down, is killed, and gets another certificate while servers arrive."""

from __future__ import annotations

import os
import signal

from twisted.internet.defer import Deferred
from twisted.internet.utils import getProcessOutputAndValue

from tests.daemon.silent_engine import SilentEngine
from tests.support import Hang
from tests.support.node_process import LOOPBACK, reactor
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID, archive
from tests.support.upload_client import begun


async def test_sigterm_rolls_back_and_reports_an_unverified_server(running: ReceivingNode) -> None:
    sender = await begun(running, archive(), until="receiving the archive")
    running.signal("TERM")
    status, body = await sender.finish()
    assert (status, b"shutting down" in body) == (503, True)
    assert await running.ended() == -signal.SIGTERM
    await running.failure_reported()
    assert running.stored() == []
    assert running.panel.reports() == [(UUID, "failure")]


async def test_sigterm_waits_for_a_verified_transfer_to_succeed(running: ReceivingNode) -> None:
    hang = running.panel.hold("/success")
    upload = Deferred.fromCoroutine(running.upload(archive()))
    await running.panel.called("/success")
    running.signal("TERM")
    await running.wait_for_line("Received SIGTERM")
    hang.release()
    assert await upload == (200, None)
    assert await running.ended() == -signal.SIGTERM
    assert running.stored() == [UUID]
    assert running.panel.reports() == [(UUID, "success")]


async def test_sigterm_does_not_wait_for_a_panel_that_hangs(daemon: ReceivingNode) -> None:
    await daemon.start_loaded()
    daemon.panel.inject("/servers", Hang(), times=9)
    upload = Deferred.fromCoroutine(daemon.upload(archive()))
    await daemon.panel.called("/servers?", times=2)
    daemon.signal("TERM")
    status, answer = await upload
    assert (status, answer["code"]) == (503, "daemon-stopping")
    assert await daemon.ended() == -signal.SIGTERM


async def test_sigterm_ends_it_in_time_though_the_engine_hangs(daemon: ReceivingNode) -> None:
    socket = str(daemon.directory / "engine.sock")
    engine = SilentEngine()
    await engine.listen(socket)
    await daemon.start(docker={"enabled": True, "socket": socket})
    upload = Deferred.fromCoroutine(daemon.upload(archive()))
    await daemon.wait_for_line("configuring the environment")
    daemon.signal("TERM")
    status, answer = await upload
    assert (status, answer["code"]) == (503, "daemon-stopping")
    # The engine's own answers are waited for longer.
    assert await Deferred.fromCoroutine(daemon.ended()).addTimeout(25, reactor) == -signal.SIGTERM
    # The engine keeps the container to itself; the rest is gone.
    await daemon.wait_for_line("the failure was reported to the Panel")
    assert daemon.stored() == []
    assert daemon.panel.reports() == [(UUID, "failure")]
    assert not daemon.lines_with("Unhandled")
    await engine.close()


async def test_sighup_changes_only_the_certificate(running: ReceivingNode) -> None:
    sender = await begun(running, archive(), until="receiving the archive")
    before = await running.served_certificate()
    running.issue_certificate()
    os.kill(running.pid, signal.SIGHUP)
    await running.wait_for_line("certificate reloaded")
    assert await running.served_certificate() != before
    assert await sender.finish() == (200, b"")


async def test_tls_is_1_2_or_above(daemon: ReceivingNode) -> None:
    await daemon.start()
    usual = ("-sS", "--cacert", str(daemon.ca), daemon.url)
    for option, status in (("--tls-max 1.1", 35), ("--tls-max 1.2", 0), ("--tlsv1.3", 0)):
        words = [*option.split(), *usual]
        _, _, code = await getProcessOutputAndValue("/usr/bin/curl", words, os.environ)
        assert code == status


async def test_sigterm_ends_a_daemon_that_waits_for_the_panel(daemon: ReceivingNode) -> None:
    daemon.launch(*LOOPBACK, remote="http://127.0.0.1:1")
    await daemon.wait_for_line("no usable answer from the Panel")
    daemon.signal("TERM")
    assert await daemon.ended() == -signal.SIGTERM
    assert not [line for line in daemon.log if "Traceback" in line or "startup failed" in line]
