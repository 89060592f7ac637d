"""The files by which a container knows its user and its machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.support.docker_engine import Engine
from tests.support.logged_errors import Logged
from tests.support.reactor import reactor
from wingsd.config import (
    Config,
    MachineIdConfig,
    PasswdConfig,
    PelicanPasswdConfig,
    SystemConfig,
    User,
)
from wingsd.docker.containers import (
    DockerContainers,
    IdentityFile,
    identity_files,
    remove_machine_id,
    write_files,
)
from wingsd.panel.schemas import Mount
from wingsd.threadio import Workers

UUID = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"
MACHINE_ID = "8d2f5a146e2b4c439d570c4c5e1c7f10\n"
PASSWD = "container:x:988:989::/home/container:/usr/sbin/nologin\n"
GROUP = "container:x:989:container\n"


def node(family: str = "pterodactyl", **system: Any) -> Config:
    return Config(
        token_id="id",
        token="secret",
        remote="https://panel.invalid",
        family=family,
        system=SystemConfig(user=User(988, 989), **system),
    )


def files(config: Config) -> dict[str, tuple[str, str]]:
    """Return path and content of the files by their place in the container."""
    return {file.target: (file.path, file.content) for file in identity_files(config, UUID)}


def test_by_default_there_is_a_machine_id() -> None:
    assert files(node()) == {"/etc/machine-id": (f"/run/wings/machine-id/{UUID}", MACHINE_ID)}


def test_pelican_has_an_account_as_well() -> None:
    for disabled in (MachineIdConfig(enable=False), MachineIdConfig(enabled=False)):
        assert "/etc/machine-id" not in files(node(machine_id=disabled))
    known = files(node("pelican", machine_id=MachineIdConfig(enable=False)))
    assert known == {
        "/etc/passwd": ("/etc/pelican/passwd", PASSWD),
        "/etc/group": ("/etc/pelican/group", GROUP),
    }
    off = node("pelican")
    user = attrs.evolve(off.system.user, passwd=PelicanPasswdConfig(enable=False))
    off = attrs.evolve(off, system=attrs.evolve(off.system, user=user))
    assert list(files(off)) == ["/etc/machine-id"]


def test_others_get_an_account_when_that_is_enabled() -> None:
    known = files(node(passwd=PasswdConfig(enabled=True)))
    assert known["/etc/passwd"] == ("/run/wings/etc/passwd", PASSWD)
    assert known["/etc/group"] == ("/run/wings/etc/group", GROUP)


def test_files_are_written_once_for_every_reader(tmp_path: Path) -> None:
    path = tmp_path / "new" / "passwd"
    file = IdentityFile(str(path), PASSWD, "/etc/passwd", "container:")
    assert write_files([file]) == ([Mount(str(path), "/etc/passwd", read_only=True)], [])
    assert (path.read_text(), path.stat().st_mode & 0o777) == (PASSWD, 0o644)
    inode = path.stat().st_ino
    write_files([file])
    assert path.stat().st_ino == inode
    # A container that runs keeps the file that it shows.
    path.write_bytes(b"\xff")
    with path.open("rb") as shown:
        write_files([file])
        assert shown.read() == b"\xff"
    assert path.read_text() == PASSWD
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "content", [PASSWD.strip(), "root:x:0:0::/root:/bin/sh\ncontainer:x:1:2::/:/bin/sh\n"]
)
def test_a_file_of_wings_with_the_same_account_stays(tmp_path: Path, content: str) -> None:
    path = tmp_path / "passwd"
    path.write_text(content)
    file = IdentityFile(str(path), PASSWD, "/etc/passwd", "container:")
    assert write_files([file]) == ([file.mount], [])
    assert path.read_text() == content


def test_a_file_that_cannot_be_written_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    blocked = IdentityFile(str(tmp_path / "file" / "passwd"), PASSWD, "/etc/passwd", "container:")
    fine = IdentityFile(str(tmp_path / "group"), GROUP, "/etc/group", "container:")
    mounts, (failure,) = write_files([blocked, fine])
    assert mounts == [fine.mount]
    assert blocked.path in failure


def test_a_machine_id_goes_with_its_server(tmp_path: Path) -> None:
    config = node(machine_id=MachineIdConfig(directory=str(tmp_path)))
    write_files(identity_files(config, UUID))
    remove_machine_id(config, UUID)
    remove_machine_id(config, UUID)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.promise("nodes-can-share-an-engine")
def test_a_machine_id_that_another_node_uses_stays(tmp_path: Path) -> None:
    machine_id = MachineIdConfig(directory=str(tmp_path))
    one = node(machine_id=machine_id, data="/var/lib/one")
    other = node(machine_id=machine_id, data="/var/lib/other")
    write_files(identity_files(one, UUID))
    # The server moves to a node on the same machine, whose engine this one does not see.
    write_files(identity_files(other, UUID))
    remove_machine_id(one, UUID)
    assert (tmp_path / UUID).read_text() == MACHINE_ID
    remove_machine_id(one, UUID)
    assert (tmp_path / UUID).exists()
    remove_machine_id(other, UUID)
    assert list(tmp_path.iterdir()) == []


def enabled(config: Config, tmp_path: Path) -> Config:
    passwd = PasswdConfig(enabled=True, directory=str(tmp_path / "etc"))
    return attrs.evolve(config, system=attrs.evolve(config.system, passwd=passwd))


async def test_a_container_sees_them_and_cannot_change_them(
    engine: Engine, workers: Workers, tmp_path: Path
) -> None:
    server = engine.server(
        "/bin/busybox cat /etc/machine-id /etc/passwd /etc/group; echo x > /etc/machine-id"
    )
    config = enabled(engine.config_without_network(), tmp_path)
    environment = DockerContainers(config, workers, reactor)
    await environment.create(server)
    _, output = engine.run(server)
    lines = output.splitlines()
    assert lines[0] == server.uuid.replace("-", "")
    assert lines[1] == "container:x:1234:1234::/home/container:/usr/sbin/nologin"
    assert lines[2] == "container:x:1234:container"
    assert "Read-only file system" in lines[3]
    await environment.remove(server.uuid)
    assert not (Path(config.system.machine_id.directory) / server.uuid).exists()


async def test_a_machine_id_is_removed_also_where_another_node_has_the_container(
    engine: Engine, workers: Workers, tmp_path: Path
) -> None:
    config, server = engine.config_without_network(), engine.server()
    await DockerContainers(config, workers, reactor).create(server)
    elsewhere = attrs.evolve(config.system, data="/var/lib/other")

    async def remove(system: SystemConfig) -> None:
        other = attrs.evolve(config, system=system)
        await DockerContainers(other, workers, reactor).remove(server.uuid)

    # Both nodes use the same directory of machine ids: the container shows this file.
    await remove(elsewhere)
    shown = Path(config.system.machine_id.directory) / server.uuid
    assert shown.read_text() == server.uuid.replace("-", "") + "\n"
    # Left over from a container that this node was to have.
    left = tmp_path / "ids" / server.uuid
    left.parent.mkdir()
    left.touch()
    own_ids = MachineIdConfig(directory=str(left.parent))
    await remove(attrs.evolve(elsewhere, machine_id=own_ids))
    assert not left.exists()
    assert shown.exists()


async def test_a_mount_of_the_server_comes_before_them(
    engine: Engine, workers: Workers, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    own.write_text("of the server\n")
    config = attrs.evolve(engine.config_without_network(), allowed_mounts=(str(tmp_path),))
    server = engine.server("/bin/busybox cat /etc/machine-id")
    mount = Mount(str(own), "/etc/machine-id", read_only=True)
    server = attrs.evolve(server, mounts=(mount,))
    await DockerContainers(config, workers, reactor).create(server)
    assert engine.run(server) == (0, "of the server\r\n")


async def test_without_the_file_there_is_a_container_all_the_same(
    engine: Engine, workers: Workers, logged: Logged, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    config = engine.config_without_network()
    machine_id = MachineIdConfig(directory=str(tmp_path / "file"))
    config = attrs.evolve(config, system=attrs.evolve(config.system, machine_id=machine_id))
    server = engine.server("echo up")
    await DockerContainers(config, workers, reactor).create(server)
    assert engine.run(server) == (0, "up\r\n")
    assert any("cannot be written" in line for line in logged.lines)
