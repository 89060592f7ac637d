"""What moves and has moved, as an operator is told over the control socket."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trustme
from twisted.internet.defer import Deferred, fail

from tests.control.operators import Operator, operating
from tests.support.node_in_process import NodePair
from tests.support.reactor import until
from tests.support.sample_server import UUID
from wingsd import __version__
from wingsd import control as module
from wingsd.cli.client import Exit
from wingsd.config import ApiConfig, Config, Ssl, TransfersConfig
from wingsd.control import reachable_at
from wingsd.docker.runtime import (
    Cgroups,
    Containers,
    ContainerUsage,
    DiskIo,
    DockerInformation,
    Pressure,
    Runc,
    Storage,
)
from wingsd.errors import EnvironmentFailed, FiguresUnavailable, PanelRefused, PanelUnreachable
from wingsd.statedb import Direction, Outcome

OTHER = "11111111-6e2b-4c43-9d57-0c4c5e1c7f10"


async def held_up(operator: Operator) -> Any:
    """Begin a move that cannot get on; return what the source tells of it."""
    await operator.nodes.destination.slots.acquire("another")
    invited = await operator.ask("POST", "receive", {"server": UUID}, end="destination")
    order = {"server": UUID, "url": operator.nodes.destination.url, "token": invited["token"]}
    await operator.ask("POST", "send", order)
    await until(operator.nodes.is_sent_and_waits)
    (found,) = (await operator.ask("GET", "transfers"))["running"]
    return found


async def test_the_names_of_servers_are_listed(operator: Operator) -> None:
    operator.nodes.source.servers.loaded = True
    assert await operator.ask("GET", "servers") == {"servers": [{"server": UUID, "name": "Lobby"}]}


async def test_what_servers_and_the_machine_use_is_shown(operator: Operator) -> None:
    node = operator.nodes.source
    refused = await operator.refusal("GET", "top")
    assert refused.code == "servers-not-loaded"
    node.servers.loaded = True
    server = node.servers.get(UUID)
    usage = ContainerUsage(
        1000, 4000, 50.0, uptime=2000, pressure={"io": Pressure(12.5, 1.0)}, processes=3
    )
    server.figures.take(attrs.evolve(usage, uptime=1000, disk_io=DiskIo(0, 100)), 0)
    server.figures.take(attrs.evolve(usage, disk_io=DiskIo(0, 300)), 0)
    found = await operator.ask("GET", "top")
    assert 0 < found["machine"]["memory_bytes"] < found["machine"]["memory_total_bytes"]
    assert 0 <= found["machine"]["cpu_percent"] <= 100
    assert set(found["machine"]["pressure_percent"]) <= {"cpu", "memory", "io"}
    (used,) = found["servers"]
    expected = {
        "server": UUID,
        "name": "Lobby",
        "uptime_seconds": 2,
        "cpu_percent": 50,
        "memory_bytes": 1000,
        "memory_limit_bytes": 4000,
        "pressure_percent": {"io": 12.5},
        "written_bytes_per_second": 200,
        "read_bytes_per_second": 0,
        "processes": 3,
        "throttled_seconds": None,
        "disk_limit_bytes": None,
    }
    assert {key: used[key] for key in expected} == expected


async def test_figures_that_a_sandbox_hides_are_unknown(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = operator.nodes.source
    node.servers.loaded = True

    def hidden() -> Deferred[None]:
        return fail(FiguresUnavailable("hidden"))

    monkeypatch.setattr(node.figures, "now", hidden)
    found = (await operator.ask("GET", "top"))["machine"]
    assert (found["cpu_percent"], found["memory_bytes"]) == (None, None)


async def test_what_is_kept_of_a_failed_move_is_listed_and_removed(operator: Operator) -> None:
    node = operator.nodes.source
    copies = node.partial_copies
    copies.create(UUID).ledger.write_bytes(b"ledger")
    assert copies.keep(UUID, 5, 10.0)
    found = await operator.ask("GET", "transfers")
    assert found["kept"] == [{"server": UUID, "bytes": 5, "since": 10.0}]
    await operator.ask("DELETE", f"kept/{UUID}")
    assert (await operator.ask("GET", "transfers"))["kept"] == []
    refused = await operator.refusal("DELETE", f"kept/{UUID}")
    assert "nothing is kept of this server" in str(refused)


@pytest.fixture
def operator_of_moves(tmp_path: Path) -> Iterator[Operator]:
    yield from operating(tmp_path, TransfersConfig())


async def test_a_copy_that_follows_a_server_is_shown_and_forgotten(
    operator_of_moves: Operator,
) -> None:
    operator = operator_of_moves
    nodes = operator.nodes
    words = {"server": UUID, "follow": True}
    invited = await operator.ask("POST", "receive", words, end="destination")
    order = {**words, "url": nodes.destination.url, "token": invited["token"], "stop_at": 4e9}
    await operator.ask("POST", "send", order)
    while True:
        (found,) = (await operator.ask("GET", "transfers"))["running"]
        follow = found["follow"]
        # In a second round, files that were new in the first one are read again.
        if follow is not None and follow["whole_at"] and not follow["missing_bytes"]:
            break
    assert (found["step"], follow["stop_at"], follow["trouble"]) == ("seed", 4e9, None)
    assert follow["rounds"] > 0
    assert abs(follow["whole_at"] - time.time()) < 30
    (other,) = (await operator.ask("GET", "transfers", end="destination"))["running"]
    assert (other["direction"], other["follow"]) == ("in", None)
    await operator.ask("DELETE", f"kept/{UUID}", end="destination")
    await operator.ask("DELETE", f"transfers/{UUID}")
    await nodes.settled()
    assert nodes.destination.left() == []


async def test_an_end_needs_a_copy_that_follows(operator: Operator) -> None:
    order = {"server": UUID, "url": "https://x", "token": "x", "stop_at": 4e9}
    assert "stop_at needs follow" in str(await operator.refusal("POST", "send", order))


async def test_a_running_transfer_is_shown_at_both_ends(operator: Operator) -> None:
    found = await held_up(operator)
    assert (found["server"], found["direction"], found["by_hand"]) == (UUID, "out", True)
    assert (found["state"], found["step"]) == ("processing", "await")
    assert found["doing"] == "waiting for the destination to finish"
    assert (found["bytes"], found["transfer"]) == (128_000, 1)
    assert abs(found["begun"] - time.time()) < 30
    other = await operator.ask("GET", f"transfers/{UUID}", end="destination")
    assert (other["running"]["direction"], other["running"]["step"]) == ("in", "receive")
    assert other["running"]["total_bytes"] is None
    await operator.ask("DELETE", f"transfers/{UUID}")
    await operator.nodes.settled()


async def test_an_ended_transfer_is_shown_with_its_reason(operator: Operator) -> None:
    await held_up(operator)
    await operator.ask("DELETE", f"transfers/{UUID.upper()}", end="destination")
    await operator.nodes.settled()
    found = await operator.ask("GET", "transfers")
    (past,) = found["past"]
    assert (found["running"], past["outcome"], past["step"]) == ([], "cancelled", "failed")
    assert "the transfer was cancelled" in past["reason"]
    assert past["begun"] <= past["ended"]
    assert (past["bytes"], past["files"]) == (pytest.approx(1000, abs=900), 1)
    (past,) = (await operator.ask("GET", "transfers", end="destination"))["past"]
    assert past["outcome"] == "cancelled"


async def test_one_server_is_shown_with_its_state_and_reports(operator: Operator) -> None:
    found = await operator.ask("GET", f"transfers/{UUID}")
    assert found["uuid"] == UUID
    server = found["server"]
    assert (server["name"], server["state"], server["hold"]) == ("Lobby", "offline", "")
    assert (found["running"], found["expected"], found["past"]) == (None, None, [])
    await operator.nodes.source.callbacks.add(UUID, Outcome.FAILURE)
    (report,) = (await operator.ask("GET", f"transfers/{UUID}"))["reports_waiting"]
    assert (report["outcome"], report["server"]) == ("failure", UUID)
    operator.nodes.source.callbacks.stop()


async def test_an_unknown_server_has_no_status(operator: Operator) -> None:
    refusal = await operator.refusal("GET", f"transfers/{OTHER}")
    assert refusal.exit_code == Exit.UNKNOWN
    assert "no such server" in refusal.message
    assert (await operator.refusal("GET", "transfers/what")).exit_code == Exit.UNKNOWN


async def test_an_invitation_is_shown_until_it_is_cancelled(operator: Operator) -> None:
    order = {"server": OTHER, "seconds": 60}
    invited = await operator.ask("POST", "receive", order)
    (expected,) = (await operator.ask("GET", "transfers"))["expected"]
    assert expected == {"server": OTHER, "expires": invited["expires"]}
    assert (await operator.ask("GET", f"transfers/{OTHER}"))["expected"] == expected
    await operator.ask("DELETE", f"transfers/{OTHER}")
    refusal = await operator.refusal("DELETE", f"transfers/{OTHER}")
    assert "no transfer that can be cancelled" in refusal.message


async def test_an_earlier_daemons_transfer_runs_until_its_end_is_known(operator: Operator) -> None:
    store = operator.nodes.source.store
    store.begin(1_700_000_000, OTHER, Direction.IN, "SWAP", direct=True)
    store.begin(time.time() + 60, UUID, Direction.OUT, "SEND")
    before, now = (await operator.ask("GET", "transfers"))["running"]
    assert (before["server"], before["begun"]) == (OTHER, 1_700_000_000)
    assert before["doing"] == "finding out its result after the restart of this node"
    assert (now["server"], now["doing"]) == (UUID, "ending")


async def test_as_many_ended_transfers_are_shown_as_asked_for(operator: Operator) -> None:
    store = operator.nodes.source.store
    ids = [store.begin(number, OTHER, Direction.IN, "SWAP") for number in range(30)]
    for each in ids:
        store.end(100, each, Outcome.SUCCESS)
    found = await operator.ask("GET", "transfers")
    assert [each["transfer"] for each in found["past"]] == ids[:9:-1]
    found = await operator.ask("GET", "transfers?past=2")
    assert [each["transfer"] for each in found["past"]] == [ids[-1], ids[-2]]
    assert (await operator.ask("GET", "transfers?past=0"))["past"] == []
    for wrong in ("x", "-1", "10001"):
        refusal = await operator.refusal("GET", f"transfers?past={wrong}")
        assert refusal.exit_code == Exit.FAILED


NONSENSE: list[tuple[str, dict[str, Any], str]] = [
    ("receive", {"server": "x"}, "identified by its UUID"),
    ("receive", {"server": OTHER, "seconds": 0}, "604800, a week"),
    ("receive", {"server": OTHER, "settings": {}}, "settings: is missing"),
    ("receive", {"server": OTHER, "addresses": ["x"]}, "IP:PORT"),
    ("send", {"server": UUID, "url": "x", "token": "t"}, "must be an http or https URL"),
    ("send", {"server": UUID, "url": "https://x", "token": "a\nb"}, "has invalid characters"),
    ("send", {"server": UUID, "url": "https://x", "token": "t", "settings": {}}, "settings"),
    ("send", {"server": OTHER, "url": "https://x", "token": "t"}, "not loaded its servers"),
]


async def test_an_order_that_makes_no_sense_is_refused(operator: Operator) -> None:
    for path, order, says in NONSENSE:
        refusal = await operator.refusal("POST", path, order)
        assert says in f"{refusal.message}: {refusal.detail}"


# How the node is, as its operator is told


ENGINE = DockerInformation(
    "27.1", Cgroups("", ""), Containers(0, 0, 0, 0), Storage("", ""), Runc("")
)


async def gathered(nodes: NodePair) -> dict[str, Any]:
    found: dict[str, Any] = await nodes.source.status().get_status()
    return found


async def test_status_has_the_node_and_its_disks(nodes: NodePair) -> None:
    found = await gathered(nodes)
    assert (found["version"], found["pid"]) == (__version__, os.getpid())
    assert 0 <= found["uptime_seconds"] < 60
    assert found["address"] == nodes.source.url
    assert found["servers"] == {"loaded": False, "count": None, "running": None}
    assert found["transfers"] == {
        "receiving": 0,
        "sending": 0,
        "expected": 0,
        "waiting_orders": 0,
    }
    assert found["engine"] == {"enabled": False, "version": "", "error": "", "code": ""}
    assert found["limits"]["download_mib_per_second"] is None
    assert found["limits"]["concurrent"] == nodes.source.config.system.transfers.concurrent
    assert [disk["purpose"] for disk in found["disks"]] == ["servers", "arriving", "journal"]
    for disk in found["disks"]:
        held = os.statvfs(disk["path"])
        assert disk["total_bytes"] == held.f_blocks * held.f_frsize
        assert 0 < disk["free_bytes"] <= disk["total_bytes"]


async def test_a_missing_disk_is_reported_with_its_error(nodes: NodePair) -> None:
    nodes.source.data.rename(nodes.source.directory / "elsewhere")
    found = await gathered(nodes)
    disk = found["disks"][0]
    assert (disk["free_bytes"], disk["error"]) == (None, "No such file or directory")


async def test_a_panel_that_answers_is_reachable(nodes: NodePair) -> None:
    nodes.source.panel.heard = time.time()
    panel = (await gathered(nodes))["panel"]
    assert (panel["reachable"], panel["error"]) == (True, "")
    assert panel["last_heard"] == nodes.source.panel.heard
    assert panel["url"] == "https://panel.invalid"


@pytest.mark.parametrize(
    ("error", "reachable", "says"),
    [
        (PanelUnreachable("the Panel did not answer", "refused"), False, "refused"),
        (PanelRefused("the Panel refused", "answered 401", 401), True, "answered 401"),
    ],
)
async def test_an_unreachable_or_refusing_panel_is_reported_with_its_reason(
    nodes: NodePair, error: Exception, reachable: bool, says: str
) -> None:
    nodes.source.panel.greeting = fail(error)
    panel = (await gathered(nodes))["panel"]
    assert (panel["reachable"], panel["error"]) == (reachable, says)


async def test_the_panel_and_the_engine_are_probed_with_a_timeout(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROBE_TIMEOUT", 0.05)
    nodes.source.panel.greeting = Deferred()

    async def silent() -> DockerInformation:
        return await Deferred()

    nodes.source.set_engine(silent)
    found = await gathered(nodes)
    assert found["panel"]["error"] == "no answer within 0.05 s"
    assert found["engine"]["error"] == "no answer within 0.05 s"


async def test_status_has_the_engines_version_or_error(nodes: NodePair) -> None:
    async def answers() -> DockerInformation:
        return ENGINE

    async def does_not() -> DockerInformation:
        raise EnvironmentFailed("the socket is not there")

    nodes.source.set_engine(answers)
    engine = (await gathered(nodes))["engine"]
    assert engine == {"enabled": True, "version": "27.1", "error": "", "code": ""}
    nodes.source.set_engine(does_not)
    assert (await gathered(nodes))["engine"]["error"] == "the socket is not there"


# By which address other nodes reach this one


def config(api: ApiConfig) -> Config:
    return Config(token_id="id", token="secret", remote="https://panel.invalid", api=api)


def certified(directory: Path, *names: str) -> ApiConfig:
    """Return a node with a certificate for those names."""
    path = directory / "cert.pem"
    issued = trustme.CA().issue_cert(*names)
    path.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    return ApiConfig(ssl=Ssl(True, str(path), str(path)))


def test_what_is_configured_is_certain() -> None:
    api = ApiConfig(public_url="https://node.example.com:8080/")
    found = reachable_at(config(api), "https://0.0.0.0:8080")
    assert found == ("https://node.example.com:8080", True)


@pytest.mark.parametrize(
    ("names", "host"),
    [
        (("node.example.com", "other.example.com"), "node.example.com"),
        (("*.example.com", "node.example.net"), "node.example.net"),
        (("203.0.113.5",), "203.0.113.5"),
        (("2001:db8::5",), "[2001:db8::5]"),
    ],
)
def test_a_certificate_has_the_name(tmp_path: Path, names: tuple[str, ...], host: str) -> None:
    api = certified(tmp_path, *names)
    assert reachable_at(config(api), "https://0.0.0.0:1234") == (f"https://{host}:1234", False)


def test_without_a_certificate_the_listening_address_is_a_guess() -> None:
    found = reachable_at(config(ApiConfig()), "http://192.0.2.7:8080")
    assert found == ("http://192.0.2.7:8080", False)


@pytest.mark.parametrize("listens", ["http://0.0.0.0:81", "http://[::]:81"])
def test_a_wildcard_address_is_replaced_by_the_host_name(listens: str) -> None:
    assert reachable_at(config(ApiConfig()), listens) == (f"http://{platform.node()}:81", False)


@pytest.mark.parametrize("content", ["", "nonsense"])
def test_an_invalid_certificate_is_ignored(tmp_path: Path, content: str) -> None:
    path = tmp_path / "cert.pem"
    path.write_text(content)
    api = ApiConfig(ssl=Ssl(True, str(path), str(path)))
    assert reachable_at(config(api), "https://127.0.0.1:81") == ("https://127.0.0.1:81", False)


# The JSON that programs get is what wingsctl(1) says it is


MANUAL = Path(__file__).parent.parent.parent / "man" / "wingsctl.1"


def documented() -> set[str]:
    """Return the words that the manual's section on JSON sets as literals."""
    section = MANUAL.read_text().partition("\n.Sh JSON\n")[2].partition("\n.Sh ")[0]
    lines = re.findall(r"^\.(?:Li|Pq Li) (.*)", section, re.M)
    return {word for line in lines for word in re.findall(r"\w+", line)}


def keys(told: Any) -> Iterator[str]:
    if isinstance(told, dict):
        for key, value in told.items():
            yield key
            yield from keys(value)
    elif isinstance(told, list):
        for each in told:
            yield from keys(each)


async def test_every_key_is_documented(operator: Operator) -> None:
    operator.nodes.source.servers.loaded = True
    store = operator.nodes.source.store
    store.end(2.0, store.begin(1.0, UUID, Direction.IN, "SWAP"), Outcome.SUCCESS)
    store.begin(3.0, UUID, Direction.OUT, "SEND")
    store.add_report(4.0, UUID, Outcome.FAILURE)
    other = "11111111-6e2b-4c43-9d57-0c4c5e1c7f10"
    invited = await operator.ask("POST", "receive", {"server": other})
    assert {*keys(invited)} <= documented()
    for path in ("status", "top", "diagnostics", "transfers", f"transfers/{UUID}"):
        found = {*keys(await operator.ask("GET", path))}
        assert found, path
        assert found <= documented(), path
