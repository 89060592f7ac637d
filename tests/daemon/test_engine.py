"""The whole daemon with a real Docker engine."""

from __future__ import annotations

import attrs
import pytest
import pytest_twisted
from docker.errors import NotFound
from twisted.internet.defer import Deferred

from tests.daemon.harness import UUID, House, archive
from tests.daemon.uploads import Sender
from tests.engine import Engine
from tests.support import Hang


def with_engine(house: House, engine: Engine) -> dict[str, object]:
    """Give the server the engine's image and return the node's `docker` configuration."""
    house.panel.settings_of(UUID)["container"]["image"] = engine.image
    docker = engine.config().docker
    engine.will_make_container(UUID)
    return attrs.asdict(docker)


@pytest_twisted.ensureDeferred
async def test_the_container_of_the_received_files_is_made(house: House, engine: Engine) -> None:
    await house.start(docker=with_engine(house, engine))
    assert await house.upload(archive()) == (200, None)
    container = engine.client.inspect_container(UUID)
    (mount,) = container["HostConfig"]["Mounts"]
    assert (mount["Source"], mount["Target"]) == (str(house.volumes / UUID), "/home/container")
    assert container["State"]["Status"] == "created"


@pytest_twisted.ensureDeferred
async def test_it_goes_when_the_panel_does_not_want_it(house: House, engine: Engine) -> None:
    await house.start(docker=with_engine(house, engine))
    # A Panel that describes the server to the two nodes of a transfer alone, and closes it.
    house.panel.strict = True
    hang = Hang()
    house.panel.inject("/success", hang)
    uploading = Deferred.fromCoroutine(house.upload(archive()))
    await house.panel.called("/success")
    house.panel.close_transfer(UUID)
    hang.release()
    status, answer = await uploading
    assert (status, answer["code"]) == (409, "transfer-revoked")
    await house.wait_for_line("cleaned up")
    with pytest.raises(NotFound):
        engine.client.inspect_container(UUID)


@pytest_twisted.ensureDeferred
async def test_while_another_nodes_container_has_its_name_no_byte_of_it_is_taken(
    house: House, engine: Engine
) -> None:
    await house.start(docker=with_engine(house, engine))
    image, mounts = engine.image.removeprefix("~"), ["/srv/node2:/home/container"]
    host = engine.client.create_host_config(binds=mounts)
    theirs = engine.client.create_container(image, "true", name=UUID, host_config=host)
    token = house.token()
    sender = Sender(house, archive(), token=token)
    await sender.begin()
    status, body = await sender.answer()
    assert status == 409
    assert b"the server cannot have a container on this node" in body
    assert b"/srv/node2" in body
    await house.told_of_failure()
    assert house.left() == []
    assert house.panel.reports() == [(UUID, "failure")]
    engine.client.remove_container(theirs)
    house.panel.open_transfer(UUID, house.node)
    again = Sender(house, archive(), token=token)  # The token was not used up.
    await again.begin()
    assert await again.finish() == (200, b"")


@pytest_twisted.ensureDeferred
async def test_a_missing_image_is_named(house: House, engine: Engine) -> None:
    await house.start(docker=with_engine(house, engine))
    house.panel.settings_of(UUID)["container"]["image"] = "~nobody/made:this"
    status, answer = await house.upload(archive())
    assert status == 500
    assert "nobody/made:this" in answer["detail"]
    await house.told_of_failure()
    assert house.left() == []


@pytest_twisted.ensureDeferred
async def test_a_silent_client_is_told_and_the_server_free_again(house: House) -> None:
    system = house.configuration()["system"] | {"transfers": {"stall_timeout": 1}}
    await house.start(system=system)
    sender = Sender(house, archive())
    await sender.begin()
    status, body = await sender.answer()
    assert (status, b"nothing was received for 1 s" in body) == (400, True)
    await house.told_of_failure()
    assert house.left() == []
    assert house.panel.reports() == [(UUID, "failure")]
    house.panel.open_transfer(UUID, house.node)
    assert await house.upload(archive()) == (200, None)


@pytest_twisted.ensureDeferred
async def test_only_the_exact_path_takes_uploads(house: House) -> None:
    await house.start()
    house.url += "/api/transfers/x/y?"
    status, answer = await house.curl("-F", "archive=x")
    assert (status, answer["code"]) == (404, "path-not-found")


@pytest_twisted.ensureDeferred
async def test_a_header_of_any_bytes_is_no_reason_to_say_nothing(house: House) -> None:
    await house.start()
    status, _ = await house.curl("-F", "archive=x", token="caf\udce9")
    assert status == 401
