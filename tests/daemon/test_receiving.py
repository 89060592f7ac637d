"""A server is received by the whole daemon: what arrives, what is told, what is logged."""

from __future__ import annotations

import pytest_twisted

from tests.daemon.harness import UUID, House, archive, sha256
from tests.daemon.uploads import Sender


@pytest_twisted.ensureDeferred
async def test_a_server_is_received(house: House) -> None:
    await house.start()
    data = archive()
    assert await house.upload(data) == (200, None)
    home = house.volumes / UUID
    assert (home / "server.properties").read_bytes() == b"server-port=25565\n"
    region = (home / "world/region/r.0.0.mca").stat()
    assert (region.st_mode & 0o7777, region.st_mtime, region.st_size) == (0o640, 1.7e9, 100_000)
    assert house.left() == [UUID]
    assert house.panel.reports() == [(UUID, "success")]
    assert house.panel.node_of(UUID) == house.node
    await house.wait_for_line("state success")
    assert house.states() == ["pending", "processing", "success"]
    figures = await house.wait_for_line("MiB/s")
    assert f"{UUID}: received {len(data)} bytes, 2 files" in figures


@pytest_twisted.ensureDeferred
async def test_without_tls_it_is_the_same(house: House) -> None:
    await house.start(api={})
    assert house.url.startswith("http://127.0.0.1:")
    assert await house.upload(archive()) == (200, None)
    assert house.panel.reports() == [(UUID, "success")]


@pytest_twisted.ensureDeferred
async def test_no_secret_is_ever_logged(house: House) -> None:
    await house.start()
    token = house.token()
    await house.curl("-F", "archive=x", token=token)
    await house.curl("-F", "archive=x", token=house.token(exp=1))
    log = "\n".join(house.log)
    assert house.node.token not in log
    assert "Bearer" not in log
    assert not [part for part in token.split(".") if part in log]


@pytest_twisted.ensureDeferred
async def test_it_says_where_it_listens_and_which_keys_it_does_not_know(house: House) -> None:
    await house.start(crash_detection=True, throttles={"lines": 5, "line": 5})
    assert "https://127.0.0.1:" in await house.wait_for_line("listens on")
    line = await house.wait_for_line("keys not known")
    assert line.endswith("not known: crash_detection, throttles.line")


@pytest_twisted.ensureDeferred
async def test_of_what_every_panel_prints_it_knows_every_key(house: House) -> None:
    usual = house.configuration()
    await house.start(
        api=usual["api"] | {"upload_limit": 100},
        system=usual["system"] | {"sftp": {"bind_port": 2022}},
    )
    assert not [line for line in house.log if "not known" in line]


@pytest_twisted.ensureDeferred
async def test_go_sends_in_chunks_and_the_checksum_in_upper_case(house: House) -> None:
    await house.start()
    data = archive(3_000_000)
    sender = Sender(house, data, checksum=sha256(data).upper())
    await sender.begin()
    assert await sender.finish() == (200, b"")
    assert ", 2 files," in await house.wait_for_line("received")
