"""Servers' files are measured, and those above their limit stopped and not started."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, execute

from tests.servers.harness import OTHER, UUID, FakeNode, Outcome, boot, configuration, do
from tests.support.logged_errors import Logged
from tests.support.workers import HeldWorkers
from wingsd.docker.runtime import ContainerUsage
from wingsd.errors import DiskLimitExceeded, StorageError, TreeTooLarge
from wingsd.filesystem.directory import Entry
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.walk import MAX_SIZE
from wingsd.servers.files import (
    LEAST_REQUESTED_AGE,
    BackgroundTasks,
    DiskWalks,
    ServerDirectories,
    ServerQuota,
    ServerStorage,
)
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.servers.quotas import FIRST_PROJECT, ProjectQuotas, project_number, syscall_number
from wingsd.servers.server import CHECKING, STOPPING, Server

MIB = 1 << 20


def limited(node: FakeNode, size: int = 0, disk_space: int = 1) -> Server:
    """Return a server with a limit in MiB and files of `size` bytes, offline."""
    fill(node, size)
    return node.server(configuration(disk_space=disk_space))


def fill(node: FakeNode, size: int) -> None:
    """Give the server's one file that size; it is sparse, which does not matter."""
    (node.data / UUID).mkdir(exist_ok=True)
    with (node.data / UUID / "world").open("wb") as file:
        file.truncate(size)


def written(server: Server, size: int = 1) -> Outcome:
    """Write a new file of the server."""

    def work(root: ServerRoot) -> Entry:
        return root.write(ServerPath.parse("new"), [bytes(size)])

    return Outcome.of(server.files.run(work, writes=True))


def start(node: FakeNode, server: Server) -> None:
    do(server, PowerAction.START).value()
    node.process().say(b"up\n")


@pytest.mark.promise("oversized-server-is-not-started")
@pytest.mark.parametrize(
    ("size", "disk_space", "starts"),
    [
        (MIB - 1, 1, True),
        (MIB, 1, True),
        (MIB + 1, 1, False),
        (0, 1, True),
        (3 * MIB, 2, False),
        (10 * MIB, 0, True),
        (10 * MIB, -1, True),
    ],
)
def test_a_server_is_started_up_to_its_limit(
    node: FakeNode, size: int, disk_space: int, starts: bool
) -> None:
    server = limited(node, size, disk_space)
    outcome = do(server, PowerAction.START)
    if starts:
        outcome.value()
    else:
        outcome.error(DiskLimitExceeded)
    assert node.daemon_lines[0] == CHECKING
    assert (UUID in node.environment.running) == starts


def test_the_refusal_is_wings_text_with_both_figures(node: FakeNode) -> None:
    error = do(limited(node, 3 * MIB), PowerAction.START).error(DiskLimitExceeded)
    assert (error.status, error.code) == (400, "disk-limit-exceeded")
    assert error.message == "There is not enough disk space available to perform that action."
    assert "3.0 MiB" in error.detail
    assert "1.0 MiB" in error.detail
    assert any(str(error) in line for line in node.told("daemon message"))


@pytest.mark.promise("oversized-server-is-not-started")
def test_a_start_counts_the_files_anew(node: FakeNode) -> None:
    server = limited(node, 2 * MIB)
    fill(node, 10)
    start(node, server)
    assert server.disk_bytes == 10
    node.process().end()
    fill(node, 2 * MIB)
    do(server, PowerAction.START).error(DiskLimitExceeded)


@pytest.mark.promise("oversized-server-is-not-started")
def test_a_server_that_cannot_be_measured_is_not_started_under_a_limit(
    node: FakeNode, logged: Logged
) -> None:
    server = limited(node)
    (node.data / UUID / "world").unlink()
    (node.data / UUID).rmdir()
    (node.data / UUID).symlink_to(node.data)
    error = do(server, PowerAction.START).error(StorageError)
    assert error.detail.startswith("its disk limit cannot be checked")


@pytest.mark.promise("growing-server-is-stopped")
def test_a_server_that_grows_above_its_limit_is_stopped_once_in_each_run(node: FakeNode) -> None:
    server = limited(node, 10)
    start(node, server)
    fill(node, 2 * MIB)
    node.process().use(ContainerUsage())
    node.clock.advance(LEAST_REQUESTED_AGE + 1)
    server.details()
    node.environment.stubborn.add(UUID)
    for _ in range(3):
        node.process().use(ContainerUsage())
    assert node.process().commands == ["stop"]
    assert (node.daemon_lines[0], node.daemon_lines[-1]) == (CHECKING, STOPPING)
    says = "The server is stopped: its files take 2.0 MiB of 1.0 MiB;"
    assert [line.startswith(says) for line in node.told("daemon message")] == [True]
    assert server.figures.crashes["disk_limit"] == 1
    node.clock.advance(59)
    assert UUID in node.environment.running
    node.clock.advance(2)
    assert server.state is PowerState.OFFLINE
    fill(node, 10)
    start(node, server)
    fill(node, 2 * MIB)
    node.process().end()
    assert node.daemon_lines.count(STOPPING) == 1


