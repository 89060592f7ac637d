"""The quota of a server follows its limit. tests/quota_vm has the quotas of file systems."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred, execute

from tests.servers.harness import OTHER, UUID, FakeNode, Outcome, boot, configuration, do
from tests.support.logged_errors import Logged
from wingsd.errors import DiskLimitExceeded, StorageError
from wingsd.servers.files import ServerDirectories, ServerQuota, ServerStorage
from wingsd.servers.power_states import PowerAction
from wingsd.servers.quotas import FIRST_PROJECT, ProjectQuotas, project_number, syscall_number

MIB = 1 << 20


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
def quotas(node: FakeNode) -> RecordedQuotas:
    made = node.quotas = RecordedQuotas(str(node.data))
    node.servers = node.make_servers()
    return made


def test_servers_are_limited_when_the_node_starts(node: FakeNode, quotas: RecordedQuotas) -> None:
    for uuid, disk_space in ((UUID, 5), (OTHER, 0)):
        node.panel.known[uuid] = configuration(uuid, disk_space=disk_space)
        (node.data / uuid).mkdir()
    boot(node).value()
    assert quotas.limits == {UUID: 5 * MIB, OTHER: None}


@attrs.define
class ThreadsOnDemand:
    """Threads that end what they do when the test says so, but for setting limits."""

    quotas: RecordedQuotas
    pending: list[Callable[[], object]] = attrs.field(factory=list)

    def run(self, work: Callable[..., Any], *args: Any) -> Deferred[Any]:
        if work == self.quotas.apply:
            return execute(work, *args)
        done: Deferred[Any] = Deferred()
        self.pending.append(lambda: execute(work, *args).chainDeferred(done))
        return done


def test_limits_do_not_wait_for_old_servers_which_get_their_projects_one_by_one(
    quotas: RecordedQuotas,
) -> None:
    threads = ThreadsOnDemand(quotas)
    directories = ServerDirectories("/nowhere", (1, 1), quotas=quotas)
    disk: Any = threads
    storage = ServerStorage(directories, disk, disk)
    old, second, new = (ServerQuota(uuid, storage) for uuid in (UUID, OTHER, "new"))
    quotas.old = {UUID, OTHER}
    for quota in (old, second, new):
        quota.request(5)
    assert (quotas.limits, len(threads.pending)) == ({"new": 5}, 1)
    new.request(6)
    old.request(7)
    threads.pending[0]()
    assert quotas.limits == {"new": 6, UUID: 7}
    threads.pending[1]()
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


def test_quotas_that_are_not_enabled_do_nothing(tmp_path: Path, logged: Logged) -> None:
    quotas = ProjectQuotas(str(tmp_path), enabled=False)
    quotas.open("/nowhere")
    missing: Any = str(tmp_path / "missing")
    quotas.prepare(UUID, missing)
    quotas.apply(UUID, missing, MIB)
    quotas.release(UUID, missing)
    assert quotas.used(missing) == 0
    assert logged.lines == []
