"""What Prometheus reads of a real daemon, over HTTP."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from treq.client import HTTPClient
from twisted.web.client import Agent

from tests.daemon.resources import memory
from tests.metrics.exposed import Samples
from tests.support.node_process import TIMEOUT, reactor
from tests.support.promtool import promtool
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID, archive
from tests.support.upload_client import begun

__all__ = ["promtool"]

LOOPBACK = {"address": "127.0.0.1:0"}


async def scraped(daemon: ReceivingNode) -> str:
    """Return the exposition of a daemon that was started with an address for it."""
    line = await daemon.wait_for_line("metrics: listening at")
    found = re.search(r"metrics: listening at (\S+)", line)
    assert found
    status, text = await get(found[1])
    assert status == 200
    return text


async def get(url: str) -> tuple[int, str]:
    response: Any = await HTTPClient(Agent(reactor)).get(url, timeout=TIMEOUT)
    return response.code, await response.text("utf-8")


@pytest.mark.promise("metrics-name-no-server")
async def test_a_success_is_in_the_metrics(
    daemon: ReceivingNode, promtool: Callable[..., str]
) -> None:
    await daemon.start(metrics=LOOPBACK | {"servers": False})
    data = archive()
    assert await daemon.upload(data) == (200, None)
    await daemon.wait_for_line("state success")
    text = await scraped(daemon)
    promtool("check", "metrics", text=text)
    assert UUID not in text
    assert daemon.node.token not in text
    found = Samples(text)
    ended = [{"direction": "in", "outcome": "success"}]
    assert found.having("wingsd_transfers_total") == ended
    assert found.get("wingsd_transfers_total", **ended[0]) == 1
    assert found.get("wingsd_transfer_bytes_total", direction="in") == len(data)
    took = "wingsd_transfer_step_duration_seconds_count"
    steps = ["admit", "receive", "verify", "durable", "swap", "environment", "report"]
    assert found.having(took) == [{"direction": "in", "step": step} for step in steps]
    asked = {
        labels["operation"]
        for labels in found.having("wingsd_panel_request_duration_seconds_count")
        if labels["outcome"] == "ok"
    }
    assert {"list", "describe", "success"} <= asked
    assert (found.get("wingsd_panel_last_answer_timestamp_seconds") or 0) > 1.7e9
    assert not found.having("wingsd_transfers_in_flight")
    assert found.get("wingsd_outbox_reports") == 0
    resident = found.get("process_resident_memory_bytes") or 0
    assert 0.5 < resident / memory(daemon, "VmRSS") < 2


async def test_a_running_transfer_is_in_the_metrics(daemon: ReceivingNode) -> None:
    await daemon.start(metrics=LOOPBACK)
    sender = await begun(daemon, archive(3_000_000), until="receiving the archive")
    found = Samples(await scraped(daemon))
    assert found.having("wingsd_transfers_in_flight") == [{"direction": "in", "step": "receive"}]
    assert not found.having("wingsd_transfers_total")
    assert await sender.finish() == (200, b"")
    found = Samples(await scraped(daemon))
    assert found.having("wingsd_server_disk_bytes") == [{"uuid": UUID, "name": "a server"}]
    assert not found.having("wingsd_transfers_in_flight")
    assert found.having("wingsd_transfers_total")


async def test_an_engine_that_does_not_answer_is_in_the_metrics(daemon: ReceivingNode) -> None:
    nobody = str(daemon.directory / "no-engine.sock")
    await daemon.start_loaded(metrics=LOOPBACK, docker={"enabled": True, "socket": nobody})
    status, answer = await daemon.upload(archive())
    assert (status, answer["code"]) == (500, "environment-failed")
    assert f"{nobody} does not answer: No such file or directory;" in answer["detail"]
    await daemon.wait_for_line("installers that are left over are not removed")
    found = Samples(await scraped(daemon))
    assert found.get("wingsd_engine_last_answer_timestamp_seconds") == 0
    assert (found.get("wingsd_engine_last_failure_timestamp_seconds") or 0) > 1.7e9
    # Asked at the start for what is left over, and for the server's container.
    asked = found.having("wingsd_engine_request_duration_seconds_count")
    assert {(each["operation"], each["outcome"]) for each in asked} == {
        ("names_with_labels", "failed"),
        ("server_containers", "failed"),
        ("look", "failed"),
    }
    assert found.having("wingsd_transfer_failures_total") == [
        {"direction": "in", "reason": "environment_failed"}
    ]


@pytest.mark.promise("metrics-name-no-server")
async def test_metrics_are_off_unless_configured(daemon: ReceivingNode) -> None:
    await daemon.start_loaded(api={"ssl": {"enabled": False}})
    assert not daemon.lines_with("metrics: listening at")
    status, _ = await get(f"{daemon.url}/metrics")
    assert status == 404


async def test_an_invalid_metrics_address_ends_the_start(daemon: ReceivingNode) -> None:
    daemon.launch(metrics={"address": "9101"})
    assert await daemon.ended() == 1
    assert daemon.lines_with("metrics.address: expected an address such as")
    assert not daemon.lines_with("Traceback")