def test_each_run_is_stopped(node: FakeNode) -> None:
    server = limited(node)
    for times in (1, 2):
        fill(node, 10)
        start(node, server)
        server.files.add(2 * MIB)
        node.process().use(ContainerUsage())
        assert server.state is PowerState.OFFLINE
        assert node.daemon_lines.count(STOPPING) == times


@pytest.mark.promise("growing-server-is-stopped")
def test_a_limit_that_was_lowered_holds_for_the_running_server(node: FakeNode) -> None:
    server = limited(node, 2 * MIB, disk_space=3)
    start(node, server)
    node.process().use(ContainerUsage())
    assert UUID in node.environment.running
    node.panel.known[UUID] = configuration(disk_space=1)
    Outcome.of(server.sync()).value()
    node.process().use(ContainerUsage())
    assert server.state is PowerState.OFFLINE


def test_what_the_node_writes_and_deletes_counts_at_once(node: FakeNode) -> None:
    server = limited(node, 1000)
    server.files.add(500)
    assert server.disk_bytes == 1500
    server.files.add(-700)
    assert server.disk_bytes == 800
    server.files.add(-1000)
    assert server.disk_bytes == 0


def test_a_figure_corrected_while_it_was_counted_is_counted_again_soon(node: FakeNode) -> None:
    server = limited(node, 1000)
    start(node, server)
    server.files.add(500)  # By the time of the next walk it is known whether it is on the disk.
    node.process().use(ContainerUsage())
    assert server.disk_bytes == 1500
    node.clock.advance(LEAST_REQUESTED_AGE + 1)
    node.process().use(ContainerUsage())
    assert server.disk_bytes == 1000
    fill(node, 3000)
    node.clock.advance(LEAST_REQUESTED_AGE + 1)
    node.process().use(ContainerUsage())
    assert server.disk_bytes == 1000


def test_a_new_figure_of_a_server_that_is_offline_is_published(node: FakeNode) -> None:
    server = limited(node, 1000)
    fill(node, 2000)
    server.files.measure()
    (stats,) = node.told("stats")
    assert '"disk_bytes":2000' in stats
    server.files.measure()
    assert len(node.told("stats")) == 1


def test_without_counting_nothing_is_enforced(tmp_path: Path) -> None:
    node = FakeNode(tmp_path, disk_check_interval=0)
    server = limited(node, 5 * MIB)
    start(node, server)
    node.clock.advance(1000)
    node.process().use(ContainerUsage())
    server.files.received(2 * MIB)
    server.files.add(2 * MIB)
    assert server.details().utilization.disk_bytes == 0
    assert not {CHECKING, STOPPING} & set(node.daemon_lines)
    assert server.state is PowerState.RUNNING
    node.close()


