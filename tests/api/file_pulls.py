"""What the tests of downloads from a URL share: asking for one, and a server that waits."""

from __future__ import annotations

import socket
from threading import Event as Flag
from typing import Any

from tests.api.file_node import FileNode
from tests.api.node import UUID
from tests.http_client.test_download import says
from tests.support.reactor import until
from tests.transfers.peers import Peer, read_head

BODY = b"the file"
SOURCE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(BODY)


def url_of(peer: Peer, path: str = "/dir/mod.jar?v=1") -> str:
    return f"http://127.0.0.1:{peer.port}{path}"


async def pull(node: FileNode, url: str, **body: Any) -> tuple[int, Any]:
    """Ask for a download into the server's directory; return status and body of the answer."""
    reply = await node.post("pull", {"root": "/", "url": url, **body})
    return reply.status, reply.json


async def pulled(node: FileNode, answer: bytes, path: str = "/mod.jar", **body: Any) -> Any:
    """Download a file in the foreground from a server that sends `answer`."""
    peer = Peer(says(answer))
    found = await pull(node, url_of(peer, path), foreground=True, **body)
    await peer.outcome
    return found


class SlowServer:
    """A server that sends the first half of a file, and the other when it is released."""

    def __init__(self, body: bytes = BODY) -> None:
        self._body = body
        self.released = Flag()
        self.peer = Peer(self._serve)
        self.url = url_of(self.peer)

    def _serve(self, connection: socket.socket) -> bool:
        """Return whether the client took all of it."""
        read_head(connection)
        half = len(self._body) // 2
        connection.sendall(SOURCE + b"\r\n" + self._body[:half])
        connection.settimeout(0.05)
        while not self.released.is_set():
            try:
                if not connection.recv(1):
                    return False
            except TimeoutError:
                continue
            except OSError:
                return False
        connection.sendall(self._body[half:])
        return True


async def slowly(node: FileNode, **body: Any) -> tuple[SlowServer, str]:
    """Begin a download of which a half has come; return its identifier as well."""
    server, begun = SlowServer(), len(parts(node))
    status, answer = await pull(node, server.url, **body)
    assert status == 202
    identifier: str = answer["identifier"]
    await until(lambda: len(parts(node)) > begun)
    return server, identifier


def parts(node: FileNode) -> list[str]:
    """Return the names of files that are being written."""
    return [name for name in node.names() if name.endswith(".part")]


async def gone(node: FileNode, server: SlowServer) -> None:
    """Wait until a download is over, and see that nothing is left of it."""
    await until(lambda: not node.pulls.of(UUID))
    assert await server.peer.outcome is False
    assert node.names() == []
    assert node.files.disk_bytes == 0
