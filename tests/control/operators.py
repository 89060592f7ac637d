"""A node with its control socket, and an operator at it: real sockets, in one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.support.node_in_process import STREAMING, NodeInProcess, NodePair
from wingsd.cli.client import ControlClient, CtlError
from wingsd.config import Control, TransfersConfig


class Operator:
    """An operator of a source that has a server, and of a destination; each has a socket.

    By the usual `transfers` servers go as one stream, which can be held up when all is sent.
    """

    def __init__(self, directory: Path, transfers: TransfersConfig = STREAMING) -> None:
        self.nodes = NodePair(directory, transfers)
        self._listeners = {
            name: node.control_socket(Control(socket=self.path(node)))
            for name, node in (
                ("source", self.nodes.source),
                ("destination", self.nodes.destination),
            )
        }
        for listener in self._listeners.values():
            listener.open()

    @staticmethod
    def path(node: NodeInProcess) -> str:
        return str(node.directory / "control.sock")

    async def ask(
        self, method: str, path: str, content: object = None, end: str = "source"
    ) -> Any:
        client = ControlClient(self.path(getattr(self.nodes, end)))
        return await deferToThread(client.ask, method, path, content)

    async def refusal(self, *request: Any, **options: Any) -> CtlError:
        with pytest.raises(CtlError) as caught:
            await self.ask(*request, **options)
        return caught.value

    async def close(self) -> None:
        for listener in self._listeners.values():
            await listener.close()
        await self.nodes.close()


def operating(directory: Path, transfers: TransfersConfig = STREAMING) -> Iterator[Operator]:
    """Yield an operator of nodes with these settings, for a fixture."""
    made = Operator(directory, transfers)
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    yield from operating(tmp_path)
