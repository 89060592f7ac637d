"""Project quotas on ext4 and XFS, by the code that sets them. Runs in the machine only."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.quota_vm.projects import (
    BEYOND,
    MIB,
    NUMBER,
    OWNER,
    give,
    project,
    unprivileged,
    usage,
    write,
)
from tests.support.archives import seen
from tests.support.logged_errors import Logged
from tests.support.reactor import until
from tests.support.sample_server import UUID
from wingsd.history.capture import HistorySource
from wingsd.history.format import PointLabel
from wingsd.history.rewriting import Rewriting
from wingsd.history.store import HistoryStore
from wingsd.history.wanted import Wanted
from wingsd.moves.unchanged import MeasuredFileSystems
from wingsd.servers.files import ServerDirectories
from wingsd.servers.quotas import Project, ProjectQuotas
from wingsd.transfers.storage.staging import Staging

#: The last 32 bits are those of UUID.
NAMESAKE = "00000000-6e2b-4c43-9d57-0c4c5e1c7f10"


@pytest.fixture
def quotas(place: Path) -> ProjectQuotas:
    (place / "volumes").mkdir()
    made = ProjectQuotas(str(place / "volumes"), enabled=True)
    made.open(str(place))
    assert made.active
    return made


@pytest.fixture
def directories(place: Path, quotas: ProjectQuotas) -> ServerDirectories:
    return ServerDirectories(str(place / "volumes"), OWNER, quotas=quotas)


@pytest.fixture
def path(directories: ServerDirectories) -> Path:
    """The directory of a new server."""
    directories.make(UUID)
    return Path(directories.path(UUID))


def limit(quotas: ProjectQuotas, uuid: str, path: Path | str, size: int | None) -> None:
    """Limit a server, as the node does it."""
    if not quotas.apply(uuid, str(path), size):
        quotas.assign(uuid, str(path))
        assert quotas.apply(uuid, str(path), size)


@pytest.mark.promise("growing-server-is-stopped")
def test_a_server_cannot_write_beyond_its_limit(
    quotas: ProjectQuotas, path: Path, kind: str
) -> None:
    limit(quotas, UUID, path, 4 * MIB)
    assert write(path / "small", 2) == 0
    assert write(path / "large", 8) == BEYOND[kind]
    found = usage(path)
    assert found.limit == 4 * MIB
    assert 2 * MIB < found.bytes <= 4 * MIB
    assert quotas.used(str(path)) == found.bytes
    (path / "large").unlink()
    assert write(path / "again", 1) == 0


def test_what_a_server_makes_belongs_to_its_project(path: Path) -> None:
    (path / "world" / "region").mkdir(parents=True)
    (path / "world" / "region" / "r.0.0").touch()
    assert project(path) == project(path / "world" / "region") == Project(NUMBER, passed_on=True)
    assert project(path / "world" / "region" / "r.0.0").id == NUMBER
    os.mkfifo(path / "fifo")
    (path / "link").symlink_to("world")
    # Within the server they may be renamed, which is refused from project to project.
    (path / "fifo").rename(path / "world" / "fifo")
    (path / "link").rename(path / "world" / "link")
    assert usage(path).inodes == 6


@pytest.mark.promise("rewind-changes-what-differs")
def test_a_rewound_server_is_limited_as_before(
    quotas: ProjectQuotas, place: Path, path: Path, kind: str
) -> None:
    limit(quotas, UUID, path, 5 * MIB)
    (path / "world").write_bytes(os.urandom(3 * MIB))
    os.chown(path / "world", *OWNER)
    (path / "link").symlink_to("world")
    (path / "more").mkdir()
    (path / "more" / "again").hardlink_to(path / "world")
    before = seen(path, owner=False)
    with (
        closing(HistoryStore(str(place / "history"))) as store,
        closing(HistorySource(str(path), MeasuredFileSystems(), lambda line: None)) as source,
    ):
        first = store.make(source, PointLabel.STOPPED)
        assert first is not None
        (path / "world").write_bytes(os.urandom(4 * MIB))
        (path / "link").unlink()
        shutil.rmtree(path / "more")
        store.make(source, PointLabel.STOPPED)
        with Rewriting(str(path), str(place / "rewind"), OWNER) as rewriting:
            drafted = rewriting.prepare(store, Wanted(first.number))
            # what was there and what comes are above the limit together
            quotas.adopt(UUID, str(path), rewriting.new)
            rewriting.commit(store, Wanted(first.number), (), drafted)
            rewriting.apply()
            assert rewriting.differing() == []
    assert seen(path, owner=False) == before
    shutil.rmtree(place / "rewind")
    limit(quotas, UUID, path, 5 * MIB)
    while quotas.used(str(path)) >= 4 * MIB:  # XFS frees blocks in the background
        os.sync()
    assert quotas.used(str(path)) >= 3 * MIB
    assert write(path / "new", 4) == BEYOND[kind]


def test_a_changed_limit_holds_at_once(quotas: ProjectQuotas, path: Path, kind: str) -> None:
    limit(quotas, UUID, path, 2 * MIB)
    assert write(path / "a", 4) == BEYOND[kind]
    limit(quotas, UUID, path, 8 * MIB)
    assert write(path / "a", 4) == 0
    limit(quotas, UUID, path, 3 * MIB)
    assert write(path / "b", 1) == BEYOND[kind]
    limit(quotas, UUID, path, None)
    assert write(path / "b", 8) == 0
    assert usage(path).limit == 0


def test_all_files_of_an_old_server_get_a_project(
    quotas: ProjectQuotas, place: Path, kind: str
) -> None:
    outside = place / "outside"
    outside.write_bytes(bytes(MIB))
    path = place / "volumes" / UUID
    deep = path.joinpath(*("d" * 40 for _ in range(60)))
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(bytes(MIB))
    (deep / "file").chmod(0)
    (path / "second").hardlink_to(deep / "file")
    (path / "link").symlink_to(outside)
    (path / "directory").symlink_to(place)
    os.mkfifo(path / "fifo")
    (path / "immutable").touch()
    subprocess.run(["/usr/bin/chattr", "+i", path / "immutable"], check=True)
    subprocess.run(["/bin/chown", "-RPh", "988:988", path / ("d" * 40)], check=True)
    os.chown(path, *OWNER)
    limit(quotas, UUID, path, 2 * MIB)
    assert project(path) == project(deep) == Project(NUMBER, passed_on=True)
    assert project(deep / "file").id == NUMBER
    assert (project(outside).id, project(place).id) == (0, 0)
    assert usage(path).bytes >= MIB
    assert write(deep / "more", 2) == BEYOND[kind]


@pytest.mark.promise("projects-are-never-shared")
def test_an_interrupted_assignment_is_finished_later(quotas: ProjectQuotas, place: Path) -> None:
    path = place / "volumes" / UUID
    (path / "world").mkdir(parents=True)
    (path / "world" / "region").touch()
    give(path, Project(NUMBER))
    later = ProjectQuotas(str(place / "volumes"), enabled=True)
    later.open(str(place))
    limit(later, UUID, path, MIB)
    assert project(path) == project(path / "world") == Project(NUMBER, passed_on=True)
    assert project(path / "world" / "region").id == NUMBER


def test_a_server_without_limit_keeps_what_it_has(quotas: ProjectQuotas, place: Path) -> None:
    path = place / "volumes" / UUID
    path.mkdir()
    limit(quotas, UUID, path, None)
    assert project(path) == Project(0)


@pytest.mark.promise("projects-are-never-shared")
def test_a_project_is_kept_over_restarts_and_never_shared(
    quotas: ProjectQuotas, directories: ServerDirectories, path: Path, place: Path
) -> None:
    directories.make(NAMESAKE)
    assert project(Path(directories.path(NAMESAKE))).id == NUMBER + 1
    later = ProjectQuotas(str(place / "volumes"), enabled=True)
    later.open(str(place))
    for uuid, number in ((NAMESAKE, NUMBER + 1), (UUID, NUMBER)):
        limit(later, uuid, directories.path(uuid), MIB)
        assert project(Path(directories.path(uuid))).id == number
    # Its owner can give it another, which must not be limited.
    for foreign in (NUMBER, 5):
        with unprivileged():
            give(Path(directories.path(NAMESAKE)), Project(foreign, passed_on=True))
        limit(later, NAMESAKE, directories.path(NAMESAKE), 3 * MIB)
        assert project(Path(directories.path(NAMESAKE))).id not in (NUMBER, 5)
    assert usage(place, 5).limit == 0
    assert usage(place).limit == MIB


async def test_a_staged_server_is_moved_into_place_and_out_again(
    quotas: ProjectQuotas, directories: ServerDirectories, place: Path, kind: str
) -> None:
    data = str(place / "volumes")
    staging = Staging(data, OWNER, durable=True, prepare_directory=quotas.prepare)
    staging.prepare()
    try:
        staged = Path(staging.create(UUID))
        (staged / "world").write_bytes(bytes(2 * MIB))
        (staged / "link").symlink_to("world")
        staging.flush(UUID)
        staging.swap(UUID)
        staging.undo_swap(UUID)
        staging.swap(UUID)
        staging.finish(UUID)
        path = place / "volumes" / UUID
        assert project(path / "world").id == NUMBER
        # Below what it has: it may be smaller than the blocks that came.
        limit(quotas, UUID, path, MIB)
        assert write(path / "more", 1) == BEYOND[kind]
        aside = staging.set_aside(UUID)
        assert aside is not None
        staging.restore(UUID, aside)
        deleted = directories.set_aside(UUID)
        assert deleted is not None
        assert usage(place).limit == 0
        # Sent here again while the old files are being deleted.
        again = Path(staging.create(UUID))
        assert project(again) == Project(NUMBER + 1, passed_on=True)
        staging.finish(UUID)
        directories.delete(deleted)
        # XFS frees what was deleted in the background.
        await until(lambda: not usage(place).bytes)
    finally:
        staging.close()


# Where there are none


def obstacle(logged: Logged, data: str, staging: str = "") -> str:
    """Return the line of the log that says why there are no quotas."""
    quotas = ProjectQuotas(data, enabled=True)
    quotas.open(staging or data)
    assert not quotas.active
    quotas.apply(UUID, data, MIB)
    assert quotas.used(data) == 0
    (line,) = (line for line in logged.lines if line.startswith("project quotas are not used"))
    return line


@pytest.mark.parametrize(
    ("data", "what"),
    [("/run/counting", "only count"), ("/run", "has no project quotas"), ("/run/no", "No such")],
)
def test_without_quotas_the_log_says_what_to_do(logged: Logged, data: str, what: str) -> None:
    assert what in obstacle(logged, data)


def test_a_directory_that_passes_on_a_project_cannot_hold_servers(
    logged: Logged, place: Path
) -> None:
    give(place, Project(7, passed_on=True))
    assert f"chattr -P -p 0 {place}" in obstacle(logged, str(place.parent), str(place))
    logged.lines.clear()
    assert f"chattr -P -p 0 {place}" in obstacle(logged, str(place), str(place.parent))
    subprocess.run(["/usr/bin/chattr", "-P", "-p", "0", place], check=True)
    assert project(place) == Project(0)


def test_without_the_capability_the_log_names_it(logged: Logged, place: Path) -> None:
    with unprivileged():
        assert "CAP_SYS_ADMIN" in obstacle(logged, str(place))
