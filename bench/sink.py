"""`python -m bench.sink PEM`: a destination that discards uploads.

It reads as fast as the standard library can, so that the sender is measured. The answer
comes when the body has ended, as every node's does.
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading

_PIECE = 256 << 10
_LAST_CHUNK = b"0\r\n\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
# The features of a node of wingsd.
_FEATURES = (
    b"HTTP/1.1 204 No Content\r\nTransfer-Features: symlinks, hard-links\r\n"
    b"Connection: close\r\n\r\n"
)


def main() -> None:
    """Print the port, and serve until killed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1])
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(listening.getsockname()[1], flush=True)
        while True:
            connection = context.wrap_socket(listening.accept()[0], server_side=True)
            threading.Thread(target=_serve, args=[connection], daemon=True).start()


def _serve(connection: ssl.SSLSocket) -> None:
    with connection:
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(_PIECE)
        if head.startswith(b"OPTIONS"):
            connection.sendall(_FEATURES)
            return
        if b"100-continue" in head.lower():
            connection.sendall(_CONTINUE)
        _swallow(connection, head[-len(_LAST_CHUNK) :])
        connection.sendall(_OK)


def _swallow(connection: ssl.SSLSocket, tail: bytes) -> None:
    """Read a chunked body to its end."""
    buffer = bytearray(_PIECE)
    while not tail.endswith(_LAST_CHUNK):
        size = connection.recv_into(buffer)
        if not size:
            raise ConnectionError("the body was cut short")
        tail = (tail + bytes(buffer[max(0, size - len(_LAST_CHUNK)) : size]))[-len(_LAST_CHUNK) :]


if __name__ == "__main__":
    main()
