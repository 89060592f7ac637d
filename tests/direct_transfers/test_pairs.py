"""Pairs of nodes: the seeds that come by them, and what a stolen key can do."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path
from threading import Event
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred

from tests.direct_transfers import seeding
from tests.direct_transfers.seeding import (
    OrderingPanel,
    copy,
    figures,
    follows,
    is_used_as_ever,
    kept,
    nodes,
    order,
    quick,
    received,
    write,
)
from tests.support.node_in_process import NodeInProcess, NodePair
from tests.support.reactor import reactor, until
from tests.support.sample_server import UUID
from wingsd.direct_transfers import pairs as pairs_module
from wingsd.direct_transfers import wanted_seeds
from wingsd.direct_transfers.pair_use import PairUse
from wingsd.errors import (
    DestinationRefused,
    PairInvalid,
    PairNotFound,
    ServerNotFound,
    StorageError,
)
from wingsd.moves import recording
from wingsd.statedb import Direction
from wingsd.transfers.peer.client import PeerClient
from wingsd.util.retry import Backoff

__all__ = ["nodes", "quick"]

OTHER = "11111111-6e2b-4c43-9d57-0c4c5e1c7f10"
ENOUGH = 1 << 30


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wanted_seeds, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(wanted_seeds, "PAUSES", Backoff(0.05, 0.2))


async def paired(
    nodes: NodePair, size: int = ENOUGH, servers: int = 10, days: int = 30
) -> tuple[str, str]:
    """Make a pair; return the source's name for it, and the key."""
    nodes.source.panel.known[UUID] = nodes.configuration
    nodes.source.servers.loaded = True
    _, key = await nodes.destination.pairs.create("source", days, size, servers)
    record = await nodes.source.pairs.accept(nodes.destination.url, key, "node-a")
    return record.name, key


async def seed(nodes: NodePair, **limits: int) -> str:
    """Send the first rounds of a seed by a pair; return the source's name for the pair."""
    name, _ = await paired(nodes, **limits)
    await nodes.source.wanted_seeds.want(name, [UUID], 4)
    await until(lambda: figures(nodes).rounds > 0)
    return name


def use(nodes: NodePair) -> PairUse:
    return nodes.destination.pairs.receiving["source"]


async def ended_at_the_source(nodes: NodePair) -> None:
    """Return when the source knows that its pair has ended, and tries no more."""
    wanted = nodes.source.wanted_seeds
    await until(lambda: wanted.wanted == {} and nodes.source.pairs.sending == {})
    assert (nodes.source.store.wanted_seeds(), nodes.source.store.pairs()) == ([], [])
    assert "the pair of the two nodes was revoked" in nodes.source.reason
    assert is_used_as_ever(nodes)


class Thief:
    """Somebody who has the key of a pair, and no more."""

    def __init__(self, node: NodeInProcess, key: str) -> None:
        self._node, self._key = node, key

    async def ask(self, method: str, path: str, content: object = None, key: str = "") -> Any:
        url = f"{self._node.url}/api/{path}"
        client = PeerClient(url, f"Bearer {key or self._key}", reactor, "")
        return (await client.ask(method, json.dumps(content or {}).encode())).fields

    async def refusal(self, *request: Any) -> tuple[int, str]:
        with pytest.raises(DestinationRefused) as caught:
            await self.ask(*request)
        return caught.value.response_status, caught.value.answer_code

    async def token(self, server: str) -> str:
        return str((await self.ask("PUT", f"pair/seeds/{server}"))["token"])


def begin(**options: Any) -> dict[str, Any]:
    return {"version": 2, "key": "ab" * 32, "follow": True} | options


@pytest.mark.promise("pair-only-brings-copies")
async def test_a_copy_follows_its_server_by_a_pair_and_a_transfer_adopts_it(
    nodes: NodePair,
) -> None:
    panel = OrderingPanel(nodes)
    await seed(nodes)
    assert is_used_as_ever(nodes)
    assert not nodes.destination.knows_server
    await follows(nodes, "new")
    assert use(nodes).servers == {UUID}
    assert use(nodes).record.peer == "node-a"
    order(nodes, nodes.destination)
    await panel.see_moved()
    assert nodes.arrived()
    assert nodes.destination.environment.running == {}
    server = nodes.source.servers.get(UUID)
    await until(lambda: server.disowned)
    await until(lambda: nodes.source.wanted_seeds.wanted == {})
    await use(nodes).refresh()
    assert not use(nodes).servers


