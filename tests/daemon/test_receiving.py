"""A server is received by the whole daemon: what arrives, what is told, what is logged."""

from __future__ import annotations

from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID, archive


async def test_a_received_server_has_its_files_and_is_reported(running: ReceivingNode) -> None:
    data = archive()
    assert await running.upload(data) == (200, None)
    home = running.volumes / UUID
    assert (home / "server.properties").read_bytes() == b"server-port=25565\n"
    region = (home / "world/region/r.0.0.mca").stat()
    assert (region.st_mode & 0o7777, region.st_mtime, region.st_size) == (0o640, 1.7e9, 100_000)
    assert running.stored() == [UUID]
    assert running.panel.reports() == [(UUID, "success")]
    assert running.panel.node_of(UUID) == running.node
    await running.wait_for_line("state success")
    assert running.states() == ["pending", "processing", "success"]
    figures = await running.wait_for_line("MiB/s")
    assert f"{UUID}: received {len(data)} bytes, 2 files" in figures


async def test_no_token_is_logged(daemon: ReceivingNode) -> None:
    await daemon.start()
    token = daemon.token()
    await daemon.curl("-F", "archive=x", token=token)
    await daemon.curl("-F", "archive=x", token=daemon.token(exp=1))
    log = "\n".join(daemon.log)
    assert daemon.node.token not in log
    assert "Bearer" not in log
    assert not [part for part in token.split(".") if part in log]


async def test_only_unknown_keys_of_the_configuration_are_logged(daemon: ReceivingNode) -> None:
    # All others are printed by every Panel.
    await daemon.start(
        crash_detection=True,
        throttles={"lines": 5, "line": 5},
        api={"upload_limit": 100},
        system={"sftp": {"bind_port": 2022}},
    )
    assert "https://127.0.0.1:" in await daemon.wait_for_line("listens on")
    line = await daemon.wait_for_line("unknown configuration keys")
    assert line.endswith("keys: crash_detection, throttles.line")
