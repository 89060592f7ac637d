"""Egg files of a real daemon: a process of its own parses each, and ends with the daemon."""

from __future__ import annotations

from signal import SIGTERM

import pytest
from twisted.internet.task import deferLater

from tests.egg_files.helpers import DOTTED_KEYS
from tests.support import process_configuration, server_settings
from tests.support.node_process import reactor
from tests.support.parsers import lives, processes_of
from tests.support.receiving_node import ReceivingNode

pytestmark = pytest.mark.promise("egg-files-are-parsed-apart")

UUID = "22222222-6e2b-4c43-9d57-0c4c5e1c7f10"
FILES = [
    {"file": name, "parser": parser, "replace": [{"match": "port", "replace_with": "25570"}]}
    for name, parser in (("server.properties", "properties"), ("hostile.toml", "toml"))
]


async def test_files_are_rewritten_and_parsers_end_with_the_daemon(daemon: ReceivingNode) -> None:
    directory = daemon.volumes / UUID
    directory.mkdir(parents=True)
    (directory / "server.properties").write_text("port=1\n")
    (directory / "hostile.toml").write_bytes(DOTTED_KEYS)
    daemon.panel.add_server(
        server_settings(UUID), daemon.node, process_configuration(configs=FILES)
    )
    await daemon.start_loaded(api={"ssl": {"enabled": False}})
    daemon.node.address = daemon.url
    await daemon.panel.power(UUID, "start")
    children: list[int] = []
    while (directory / "server.properties").read_text() == "port=1\n" or not children:
        await deferLater(reactor, 0.02)
        children = processes_of(daemon.pid)
    assert (directory / "server.properties").read_text() == "port=25570\n"
    daemon.signal("TERM")
    assert await daemon.ended() == -SIGTERM
    while any(map(lives, children)):
        await deferLater(reactor, 0.02)
    assert (directory / "hostile.toml").read_bytes() == DOTTED_KEYS