def test_a_start_does_not_wait_for_the_walks_of_other_servers(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = limited(node)
    threads = HeldWorkers()
    monkeypatch.setattr(server.files._walks, "_disk", threads)
    server.files.measure()
    starting = do(server, PowerAction.START)
    background, fresh = threads.held
    fresh.result.callback(20)
    starting.value()
    background.result.callback(10)  # It began earlier, and does not count any more.
    assert server.disk_bytes == 20


def test_a_file_that_would_exceed_the_limit_is_refused_and_what_is_deleted_counts(
    node: FakeNode,
) -> None:
    server = limited(node, MIB - 10)
    files, path = server.files, ServerPath.parse
    node.events.clear()
    write = partial(written, server)
    write(11).error(DiskLimitExceeded)
    assert write(10).value().size == 10
    assert server.disk_bytes == MIB
    Outcome.of(files.run(lambda root: root.remove(path("world")))).value()
    assert server.disk_bytes == 10
    node.panel.known[UUID] = configuration(disk_space=0)
    Outcome.of(server.sync()).value()
    write(2 * MIB).value()
    assert server.disk_bytes == 2 * MIB
    changed = [json.loads(stats)["disk_bytes"] for stats in node.told("stats")]
    assert changed == [MIB, 10, 2 * MIB]
    assert Outcome.of(files.run(lambda root: root.stat(path("new")))).value().size == 2 * MIB


def test_files_that_were_never_counted_are_counted_before_one_is_written(
    node: FakeNode,
) -> None:
    server = limited(node, MIB)
    server.files._usage.used = None
    Outcome.of(server.files.run(lambda root: root.stat(ServerPath()))).value()
    assert server.disk_bytes is None
    written(server).error(DiskLimitExceeded)
    assert server.disk_bytes == MIB


def nest(directory: Path, depth: int = 66) -> None:
    """Nest directories more deeply than a walk goes."""
    fd = os.open(directory, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("n" * 250, dir_fd=fd)
        child = os.open("n" * 250, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = child
    os.close(fd)


@pytest.mark.promise("growing-server-is-stopped")
def test_a_server_that_nests_its_directories_too_deeply_is_stopped(
    node: FakeNode, logged: Logged
) -> None:
    server = limited(node, 10)
    start(node, server)
    nest(node.data / UUID)
    node.clock.advance(LEAST_REQUESTED_AGE + 1)
    server.details()
    assert any("measuring its disk usage failed" in line for line in logged.lines)
    assert server.disk_bytes == MAX_SIZE
    node.process().use(ContainerUsage())
    assert server.state is PowerState.OFFLINE
    assert node.daemon_lines[-1] == STOPPING
    error = do(server, PowerAction.START).error(TreeTooLarge)
    assert "nested too deeply" in error.detail


@pytest.mark.promise("growing-server-is-stopped")
def test_of_a_server_that_cannot_be_counted_files_can_be_deleted(node: FakeNode) -> None:
    server = limited(node, 10)
    nest(node.data / UUID)
    server.files._usage.used = None

    def delete(root: ServerRoot) -> None:
        root.remove(ServerPath.parse("n" * 250))

    written(server).error(DiskLimitExceeded)
    Outcome.of(server.files.run(delete, writes=True)).value()
    Outcome.of(server.files.measured()).value()
    written(server).value()
    assert server.disk_bytes == 11


def walked(workers: HeldWorkers) -> list[object]:
    return [each.args[0] for each in workers.held]


def test_directories_are_measured_one_at_a_time_and_once() -> None:
    workers = HeldWorkers()
    told: list[int] = []
    usage = DiskWalks(workers, BackgroundTasks())  # type: ignore[arg-type]
    for uuid in ("a", "b", "a", "b", "c"):
        usage.request(uuid, f"/{uuid}", told.append)
    assert walked(workers) == ["/a"]
    usage.discard("c")
    workers.held[0].result.callback(1)
    workers.held[1].result.errback(StorageError("not to be read"))
    assert walked(workers) == ["/a", "/b"]
    assert told == [1]
    usage.request("a", "/a", told.append)
    assert walked(workers) == ["/a", "/b", "/a"]


def test_background_work_ends_with_the_node() -> None:
    workers, tasks = HeldWorkers(), BackgroundTasks()
    told: list[int] = []
    usage = DiskWalks(workers, tasks)  # type: ignore[arg-type]
    for uuid in ("a", "b"):
        usage.request(uuid, f"/{uuid}", told.append)
    tasks.stop()
    assert walked(workers) == ["/a"]
    assert told == []


class RecordedQuotas(ProjectQuotas):
    """Quotas of a file system in memory: `limits` by the names of directories."""

    def __init__(self, data: str) -> None:
        super().__init__(data, enabled=True)
        self.active = True
        self.limits: dict[str, int | None] = {}
        #: Servers whose files have no project.
        self.old: set[str] = set()
        self.blocks = 0
        self.fault: Exception | None = None

    def prepare(self, uuid: str, path: str) -> None:
        self.limits[uuid] = None

    def apply(self, uuid: str, path: str, limit: int | None) -> bool:
        assert path.endswith(uuid)
        if self.fault is not None:
            raise self.fault
        if uuid in self.old:
            return False
        self.limits[uuid] = limit
        return True

    def assign(self, uuid: str, path: str) -> None:
        self.old.discard(uuid)

    def used(self, path: str) -> int:
        return self.blocks

    def release(self, uuid: str, path: str) -> None:
        del self.limits[uuid]


@pytest.fixture
def quotas(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> RecordedQuotas:
    made = RecordedQuotas(str(node.data))
    monkeypatch.setattr("wingsd.app.wiring.ProjectQuotas", lambda *_, **__: made)
    node.restart()
    return made


def test_servers_are_limited_when_the_node_starts(node: FakeNode, quotas: RecordedQuotas) -> None:
    for uuid, disk_space in ((UUID, 5), (OTHER, 0)):
        node.panel.known[uuid] = configuration(uuid, disk_space=disk_space)
        (node.data / uuid).mkdir()
    boot(node).value()
    assert quotas.limits == {UUID: 5 * MIB, OTHER: None}


class OldServersWait(HeldWorkers):
    """Threads that end what they do when the test says so, but for setting limits."""

    def run(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        if work.__name__ == "apply":
            return execute(work, *args)
        return super().run(work, *args, **kwargs)


def test_limits_do_not_wait_for_old_servers_which_get_their_projects_one_by_one(
    quotas: RecordedQuotas,
) -> None:
    threads = OldServersWait()
    directories = ServerDirectories("/nowhere", (1, 1), quotas=quotas)
    disk: Any = threads
    storage = ServerStorage(directories, disk, disk)
    old, second, new = (ServerQuota(uuid, storage) for uuid in (UUID, OTHER, "new"))
    quotas.old = {UUID, OTHER}
    for quota in (old, second, new):
        quota.request(5)
    assert (quotas.limits, len(threads.held)) == ({"new": 5}, 1)
    new.request(6)
    old.request(7)
    threads.held[0].do()
    assert quotas.limits == {"new": 6, UUID: 7}
    threads.held[1].do()
    assert quotas.limits == {"new": 6, UUID: 7, OTHER: 5}


def test_a_changed_limit_follows_a_sync(node: FakeNode, quotas: RecordedQuotas) -> None:
    server = node.server(configuration(disk_space=5))
    node.panel.known[UUID] = configuration(disk_space=7)
    Outcome.of(server.sync()).value()
    assert quotas.limits == {UUID: 7 * MIB}
    node.panel.known[UUID] = configuration()
    do(server, PowerAction.START).value()
    assert quotas.limits == {UUID: None}


def test_a_server_that_arrives_is_limited_when_it_is_in_place(
    node: FakeNode, quotas: RecordedQuotas
) -> None:
    boot(node).value()
    server = node.servers.admit(configuration(disk_space=5), "it is being received")
    server.files.apply_limit()
    assert quotas.limits == {}
    server.files.received(10)
    assert quotas.limits == {UUID: 5 * MIB}


def test_a_new_server_is_limited_and_a_deleted_one_no_more(
    node: FakeNode, quotas: RecordedQuotas
) -> None:
    boot(node).value()
    node.panel.known[UUID] = configuration(disk_space=5)
    Outcome.of(node.servers.create(UUID, start_on_completion=False)).value()
    assert quotas.limits == {UUID: 5 * MIB}
    Outcome.of(node.servers.delete(UUID)).value()
    assert quotas.limits == {}


@pytest.mark.promise("oversized-server-is-not-started")
def test_a_server_whose_blocks_take_more_than_its_limit_is_not_started(
    node: FakeNode, quotas: RecordedQuotas
) -> None:
    server = node.server(configuration(disk_space=5))
    quotas.blocks = 5 * MIB + 1
    error = do(server, PowerAction.START).error(DiskLimitExceeded)
    assert error.detail.startswith("the server's files take 5.0 MiB on the disk")
    quotas.blocks = 5 * MIB
    do(server, PowerAction.START).value()


def test_a_quota_that_cannot_be_set_is_logged_and_the_server_runs(
    node: FakeNode, quotas: RecordedQuotas, logged: Logged
) -> None:
    quotas.fault = StorageError("read-only")
    server = node.server(configuration(disk_space=5))
    do(server, PowerAction.START).value()
    assert any(f"{UUID}: setting its project quota failed" in line for line in logged.lines)


@pytest.mark.parametrize(
    ("uuid", "attempt", "number"),
    [
        ("00000000-0000-4000-8000-000000000000", 0, FIRST_PROJECT),
        ("00000000-0000-4000-8000-000000000001", 2, FIRST_PROJECT + 3),
        ("8d2f5a14-6e2b-4c43-9d57-0c4c3fffffff", 0, 2 * FIRST_PROJECT - 1),
        ("8d2f5a14-6e2b-4c43-9d57-0c4c3fffffff", 1, FIRST_PROJECT),
        ("8d2f5a14-6e2b-4c43-9d57-0c4cffffffff", 0, 2 * FIRST_PROJECT - 1),
    ],
)
def test_the_number_of_a_project_comes_from_the_uuid(uuid: str, attempt: int, number: int) -> None:
    assert project_number(uuid, attempt) == number


@pytest.mark.parametrize(
    ("machine", "number"),
    [("x86_64", 443), ("aarch64", 443), ("riscv64", 443), ("mips64", 5443), ("alpha", 553)],
)
def test_the_system_call_has_its_number_on_each_architecture(machine: str, number: int) -> None:
    assert syscall_number(machine) == number
