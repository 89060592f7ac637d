"""Servers that transfers bring, and that go again when these fail."""

from __future__ import annotations

import os

import pytest

from tests.servers.harness import UUID, FakeNode, Outcome, boot, configuration
from tests.support.logged_errors import Logged
from wingsd.errors import Conflict, ServerAlreadyExists, ServerNotFound
from wingsd.servers.operations import Operation
from wingsd.servers.power_states import PowerAction


def test_an_arriving_server_is_known_and_held(node: FakeNode) -> None:
    boot(node).value()
    server = node.servers.admit(configuration(), "it is being received")
    assert node.servers.get(UUID) is server
    assert server.hold == "it is being received"
    node.servers.discard(UUID)
    node.servers.discard(UUID)
    with pytest.raises(ServerNotFound):
        node.servers.get(UUID)


def test_an_arriving_server_is_not_measured_before_its_directory_is_here(
    node: FakeNode, logged: Logged
) -> None:
    boot(node).value()
    server = node.servers.admit(configuration(), "it is being received")
    assert [each.details().utilization.disk_bytes for each in node.servers.all()] == [0]
    assert not any("measuring" in line for line in logged.lines)
    server.files.received(1234)
    assert server.details().utilization.disk_bytes == 1234


def test_an_unknown_size_is_measured_once_its_directory_is_here(node: FakeNode) -> None:
    boot(node).value()
    server = node.servers.admit(configuration(), "it is being received")
    server.details()
    (node.data / UUID).mkdir()
    (node.data / UUID / "world").write_bytes(b"x" * 1000)
    server.files.received(None)
    assert server.disk_bytes == 1000


def test_a_held_or_running_server_is_not_replaced_by_an_arriving_one(node: FakeNode) -> None:
    server = node.server()
    server.place_hold(Operation.TRANSFER_OUT, "the server is being deleted")
    with pytest.raises(ServerAlreadyExists, match="being deleted"):
        node.servers.admit(configuration(), "it is being received")
    server.release()
    Outcome.of(server.power(PowerAction.START)).value()
    with pytest.raises(ServerAlreadyExists, match="running"):
        node.servers.admit(configuration(), "it is being received")


def test_a_stopped_leftover_is_replaced_by_an_arriving_server(node: FakeNode) -> None:
    leftover = node.server()
    server = node.servers.admit(configuration(), "it is being received")
    assert node.servers.get(UUID) is server is not leftover
    Outcome.of(leftover.power(PowerAction.START)).error(Conflict)


def test_what_has_moved_away_may_come_back_though_nobody_deleted_it(node: FakeNode) -> None:
    moved = node.server()
    moved.place_hold(Operation.TRANSFER_OUT, "the server is being transferred")
    moved.disown("the server has moved to another node")
    Outcome.of(moved.power(PowerAction.START)).error(Conflict)
    server = node.servers.admit(configuration(), "it is being received")
    assert node.servers.get(UUID) is server is not moved


def test_forgetting_an_arrival_keeps_its_files(node: FakeNode) -> None:
    node.server()
    node.servers.discard(UUID)
    assert os.listdir(node.data) == [UUID]
    assert node.servers.directory(UUID) == str(node.data / UUID)
