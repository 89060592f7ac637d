"""A real daemon rewinds servers by `wingsctl rewind`, with and without a real engine."""

from __future__ import annotations

from typing import Any

import pytest

from tests.daemon.test_histories import COUNTING, settings, shown
from tests.support.archives import odd_tree, seen
from tests.support.docker_engine import Engine
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID


async def point_now(daemon: ReceivingNode) -> int:
    """Make a point; return its number."""
    ran = await daemon.wingsctl("history", "make", UUID)
    assert ran.status == 0, ran.err
    found = await shown(daemon, lambda each: each["points"])
    return int(found["points"][0]["number"])


async def rewind(daemon: ReceivingNode, *options: str) -> Any:
    ran = await daemon.wingsctl("rewind", UUID, *options, "--json")
    assert ran.status == 0, ran.err
    return ran.json


@pytest.mark.promise("rewind-changes-what-differs")
@pytest.mark.parametrize("family", ["pelican", "calagopus"])
async def test_a_server_is_rewound_and_brought_back(daemon: ReceivingNode, family: str) -> None:
    home = daemon.own(UUID)
    odd_tree(home)
    changes = {"system": settings(daemon, every="1h"), "family": family}
    await daemon.start_loaded(**changes)
    then, number = seen(home, owner=False), await point_now(daemon)
    (home / "griefed").mkdir()
    (home / "griefed" / "note").write_bytes(b"all gone")
    (home / "a").rename(home / "b")
    before = seen(home, owner=False)
    looked = await rewind(daemon, "--to", str(number), "--dry-run")
    assert (looked["state"], looked["dry_run"], looked["point"]) == ("done", True, number)
    assert {"griefed/note", "b", "a"} <= set(looked["paths"])
    assert seen(home, owner=False) == before
    done = await rewind(daemon, "--to", "-0s")
    assert done["changes"] == 0
    done = await rewind(daemon, "--to", str(number))
    assert (done["state"], done["differing"]) == ("done", [])
    assert seen(home, owner=False) == then
    await rewind(daemon, "--undo")
    assert seen(home, owner=False) == before
    refused = await daemon.wingsctl("rewind", UUID, "--to", "999")
    assert refused.status == 5
    assert "there is no point 999 of this server" in refused.err
    refused = await daemon.wingsctl("rewind", UUID, "--cancel")
    assert refused.status == 1
    assert "the server is not being rewound" in refused.err


@pytest.mark.promise("rewind-changes-what-differs")
async def test_what_is_damaged_in_the_history_is_left_as_it_is(daemon: ReceivingNode) -> None:
    home = daemon.own(UUID)
    (home / "world").write_bytes(b"built for years")
    (home / "motd").write_bytes(b"welcome")
    await daemon.start_loaded(system=settings(daemon, every="1h"))
    number = str(await point_now(daemon))
    for name in ("world", "motd"):
        (home / name).write_bytes(b"griefed")
    (daemon.directory / "history" / UUID / "tree" / "world").write_bytes(b"decayed a while")
    failed = await daemon.wingsctl("rewind", UUID, "--to", number)
    assert failed.status == 1
    assert '"world" cannot be rebuilt; wingsctl rewind --skip-damaged leaves' in failed.err
    assert (home / "motd").read_bytes() == b"griefed"
    looked = await daemon.wingsctl("rewind", UUID, "--to", number, "--dry-run")
    assert "damaged in the history, rewound only with --skip-damaged: world" in looked.out
    done = await daemon.wingsctl("rewind", UUID, "--to", number, "--skip-damaged")
    assert done.status == 0, done.err
    assert "damaged in the history, and left as before: world" in done.out
    assert (home / "motd").read_bytes() == b"welcome"
    assert (home / "world").read_bytes() == b"griefed"
    removed = await daemon.wingsctl("history", "delete", UUID, "2")
    assert removed.status == 1
    assert "to undo the last rewind of this server" in removed.err


@pytest.mark.promise("rewind-changes-what-differs")
async def test_a_server_that_runs_in_a_container_is_stopped_and_started(
    daemon: ReceivingNode, engine: Engine
) -> None:
    home = daemon.own(UUID)
    home.chmod(0o777)
    described = daemon.panel.settings_of(UUID)
    described["invocation"], described["container"]["image"] = COUNTING, engine.image
    (home / "world").write_bytes(b"built for years")
    changes = engine.for_node(UUID) | {"system": settings(daemon, every="1h")}
    await daemon.start_loaded(**changes)
    mark = len(daemon.log)
    body = ("-H", "Content-Type: application/json", "-d", '{"action": "start"}')
    path = f"/api/servers/{UUID}/power"
    assert (await daemon.curl(*body, token=daemon.node.token, path=path))[0] == 202
    await daemon.wait_for_line(f"{UUID}: running", since=mark)
    number = await point_now(daemon)
    (home / "world").write_bytes(b"griefed")
    mark = len(daemon.log)
    done = await rewind(daemon, "--to", str(number))
    await daemon.wait_for_line(f"{UUID}: running", since=mark)
    assert (home / "world").read_bytes() == b"built for years"
    assert not (home / "last").exists()
    assert done["seconds_off"] > 0
    assert engine.client.inspect_container(UUID)["State"]["Running"]
    mark = len(daemon.log)
    await rewind(daemon, "--undo")
    await daemon.wait_for_line(f"{UUID}: running", since=mark)
    assert (home / "world").read_bytes() == b"griefed"
    assert (home / "last").read_bytes().startswith(b"saved")
