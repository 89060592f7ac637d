"""The listener of SFTP, where nothing can serve its first connection."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from tests.servers.harness import FakeNode
from tests.support.logged_errors import Logged
from tests.support.reactor import reactor, until
from wingsd.config import SftpConfig
from wingsd.sftp import service as module
from wingsd.sftp.service import SftpService
from wingsd.threadio import Workers


async def test_what_cannot_be_started_is_tried_again_by_a_later_connection(
    tmp_path: Path, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(listening: socket.socket) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    node = FakeNode(tmp_path, sftp=SftpConfig(bind_address="127.0.0.1", bind_port=port))
    workers = Workers(reactor, "disk", 1)
    monkeypatch.setattr(module, "start_process", fails)
    others: Any = Mock(count=0)
    listener = SftpService(node.config, others, others, workers, reactor)
    workers.start()
    listener.open()
    try:
        with socket.create_connection(("127.0.0.1", port)):
            await until(lambda: any("Too many open files" in line for line in logged.lines))
        assert any("is started again for the next connection" in line for line in logged.lines)
        assert listener.port == port
    finally:
        await listener.stop()
        workers.stop()
        node.close()