@pytest.mark.parametrize("end", ["source", "destination"])
async def test_it_goes_on_after_a_restart_and_is_still_of_the_pair(
    nodes: NodePair, end: str
) -> None:
    name = await seed(nodes)
    node = await nodes.restart(end)
    if end == "source":
        node.servers.get_or_add(nodes.configuration)
        node.servers.loaded = True
    await node.recover()
    await follows(nodes, "after")
    assert use(nodes).servers == {UUID}
    assert nodes.source.sender.seeds_by(name) == [UUID]
    await node.wanted_seeds.load()
    await until(lambda: received(nodes).record.pair == use(nodes).record.identity)


@pytest.mark.promise("pair-only-brings-copies")
async def test_a_key_places_and_starts_nothing(nodes: NodePair) -> None:
    _, key = await paired(nodes)
    thief = Thief(nodes.destination, key)
    token = await thief.token(UUID)
    move = f"transfers/{UUID}/move"
    for options in ({"follow": False}, {"backups": [_backup()]}):
        with pytest.raises(DestinationRefused) as caught:
            await thief.ask("POST", move, begin(**options), token)
        assert caught.value.answer_code in ("pair-places-nothing", "move-request-invalid")
    begun = await thief.ask("POST", move, begin(), token)
    one = f"{move}/{begun['id']}"
    key_of_move = "ab" * 32
    commit = {"round": 1, "root": "00" * 32, "running": True}
    for path, content in ((f"{one}/prepare", {}), (f"{one}/commit?session=x", commit)):
        with pytest.raises(DestinationRefused) as caught:
            await thief.ask("POST", path, content, key_of_move)
        assert (caught.value.response_status, caught.value.answer_code) == (
            403,
            "pair-places-nothing",
        )
    assert not nodes.destination.knows_server
    assert nodes.destination.environment.containers == {}
    assert nodes.destination.panel.calls == []


@pytest.mark.promise("pair-only-brings-copies")
async def test_a_key_opens_nothing_else(nodes: NodePair) -> None:
    _, key = await paired(nodes)
    thief = Thief(nodes.destination, key)
    for request in (
        ("POST", "servers"),
        ("POST", f"transfers/{UUID}/move", begin()),
        ("PUT", f"transfers/{UUID}/by-hand"),
        ("DELETE", f"transfers/{UUID}"),
    ):
        assert (await thief.refusal(*request))[0] in (401, 403)
    assert await thief.refusal("POST", "pair", {}, "cd" * 32) == (401, "pair-invalid")


@pytest.mark.promise("pair-only-brings-copies")
async def test_a_server_that_is_here_or_arrives_otherwise_is_refused(nodes: NodePair) -> None:
    _, key = await paired(nodes)
    thief = Thief(nodes.destination, key)
    (nodes.destination.data / OTHER).mkdir(parents=True)
    assert await thief.refusal("PUT", f"pair/seeds/{OTHER}") == (409, "server-already-exists")
    await nodes.destination.invite()  # by the operator, which stays valid
    assert await thief.refusal("PUT", f"pair/seeds/{UUID}") == (409, "server-already-exists")
    assert UUID in nodes.destination.direct_transfers.expected
    await seeding.begin(nodes)
    assert await thief.refusal("PUT", f"pair/seeds/{UUID}") == (409, "server-already-exists")
    facts = await thief.ask("POST", "pair", {"servers": [UUID, OTHER]})
    assert facts["servers_here"] == [UUID, OTHER]
    await follows(nodes, "new")


@pytest.mark.promise("pair-keeps-its-limits")
async def test_a_pair_brings_no_more_bytes_than_it_may(nodes: NodePair) -> None:
    """The files have 128,000 bytes, and count with 4 KiB each beside."""
    name, _ = await paired(nodes, size=100_000)
    await nodes.source.wanted_seeds.want(name, [UUID], 4)
    await until(lambda: "the pair may bring no more here" in figures(nodes).trouble)
    assert use(nodes).bytes <= 100_000 + 128_000
    assert use(nodes).room(OTHER) <= 100_000
    level = copy(nodes) / "world" / "level.dat"
    assert not level.exists() or level.stat().st_blocks == 0


