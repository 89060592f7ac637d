"""What the daemon starts with, and what it cannot start with."""

from __future__ import annotations

from collections.abc import Sequence
from socket import AF_INET, AF_INET6, AF_UNIX, create_server, socket

import pytest

from tests.support.node_process import LOOPBACK
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID, archive
from tests.support.upload_client import begun
from wingsd.statedb import FILE, Store

PLAIN = {"ssl": {"enabled": False}}


async def start_with(daemon: ReceivingNode, *passed: socket, options: Sequence[str] = ()) -> None:
    """Start the daemon with these sockets passed as by systemd."""
    await daemon.listen_panel()
    names = ":".join("wingsd.socket" for _ in passed)
    variables = f"LISTEN_FDS={len(passed)} LISTEN_FDNAMES={names}"
    # The variables must name the process that the shell becomes.
    shell = ("/bin/sh", "-c", f'LISTEN_PID=$$ {variables} exec "$@"', "sh")
    descriptors = {number: one.fileno() for number, one in enumerate(passed, 3)}
    daemon.spawn([*shell, *daemon.command(*options)], descriptors)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"token": ""}, "token: must not be empty"),
        ({"api": {"ssl": {"enabled": True, "cert": "/no", "key": "/no"}}}, "api.ssl.cert: /no"),
        ({"system": {"data": "/proc/no/volumes"}}, "/proc/no/volumes cannot be used"),
    ],
)
async def test_an_unusable_configuration_ends_the_start_with_one_line(
    daemon: ReceivingNode, changes: dict[str, object], says: str
) -> None:
    daemon.launch(**changes)
    assert await daemon.ended() == 1
    assert daemon.lines_with(says)
    assert not daemon.lines_with("Traceback")


async def test_a_port_that_wings_may_have_ends_the_start_with_a_line_that_names_it(
    daemon: ReceivingNode,
) -> None:
    with create_server(("127.0.0.1", 0)) as taken:
        host, port = taken.getsockname()
        daemon.launch(api={"host": host, "port": port, **PLAIN})
        assert await daemon.ended() == 1
    (line,) = daemon.lines_with("cannot listen on")
    assert "Address already in use" in line
    assert "systemctl disable --now wings" in line


@pytest.mark.promise("damaged-database-is-reported")
async def test_a_damaged_database_ends_the_start_with_one_line(daemon: ReceivingNode) -> None:
    store = Store(str(daemon.directory))
    store.open()
    store.deny(10, [f"{number:0>100}" for number in range(500)])
    store.close()
    with (daemon.directory / FILE).open("r+b") as file:
        file.seek(10 * 4096)
        file.write(b"\xff" * 4096)
    daemon.launch()
    assert await daemon.ended() == 1
    (line,) = daemon.lines_with("wingsd.db: ")
    assert "] wingsd: the state database is damaged: " in line
    assert "move all three away" in line
    assert not daemon.lines_with("Traceback")


async def test_the_daemon_listens_at_the_configured_address(daemon: ReceivingNode) -> None:
    daemon.launch(api={"host": "::1", "port": 18080, **PLAIN})
    assert "http://[::1]:18080" in await daemon.wait_for_line("listens on")


async def test_a_socket_passed_by_systemd_is_used_with_tls(daemon: ReceivingNode) -> None:
    with create_server(("127.0.0.1", 0)) as listening:
        await start_with(daemon, listening)
        await daemon.listening()
        assert daemon.url == f"https://127.0.0.1:{listening.getsockname()[1]}"
        assert await daemon.upload(archive()) == (200, None)


async def test_only_a_passed_tcp_socket_that_listens_is_used(daemon: ReceivingNode) -> None:
    with (
        socket(AF_UNIX) as control,
        socket(AF_INET) as closed,
        create_server(("::1", 0), family=AF_INET6) as listening,
    ):
        control.bind(str(daemon.directory / "control"))
        control.listen()
        await start_with(daemon, control, closed, listening)
        await daemon.listening()
        assert daemon.url == f"https://[::1]:{listening.getsockname()[1]}"


async def test_several_passed_sockets_need_an_endpoint_option(daemon: ReceivingNode) -> None:
    with create_server(("127.0.0.1", 0)) as one, create_server(("127.0.0.1", 0)) as other:
        await start_with(daemon, one, other)
        assert await daemon.ended() == 1
        (line,) = daemon.lines_with("systemd passes 2 TCP sockets")
        assert "--endpoint systemd:domain=INET:index=1" in line
        await start_with(daemon, one, other, options=("-e", "systemd:domain=INET:index=1"))
        await daemon.listening()
        assert daemon.url == f"https://127.0.0.1:{other.getsockname()[1]}"


async def test_a_missing_configuration_is_reported_with_paths(daemon: ReceivingNode) -> None:
    command = daemon.command()
    # A machine of its own, as far as /etc goes.
    daemon.spawn(
        [
            *("/usr/bin/unshare", "--mount", "/bin/sh", "-c"),
            'mount -t tmpfs none /etc && exec "$@"',
            *("sh", *command[: command.index("--config")]),
        ]
    )
    assert await daemon.ended() == 1
    (line,) = daemon.lines_with("no configuration found")
    assert "/etc/wingsd/config.yml, /etc/pterodactyl/config.yml, /etc/pelican/config.yml" in line
    assert not daemon.lines_with("Traceback")


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        ("foo:bar", "is not a usable endpoint"),
        ("ssl:443:privateKey=/no", "is not a usable endpoint"),
        ("ssl:443:privateKey=/etc/passwd", "is not a usable endpoint"),
        ("systemd:domain=INET:index=0", "systemd has passed no socket"),
        ("systemd:domain=INET:name=no", "systemd has passed no socket"),
    ],
)
async def test_an_invalid_endpoint_ends_the_start(
    daemon: ReceivingNode, endpoint: str, says: str
) -> None:
    daemon.launch("--endpoint", endpoint)
    assert await daemon.ended() == 1
    assert daemon.lines_with(says)
    assert not daemon.lines_with("Traceback")


async def test_a_second_daemon_on_the_same_data_does_not_start(running: ReceivingNode) -> None:
    sender = await begun(running, archive(), until="receiving the archive")
    second = ReceivingNode(running.directory)
    second.launch(*LOOPBACK)
    assert await second.ended() == 1
    assert second.lines_with("another wingsd is running")
    assert await sender.finish() == (200, b"")
    assert (running.volumes / UUID / "server.properties").exists()
