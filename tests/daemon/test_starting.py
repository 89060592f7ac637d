"""What the daemon starts with, and what it cannot start with."""

from __future__ import annotations

from socket import AF_INET, AF_INET6, AF_UNIX, create_server, socket

import pytest
import pytest_twisted

from tests.daemon.harness import UUID, House, archive
from tests.daemon.uploads import Sender
from wingsd.statedb.store import FILE, Store


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"token": ""}, "token: expected a text, found an empty one"),
        ({"api": {"port": "80"}}, "api.port: expected a whole number, found a text"),
        ({"api": {"ssl": {"enabled": True, "cert": "/no", "key": "/no"}}}, "api.ssl.cert: /no"),
        ({"system": {"data": "/proc/no/volumes"}}, "/proc/no/volumes cannot be used"),
        ({"api": {"host": "192.0.2.1"}}, "cannot listen on tcp:8080:interface=192.0.2.1"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_it_cannot_start_with_is_said_in_one_line(
    house: House, changes: dict[str, object], says: str
) -> None:
    house.launch(**changes)
    assert await house.ended() == 1
    assert [line for line in house.log if says in line]
    assert not [line for line in house.log if "Traceback" in line]


@pytest_twisted.ensureDeferred
async def test_a_damaged_journal_is_said_in_one_line(house: House) -> None:
    store = Store(str(house.directory))
    store.open()
    store.deny(10, [f"{number:0>100}" for number in range(500)])
    store.close()
    with (house.directory / FILE).open("r+b") as file:
        file.seek(10 * 4096)
        file.write(b"\xff" * 4096)
    house.launch()
    assert await house.ended() == 1
    (line,) = [line for line in house.log if "wingsd.db is damaged: " in line]
    assert "] wingsd: the state database " in line
    assert "move all three away" in line
    assert not [line for line in house.log if "Traceback" in line]


@pytest_twisted.ensureDeferred
async def test_it_listens_where_the_configuration_says(house: House) -> None:
    house.launch(api={"host": "::1", "port": 18080})
    assert "http://[::1]:18080" in await house.wait_for_line("listens on")


@pytest.mark.parametrize("options", [(), ("--endpoint", "systemd:domain=INET:index=0")])
@pytest_twisted.ensureDeferred
async def test_a_socket_handed_over_as_systemd_does_is_used_with_tls(
    house: House, options: tuple[str, ...]
) -> None:
    with create_server(("127.0.0.1", 0)) as listening:
        await house.start_with(listening, options=options)
        await house.listening()
        assert house.url == f"https://127.0.0.1:{listening.getsockname()[1]}"
        assert await house.upload(archive()) == (200, None)


@pytest_twisted.ensureDeferred
async def test_it_listens_by_a_socket_of_ipv6_and_leaves_those_of_other_kinds(
    house: House,
) -> None:
    with (
        socket(AF_UNIX) as control,
        socket(AF_INET) as closed,
        create_server(("::1", 0), family=AF_INET6) as listening,
    ):
        control.bind(str(house.directory / "control"))
        control.listen()
        await house.start_with(control, closed, listening)
        await house.listening()
        assert house.url == f"https://[::1]:{listening.getsockname()[1]}"


@pytest_twisted.ensureDeferred
async def test_of_several_sockets_one_must_be_chosen(house: House) -> None:
    with create_server(("127.0.0.1", 0)) as one, create_server(("127.0.0.1", 0)) as other:
        await house.start_with(one, other)
        assert await house.ended() == 1
        (line,) = [line for line in house.log if "systemd passes 2 sockets" in line]
        assert "--endpoint systemd:domain=INET:index=1" in line
        await house.start_with(one, other, options=("-e", "systemd:domain=INET:index=1"))
        await house.listening()
        assert house.url == f"https://127.0.0.1:{other.getsockname()[1]}"


@pytest_twisted.ensureDeferred
async def test_a_socket_goes_before_the_configuration_and_an_endpoint_before_both(
    house: House,
) -> None:
    with create_server(("127.0.0.1", 0)) as listening:
        await house.start_with(listening, options=("--endpoint", "tcp:0:interface=127.0.0.1"))
        await house.listening()
        assert house.url != f"https://127.0.0.1:{listening.getsockname()[1]}"


@pytest_twisted.ensureDeferred
async def test_without_a_configuration_it_says_where_it_looked(house: House) -> None:
    command = house.command(house.configuration())
    # A machine of its own, as far as /etc goes.
    house.spawn(
        [
            *("/usr/bin/unshare", "--mount", "/bin/sh", "-c"),
            'mount -t tmpfs none /etc && exec "$@"',
            *("sh", *command[: command.index("--config")]),
        ]
    )
    assert await house.ended() == 1
    (line,) = [line for line in house.log if "there is no configuration" in line]
    assert "/etc/wingsd/config.yml, /etc/pterodactyl/config.yml, /etc/pelican/config.yml" in line
    assert not [line for line in house.log if "Traceback" in line]


@pytest.mark.parametrize("endpoint", ["foo:bar", "tcp:abc", "tcp", "systemd:domain=INET:index=0"])
@pytest_twisted.ensureDeferred
async def test_an_endpoint_that_is_none_is_said_so(house: House, endpoint: str) -> None:
    house.launch("--endpoint", endpoint)
    assert await house.ended() == 1
    assert [line for line in house.log if "is not an endpoint" in line]
    assert not [line for line in house.log if "Traceback" in line]


@pytest_twisted.ensureDeferred
async def test_a_second_daemon_on_the_same_data_is_kept_out(house: House) -> None:
    await house.start()
    sender = Sender(house, archive())
    await sender.begin()
    await house.wait_for_line("receiving the archive")
    second = House(house.directory)
    second.launch("--endpoint", "tcp:0:interface=127.0.0.1")
    assert await second.ended() == 1
    assert [line for line in second.log if "another wingsd is running" in line]
    assert await sender.finish() == (200, b"")
    assert (house.volumes / UUID / "server.properties").exists()