@pytest.mark.promise("pair-keeps-its-limits")
async def test_kept_copies_count_to_its_limits(nodes: NodePair) -> None:
    name = await seed(nodes, size=200_000, servers=1)
    await nodes.source.wanted_seeds.end(UUID)
    await nodes.settled()
    assert kept(nodes) == [UUID]
    await until(lambda: use(nodes).seeds == ())
    facts = await nodes.source.pairs.facts(name, {"servers": [UUID]})
    assert facts["pair"]["used_servers"] == 1
    assert facts["servers_kept"][UUID] == facts["pair"]["used_bytes"] > 128_000
    with pytest.raises(DestinationRefused) as caught:
        await nodes.source.pairs.begin_seed(name, OTHER)
    assert caught.value.answer_code == "pair-limit-reached"
    # The same server goes on with what is there.
    await nodes.source.wanted_seeds.want(name, [UUID], 4)
    await until(lambda: figures(nodes).rounds > 0)


@pytest.mark.promise("pair-only-brings-copies")
async def test_it_goes_on_with_no_copy_that_it_has_not_brought(nodes: NodePair) -> None:
    await seeding.begin(nodes)
    nodes.source.sender.cancel(UUID)
    await nodes.settled()
    assert kept(nodes) == [UUID]
    _, key = await paired(nodes)
    thief = Thief(nodes.destination, key)
    begun = await thief.ask("POST", f"transfers/{UUID}/move", begin(), await thief.token(UUID))
    path = f"transfers/{UUID}/move/{begun['id']}/resume"
    session = await thief.ask("POST", path, {}, "ab" * 32)
    assert (session["bytes"], session["file"]) == (0, 0)
    assert kept(nodes) == [UUID]


def keep_moved(nodes: NodePair, host: str) -> Path:
    """Keep files of the server at the destination, from where it has moved to a node."""
    quarantine = nodes.destination.staging.quarantine
    quarantine.mkdir()
    place = quarantine / f"{UUID}.moved.{host}.20261201T120000.123456Z"
    shutil.copytree(nodes.source.data / UUID, place, symlinks=True)
    return place


@pytest.mark.promise("pair-only-brings-copies")
@pytest.mark.parametrize("host", ["node-a", "node-a.example.com"])
async def test_what_is_kept_of_a_server_that_comes_back_is_not_sent_again(
    nodes: NodePair, host: str
) -> None:
    panel = OrderingPanel(nodes)
    place = keep_moved(nodes, host)
    write(nodes, "since")
    comes_back = host == "node-a"
    name, _ = await paired(nodes)
    facts = await nodes.source.pairs.facts(name, {"servers": [UUID, OTHER]})
    assert facts["servers_moved"] == ([UUID] if comes_back else [])
    await nodes.source.wanted_seeds.want(name, [UUID], 4)
    await until(lambda: figures(nodes).rounds > 0)
    assert place.exists() is not comes_back
    arrived = received(nodes).inbox.arrived
    assert arrived < 1000 if comes_back else arrived > 128_000
    await use(nodes).refresh()
    assert use(nodes).servers == {UUID}
    order(nodes, nodes.destination)
    await panel.see_moved()
    assert nodes.arrived()


