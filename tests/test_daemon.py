"""The whole daemon: a real process, TLS sockets and clients, and the Panel it answers to."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import pytest_twisted
from docker.errors import NotFound
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.utils import getProcessOutputAndValue

from tests.daemon import UUID, House, archive, reactor, sha256
from tests.engine import Engine
from tests.uploads import Sender
from wingsd.testing import Answer, Hang

OTHER = "1b0e7a6e-95c1-4a5b-8a53-7f6c5d2e4b11"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))


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
    assert house.states() == ["pending", "processing", "success"]
    figures = await house.wait_for_line("MiB/s")
    assert f"{UUID}: received {len(data)} bytes, 2 files" in figures


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
    await house.start(allowed_origins=[], throttles={"lines": 5})
    assert "https://127.0.0.1:" in await house.wait_for_line("listens on")
    assert "allowed_origins, throttles" in await house.wait_for_line("keys not known")


# Refusals


@pytest_twisted.ensureDeferred
async def test_a_refused_token_is_told_why_and_the_panel_nothing(house: House) -> None:
    await house.start()
    status, answer = await house.curl("-F", "archive=x", token=house.token(exp=1))
    assert (status, answer["error"]) == (401, "The token is not valid")
    assert "expired" in answer["detail"]
    assert "expired" in await house.wait_for_line("is refused")
    assert house.panel.calls == []


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["-H", "Content-Type: text/plain", "--data", "x"], "invalid content type"),
        (["-F", "checksum=c", "-F", "archive=x"], "archive must be sent before the checksum"),
        (["-F", "archive=@server.tar.gz"], "missing archive or checksum"),
        (["-F", "checksums=c"], "missing archive or checksum"),
        (["-F", "archive=@server.tar.gz", "-F", "checksum=c"], "checksums don't match"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_bad_request_is_refused_in_the_documents_words(
    house: House, arguments: list[str], error: str
) -> None:
    await house.start()
    path = house.directory / "server.tar.gz"
    path.write_bytes(archive())
    arguments = [argument.replace("@server.tar.gz", f"@{path}") for argument in arguments]
    status, answer = await house.curl(*arguments)
    assert (status, answer["error"]) == (400, error)
    assert answer["detail"]
    assert house.left() == []
    assert house.panel.reports() == [(UUID, "failure")]
    assert house.states()[-1] == "failure"


@pytest_twisted.ensureDeferred
async def test_a_damaged_archive_is_a_500_with_its_reason(house: House) -> None:
    await house.start()
    status, answer = await house.upload(b"this is no archive" * 100)
    assert (status, answer["error"]) == (500, "the archive could not be extracted")
    assert answer["detail"]
    assert house.left() == []
    assert house.panel.reports() == [(UUID, "failure")]


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_here_is_not_received_again(house: House) -> None:
    await house.start()
    await house.upload(archive())
    status, answer = await house.upload(archive())
    assert (status, answer["error"]) == (409, "this server is already on this node")
    assert house.panel.reports() == [(UUID, "success")]
    assert (house.volumes / UUID / "server.properties").exists()


@pytest_twisted.ensureDeferred
async def test_a_server_the_panel_does_not_know_is_a_404_and_not_told(house: House) -> None:
    await house.start()
    token = house.panel.transfer_token(OTHER, house.node)
    status, answer = await house.curl("-F", "archive=x", token=token)
    assert (status, answer["error"][:9]) == (404, "the Panel")
    assert house.panel.reports() == []


@pytest_twisted.ensureDeferred
async def test_one_server_is_not_received_twice_at_once(house: House) -> None:
    await house.start()
    sender = Sender(house, archive())
    await sender.begin()
    await house.wait_for_line("receiving the archive")
    status, answer = await house.upload(archive())
    assert (status, answer["error"]) == (409, "this server is already being received")
    assert await sender.finish() == (200, b"")
    assert house.panel.reports() == [(UUID, "success")]


@pytest_twisted.ensureDeferred
async def test_what_stood_in_the_servers_place_is_set_aside_and_told(house: House) -> None:
    await house.start()
    (house.volumes / UUID).mkdir()
    (house.volumes / UUID / "precious").write_text("old")
    assert await house.upload(archive()) == (200, None)
    line = await house.wait_for_line("set-aside")
    aside = Path(line.rpartition(" ")[2])
    assert (aside / "precious").read_text() == "old"
    assert not (house.volumes / UUID / "precious").exists()


@pytest_twisted.ensureDeferred
async def test_a_refusal_is_read_by_a_client_that_is_still_sending(house: House) -> None:
    await house.start()
    sender = Sender(house, os.urandom(20_000_000), token="bad")
    await sender.begin()
    status, body = await sender.finish()
    assert status == 401
    assert b"error" in body


# Failures on the way


@pytest_twisted.ensureDeferred
async def test_an_upload_cut_short_leaves_nothing_and_is_told(house: House) -> None:
    await house.start()
    sender = Sender(house, archive())
    await sender.begin()
    await house.wait_for_line("receiving the archive")
    await sender.vanish()
    await house.wait_for_line("state failure")
    assert house.left() == []
    assert house.panel.reports() == [(UUID, "failure")]


@pytest_twisted.ensureDeferred
async def test_after_a_failure_the_next_attempt_succeeds(house: House) -> None:
    await house.start()
    await house.upload(archive(), checksum="0")
    house.panel.open_transfer(UUID, house.node)
    assert await house.upload(archive()) == (200, None)
    assert house.states()[-3:] == ["pending", "processing", "success"]


@pytest_twisted.ensureDeferred
async def test_a_success_whose_answer_got_lost_is_a_success(house: House) -> None:
    await house.start()
    house.panel.inject("/success", Answer(500), times=1)
    assert await house.upload(archive()) == (200, None)
    assert house.panel.reports() == [(UUID, "success")] * 2


@pytest_twisted.ensureDeferred
async def test_a_success_the_panel_refuses_sets_the_files_aside(house: House) -> None:
    await house.start()
    house.panel.inject("/success", Answer(409))
    status, answer = await house.upload(archive())
    assert status == 500
    assert "409" in answer["detail"]
    (aside,) = house.left()
    assert aside.startswith(f"{UUID}.set-aside-")
    assert house.panel.reports() == [(UUID, "success"), (UUID, "failure")]


@pytest_twisted.ensureDeferred
async def test_an_engine_that_does_not_answer_fails_the_transfer(house: House) -> None:
    socket = str(house.directory / "no-engine.sock")
    await house.start(docker={"socket": socket})
    status, answer = await house.upload(archive())
    assert (status, answer["error"]) == (500, "the server's environment could not be configured")
    assert f"{socket} does not answer: No such file or directory;" in answer["detail"]
    assert house.left() == []
    assert house.panel.reports() == [(UUID, "failure")]


# The real engine


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
    house.panel.inject("/success", Answer(409))
    status, answer = await house.upload(archive())
    assert (status, "409" in answer["detail"]) == (500, True)
    with pytest.raises(NotFound):
        engine.client.inspect_container(UUID)


@pytest_twisted.ensureDeferred
async def test_a_missing_image_is_named(house: House, engine: Engine) -> None:
    await house.start(docker=with_engine(house, engine))
    house.panel.settings_of(UUID)["container"]["image"] = "~nobody/made:this"
    status, answer = await house.upload(archive())
    assert status == 500
    assert "nobody/made:this" in answer["detail"]
    assert house.left() == []


@pytest_twisted.ensureDeferred
async def test_a_silent_client_is_told_and_the_server_free_again(house: House) -> None:
    system = house.configuration()["system"] | {"transfers": {"stall_timeout": 1}}
    await house.start(system=system)
    sender = Sender(house, archive())
    await sender.begin()
    status, body = await sender.answer()
    assert (status, b"nothing was received for 1 s" in body) == (400, True)
    assert house.left() == []
    assert house.panel.reports() == [(UUID, "failure")]
    house.panel.open_transfer(UUID, house.node)
    assert await house.upload(archive()) == (200, None)


@pytest_twisted.ensureDeferred
async def test_only_the_exact_path_takes_uploads(house: House) -> None:
    await house.start()
    house.url += "/api/transfers/x?"
    status, answer = await house.curl("-F", "archive=x")
    assert (status, answer["error"]) == (404, "this node has nothing at /api/transfers/x")


@pytest_twisted.ensureDeferred
async def test_a_header_of_any_bytes_is_no_reason_to_say_nothing(house: House) -> None:
    await house.start()
    status, _ = await house.curl("-F", "archive=x", token="caf\udce9")
    assert status == 401


# Going down, and the certificate


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
    house.panel.inject("/servers", Hang(), times=9)
    upload = Deferred.fromCoroutine(house.upload(archive()))
    await house.panel.called("/servers")
    house.signal("TERM")
    status, answer = await upload
    assert (status, answer["error"]) == (503, "this node is shutting down")
    assert await house.ended() == -signal.SIGTERM


@pytest_twisted.ensureDeferred
async def test_sigterm_ends_it_in_time_though_the_engine_hangs(house: House) -> None:
    socket = str(house.directory / "engine.sock")
    engine = await UNIXServerEndpoint(reactor, socket).listen(Factory.forProtocol(Protocol))
    await house.start(docker={"socket": socket})
    upload = Deferred.fromCoroutine(house.upload(archive()))
    await house.wait_for_line("configuring the environment")
    house.signal("TERM")
    status, answer = await upload
    assert (status, answer["error"]) == (503, "this node is shutting down")
    assert await Deferred.fromCoroutine(house.ended()).addTimeout(10, reactor) == -signal.SIGTERM
    assert house.left() == []
    assert house.panel.reports() == [(UUID, "failure")]
    assert not [line for line in house.log if "Unhandled" in line]
    await maybeDeferred(engine.stopListening)


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


# Starting


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"token": ""}, "token: expected a text, found an empty one"),
        ({"api": {"port": "80"}}, "api.port: expected a whole number, found a text"),
        ({"api": {"ssl": {"enabled": True, "cert": "/no", "key": "/no"}}}, "api.ssl.cert: /no"),
        ({"system": {"data": "/proc/no/volumes"}}, "/proc/no/volumes cannot be used"),
        ({"api": {"host": "192.0.2.1"}}, "cannot listen on tcp:8080:interface=192.0.2.1"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_it_cannot_start_with_is_said_in_one_line(
    house: House, changes: dict[str, object], says: str
) -> None:
    house.launch(**changes)
    assert await house.ended() == 1
    assert [line for line in house.log if says in line]
    assert not [line for line in house.log if "Traceback" in line]


@pytest_twisted.ensureDeferred
async def test_it_listens_where_the_configuration_says(house: House) -> None:
    house.launch(api={"host": "::1", "port": 18080})
    assert "http://[::1]:18080" in await house.wait_for_line("listens on")


@pytest.mark.parametrize("endpoint", ["foo:bar", "tcp:abc", ""])
@pytest_twisted.ensureDeferred
async def test_an_endpoint_that_is_none_is_said_so(house: House, endpoint: str) -> None:
    house.launch("--endpoint", endpoint or "tcp")
    assert await house.ended() == 1
    assert [line for line in house.log if "is not an endpoint" in line]
    assert not [line for line in house.log if "Traceback" in line]


@pytest_twisted.ensureDeferred
async def test_a_second_daemon_on_the_same_data_is_kept_out(house: House) -> None:
    await house.start()
    sender = Sender(house, archive())
    await sender.begin()
    await house.wait_for_line("receiving the archive")
    second = House(house.directory)
    second.launch("--endpoint", "tcp:0:interface=127.0.0.1")
    assert await second.ended() == 1
    assert [line for line in second.log if "another wingsd is running" in line]
    assert await sender.finish() == (200, b"")
    assert (house.volumes / UUID / "server.properties").exists()


# The document's clients


@pytest_twisted.ensureDeferred
async def test_go_sends_in_chunks_and_the_checksum_in_upper_case(house: House) -> None:
    await house.start()
    data = archive(3_000_000)
    sender = Sender(house, data, checksum=sha256(data).upper())
    await sender.begin()
    assert await sender.finish() == (200, b"")
    assert re.search(r"received \d+ bytes, 2 files", "\n".join(house.log))
