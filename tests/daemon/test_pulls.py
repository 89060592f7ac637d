"""Downloads from a URL by whole daemons: asked for by curl, from servers of HTTP and HTTPS."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from signal import SIGTERM
from threading import Event
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.daemon.test_files import UUID, curl
from tests.support.node_process import TIMEOUT
from tests.support.reactor import reactor, until
from tests.support.receiving_node import ReceivingNode
from tests.transfers.peers import Peer, read_head, server_context

pytestmark = pytest.mark.promise("file-changes-give-way")

ALLOWED: dict[str, Any] = {"api": {"remote_download": {"host_allowlist": ["localhost"]}}}
CONTENT = os.urandom(3_000_001)
#: An address of loopback for a name server that never answers.
NAME_SERVER = "127.53.53.53"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(CONTENT)


@pytest.fixture
def home(daemon: ReceivingNode) -> Path:
    return daemon.own(UUID)


async def pull(daemon: ReceivingNode, url: str, **body: Any) -> tuple[int, Any]:
    sent = json.dumps({"root": "/", "url": url, **body})
    status, answer = await curl(
        daemon, "pull", "-H", "Content-Type: application/json", "--data-binary", sent
    )
    return status, json.loads(answer)


def serves(connection: socket.socket) -> bytes:
    head = read_head(connection)
    connection.sendall(HEAD + CONTENT)
    return head


def stalls(gone: Event) -> Callable[[socket.socket], None]:
    """Send a half, and note when the client has gone."""

    def script(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(HEAD + CONTENT[: len(CONTENT) // 2])
        with suppress(ConnectionResetError):
            connection.recv(1)
        gone.set()

    return script


async def stalled(daemon: ReceivingNode, home: Path) -> tuple[Peer, Event]:
    """Begin a download of which a half comes, and no more."""
    gone = Event()
    peer = Peer(stalls(gone))
    status, _ = await pull(daemon, f"http://localhost:{peer.port}/mod.jar")
    assert status == 202
    await until(lambda: any(each.stat().st_size for each in home.iterdir()))
    return peer, gone


@pytest.mark.promise("url-download-is-public-only")
@pytest.mark.parametrize("family", ["pterodactyl", "calagopus"])
async def test_networks_of_the_node_are_refused_by_default(
    daemon: ReceivingNode, home: Path, family: str
) -> None:
    await daemon.start_loaded(family=family)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        port = listener.getsockname()[1]
        urls = [
            f"http://{host}:{port}/a"
            for host in ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "127.0.0.2")
        ]
        # The metadata of clouds, and this node's own interface.
        urls += ["http://169.254.169.254/latest/meta-data/a", f"{daemon.url}/api/system"]
        for url in urls:
            status, answer = await pull(daemon, url, foreground=True)
            assert (status, answer["code"]) == (
                417 if family == "calagopus" else 400,
                "address-blocked",
            )
        for url in (f"http://127.1:{port}/a", f"http://2130706433:{port}/a"):
            _, answer = await pull(daemon, url, foreground=True)
            assert answer["code"] == "url-invalid"
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert list(home.iterdir()) == []
    assert daemon.lines_with("download refused: localhost is at ")


async def test_a_file_is_downloaded_from_an_allowed_host(
    daemon: ReceivingNode, home: Path
) -> None:
    daemon.variables["SSL_CERT_FILE"] = str(daemon.ca)
    await daemon.start_loaded(**ALLOWED)
    certificate = daemon.authority.issue_cert("localhost")
    peer = Peer(serves, server_context(certificate))
    url = f"https://localhost:{peer.port}/mods/a%20mod.jar?x=1"
    status, entry = await pull(daemon, url, root="/mods", foreground=True)
    assert (status, entry["name"], entry["size"]) == (200, "a mod.jar", len(CONTENT))
    assert (home / "mods/a mod.jar").read_bytes() == CONTENT
    assert (await peer.outcome).startswith(b"GET /mods/a%20mod.jar?x=1 HTTP/1.1\r\n")


@pytest.mark.promise("silent-name-servers-block-none")
async def test_a_daemon_ends_while_a_name_server_is_silent(
    daemon: ReceivingNode, home: Path
) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as name_server:
        try:
            name_server.bind((NAME_SERVER, 53))
        except PermissionError:
            pytest.skip("only root can bind port 53")
        name_server.settimeout(0)
        resolver = daemon.directory / "resolv.conf"
        resolver.write_text(f"nameserver {NAME_SERVER}\noptions timeout:30 attempts:5\n")
        mount = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        wrapper = ("/usr/bin/unshare", "--mount", "/bin/sh", "-c", mount, str(resolver))
        await daemon.start(*wrapper)
        await daemon.loaded()
        status, _ = await pull(daemon, "http://silent.example/mod.jar")
        assert status == 202
        await until(partial(has_datagram, name_server))
        daemon.signal("TERM")
        ended = Deferred.fromCoroutine(daemon.ended())
        assert await ended.addTimeout(TIMEOUT, reactor) == -SIGTERM


def has_datagram(receiver: socket.socket) -> bool:
    with suppress(BlockingIOError):
        return bool(receiver.recv(512))
    return False


async def test_a_download_is_listed_with_its_progress_and_cancelled(
    daemon: ReceivingNode, home: Path
) -> None:
    await daemon.start_loaded(**ALLOWED)
    peer, gone = await stalled(daemon, home)
    (listed,) = await downloads(daemon)
    while listed["Progress"] < 0.4:  # the half that has come is being written, by blocks
        (listed,) = await downloads(daemon)
    assert listed["Progress"] <= 0.5
    assert (await curl(daemon, f"pull/{listed['Identifier']}", "-X", "DELETE"))[0] == 204
    await until(gone.is_set)
    await peer.outcome
    while await downloads(daemon):
        pass
    assert list(home.iterdir()) == []


async def downloads(daemon: ReceivingNode) -> list[dict[str, Any]]:
    status, answer = await curl(daemon, "pull")
    assert status == 200
    return json.loads(answer)["downloads"] or []


async def test_after_a_kill_nothing_is_left_over(daemon: ReceivingNode, home: Path) -> None:
    await daemon.start_loaded(**ALLOWED)
    peer, gone = await stalled(daemon, home)
    await daemon.kill()
    await peer.outcome
    (left,) = home.iterdir()
    # What a process has left over is deleted where it is found, a minute after it was written.
    os.utime(left, (time.time() - 120,) * 2)
    await daemon.start_loaded(**ALLOWED)
    status, listed = await curl(daemon, "list-directory?directory=/")
    assert (status, json.loads(listed)) == (200, [])
    await until(lambda: not list(home.iterdir()))
    assert gone.is_set()


async def test_the_end_of_the_daemon_removes_what_has_come(
    daemon: ReceivingNode, home: Path
) -> None:
    await daemon.start_loaded(**ALLOWED)
    peer, _ = await stalled(daemon, home)
    daemon.signal("TERM")
    await daemon.ended()
    await peer.outcome
    assert list(home.iterdir()) == []


async def test_what_takes_the_server_ends_its_download(daemon: ReceivingNode, home: Path) -> None:
    await daemon.start_loaded(**ALLOWED)
    peer, gone = await stalled(daemon, home)
    path = f"/api/servers/{UUID}"
    assert (await daemon.curl("-X", "DELETE", token=daemon.node.token, path=path))[0] == 204
    await until(gone.is_set)
    await peer.outcome
    await until(lambda: not home.exists())