async def test_what_cannot_be_read_of_it_is_sent_again(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    OrderingPanel(nodes)
    place = keep_moved(nodes, "node-a")
    monkeypatch.setattr(recording, "plan", _broken)
    await seed(nodes)
    assert place.exists()
    assert received(nodes).inbox.arrived == 128_000


def _broken(*_: Any, **__: Any) -> None:
    raise StorageError("the disk is broken")


async def test_a_source_asks_again_while_what_is_kept_is_being_read(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_moved(nodes, "node-a")
    copies, read = nodes.destination.partial_copies, Event()
    keep = copies.keep_directory

    def slowly(*of: Any, **more: Any) -> None:
        read.wait()
        keep(*of, **more)

    monkeypatch.setattr(copies, "keep_directory", slowly)
    monkeypatch.setattr(pairs_module, "RECORDED_WITHIN", 0.05)
    name, _ = await paired(nodes)
    await nodes.source.wanted_seeds.want(name, [UUID], 4)
    await until(lambda: "are being read" in nodes.source.wanted_seeds.trouble(UUID))
    assert figures(nodes).rounds == 0
    read.set()
    await until(lambda: figures(nodes).rounds > 0)
    assert received(nodes).inbox.arrived == 0
    assert nodes.source.wanted_seeds.trouble(UUID) == ""


@pytest.mark.promise("pair-keeps-its-limits")
async def test_revoking_it_ends_its_seeds_and_removes_its_copies(nodes: NodePair) -> None:
    await seed(nodes)
    await nodes.destination.pairs.revoke("source")
    assert nodes.destination.left() == []
    assert nodes.destination.store.pairs() == []
    await ended_at_the_source(nodes)
    with pytest.raises(PairNotFound):
        await nodes.destination.pairs.revoke("source")


@pytest.mark.promise("pair-keeps-its-limits")
async def test_one_that_has_expired_ends_and_its_copies_are_kept(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await seed(nodes)
    pairs = nodes.destination.pairs
    now = pairs._now() + 31 * 24 * 3600
    monkeypatch.setattr(pairs, "_now", lambda: now)
    with pytest.raises(DestinationRefused):
        await nodes.source.pairs.facts(name, {})
    await pairs._end_expired()
    assert pairs.receiving == {}
    assert kept(nodes) == [UUID]
    # Another one with its name may not go on with them.
    await nodes.source.pairs.revoke(name)
    name, _ = await paired(nodes)
    facts = await nodes.source.pairs.facts(name, {"servers": [UUID]})
    assert (facts["pair"]["used_servers"], facts["servers_kept"]) == (0, {})
    assert kept(nodes) == [UUID]


@pytest.mark.promise("pair-keeps-its-limits")
async def test_one_that_is_gone_after_a_restart_ends_its_seeds_and_the_node_starts(
    nodes: NodePair,
) -> None:
    """A daemon may end when the pair is removed already, and a seed of it still recorded."""
    await seed(nodes)
    node = await nodes.restart("destination")
    node.store.delete_pair(Direction.IN, "source")
    await node.recover()
    await until(lambda: node.entries() == [("in", "failure")])
    await ended_at_the_source(nodes)
    assert node.left() == []


@pytest.mark.promise("pair-keeps-its-limits")
async def test_a_token_begins_nothing_once_its_pair_has_ended(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, key = await paired(nodes)
    pairs, direct = nodes.destination.pairs, nodes.destination.direct_transfers
    thief = Thief(nodes.destination, key)
    beginning = ("POST", f"transfers/{UUID}/move", begin(), await thief.token(UUID))
    now = pairs._now() + 31 * 24 * 3600
    with monkeypatch.context() as patched:  # before it is noticed
        patched.setattr(direct, "_now", lambda: now)
        assert await thief.refusal(*beginning) == (401, "pair-invalid")
    monkeypatch.setattr(pairs, "_now", lambda: now)
    await pairs._end_expired()
    assert direct.expected == {}
    assert await thief.refusal(*beginning) == (401, "token-invalid")


@pytest.mark.promise("pair-keeps-its-limits")
async def test_one_that_is_revoked_meanwhile_gives_no_token(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await paired(nodes)
    pairs, direct = nodes.destination.pairs, nodes.destination.direct_transfers
    revoked, check_absent = Deferred[None](), direct.check_absent

    async def check(server: str) -> None:
        await revoked
        await check_absent(server)

    monkeypatch.setattr(direct, "check_absent", check)
    inviting = Deferred.fromCoroutine(pairs.invite(use(nodes), UUID))
    await pairs.revoke("source")
    revoked.callback(None)
    with pytest.raises(PairInvalid):
        await inviting
    assert direct.expected == {}


@pytest.mark.promise("pair-keeps-its-limits")
async def test_a_key_gets_no_more_tokens_at_a_time_than_the_pair_has_servers(
    nodes: NodePair,
) -> None:
    _, key = await paired(nodes, servers=1)
    thief, direct = Thief(nodes.destination, key), nodes.destination.direct_transfers
    for _ in range(2):
        await thief.token(UUID)
    assert await thief.refusal("PUT", f"pair/seeds/{OTHER}") == (507, "pair-limit-reached")
    assert (list(direct.expected), direct._issued) == ([UUID], {})


async def test_the_source_ends_a_pair(nodes: NodePair) -> None:
    name = await seed(nodes)
    (key,) = (nodes.source.directory / "pairs").iterdir()
    await nodes.source.wanted_seeds.end_all(name)
    await nodes.source.pairs.revoke(name)
    await nodes.settled()
    assert not key.exists()
    assert kept(nodes) == [UUID]
    with pytest.raises(PairNotFound):
        await nodes.source.wanted_seeds.want(name, [UUID], 4)


@pytest.mark.promise("pair-only-brings-copies")
async def test_the_key_is_in_a_file_of_its_own_and_nowhere_else(nodes: NodePair) -> None:
    name, key = await paired(nodes)
    (path,) = (nodes.source.directory / "pairs").iterdir()
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == (key, 0o600)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    for node in (nodes.source, nodes.destination):
        connection = node.store._connection
        assert connection is not None
        assert key not in "\n".join(connection.iterdump())
        assert all(key.encode() not in each for each in _files(node.directory, path))
    (record,) = nodes.source.store.pairs()
    assert (record.name, record.direction) == (name, Direction.OUT)


@pytest.mark.parametrize("at_once", [2])
async def test_small_servers_come_first_and_so_many_at_once(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    name, _ = await paired(nodes)
    begun: list[str] = []
    ends = [Deferred[None]() for _ in range(3)]

    async def begin_seed(pair: str, server: str) -> None:
        begun.append(server)
        await ends[len(begun) - 1]

    monkeypatch.setattr(nodes.source.pairs, "begin_seed", begin_seed)
    monkeypatch.setattr(wanted_seeds, "PAUSES", Backoff(3600, 3600))
    # One that waits for another is not waited for as long as one that has nothing to do.
    monkeypatch.setattr(wanted_seeds, "LOOK_EVERY", 3600)
    monkeypatch.setattr(wanted_seeds, "LOOK_SOON", 0.02)
    known = nodes.configuration.settings
    for number, size in enumerate((300, 100, 200)):
        uuid = f"{number}{OTHER[1:]}"
        found = attrs.evolve(nodes.configuration, settings=attrs.evolve(known, uuid=uuid))
        (nodes.source.data / uuid).mkdir()
        (nodes.source.data / uuid / "file").write_bytes(bytes(size))
        server = nodes.source.servers.get_or_add(found)
        await server.files.measured()
    wanted = [f"{number}{OTHER[1:]}" for number in range(3)]
    await nodes.source.wanted_seeds.want(name, wanted, at_once)
    for ended, end in enumerate(ends):
        await until(lambda ended=ended: len(begun) >= min(ended + at_once, 3))  # type: ignore[misc]
        assert len(begun) == min(ended + at_once, 3)
        end.callback(None)
    assert [each[0] for each in begun] == ["1", "2", "0"]


@pytest.mark.parametrize("revokes", [False, True])
async def test_a_copy_that_is_ended_while_it_is_being_begun_does_not_follow(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch, *, revokes: bool
) -> None:
    name, _ = await paired(nodes)
    pairs, wanted = nodes.source.pairs, nodes.source.wanted_seeds
    ask, asked, ended = pairs._ask, Deferred[None](), Deferred[None]()

    async def slowly(*question: Any) -> dict[str, Any]:
        answer = await ask(*question)
        asked.callback(None)
        await ended
        return answer

    monkeypatch.setattr(pairs, "_ask", slowly)
    await wanted.want(name, [UUID], 4)
    await asked
    attempt = wanted._attempts[UUID]
    await wanted.end_all(name)
    if revokes:
        await pairs.revoke(name)
    ended.callback(None)
    await until(lambda: not attempt.is_beginning)
    await nodes.settled()
    assert nodes.source.sender.seeds_by(name) == []


async def test_no_copy_is_wanted_of_a_server_that_is_not_here(nodes: NodePair) -> None:
    name, _ = await paired(nodes)
    with pytest.raises(ServerNotFound):
        await nodes.source.wanted_seeds.want(name, [UUID, OTHER], 4)
    assert nodes.source.wanted_seeds.wanted == {}
    with pytest.raises(ServerNotFound):
        await nodes.source.wanted_seeds.end(OTHER)


def _backup() -> dict[str, Any]:
    uuid = "22222222-6e2b-4c43-9d57-0c4c5e1c7f10"
    return {"uuid": uuid, "path": f"{uuid}.tar.gz", "bytes": 5}


def _files(directory: Path, but: Path) -> list[bytes]:
    return [each.read_bytes() for each in directory.rglob("*") if each.is_file() and each != but]
