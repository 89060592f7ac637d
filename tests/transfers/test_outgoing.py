"""The chain of an outgoing transfer: what is done, told and left at each of its ends."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, DeferredSemaphore, fail, succeed
from twisted.internet.task import deferLater
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from tests.daemon.house import UUID
from wingsd.archive import Compression, measure
from wingsd.bridge import Workers
from wingsd.errors import (
    BadRequest,
    Conflict,
    DaemonStopping,
    EnvironmentFailed,
    PanelUnreachable,
    WingsdError,
)
from wingsd.events import Event, EventBus
from wingsd.journal import Journal
from wingsd.journal.store import Store
from wingsd.model import Configuration, Settings
from wingsd.testing import SynchronousWorkers
from wingsd.transfers import sender
from wingsd.transfers.formdata import UploadForm
from wingsd.transfers.means import SendingMeans
from wingsd.transfers.outbox import Outbox
from wingsd.transfers.outgoing import MOVED, TransferOrder
from wingsd.transfers.sender import Sender
from wingsd.transfers.trust import Trust

reactor: Any = installed_reactor


class World:
    """The server, the engine and the Panel: they note what they are asked."""

    def __init__(self, directory: Path) -> None:
        self.uuid = UUID
        self.configuration = Configuration(Settings(UUID))
        self.hold = ""
        self.calls: list[str] = []
        self.told: list[str] = []
        self.faults: dict[str, WingsdError] = {}
        self.waits: dict[str, Deferred[None]] = {}
        self.owned = True
        self.disk_bytes = 0
        self._directory = directory

    async def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.faults:
            raise self.faults[name]
        await self.waits.get(name, succeed(None))

    # The server, and the node's servers

    def take(self, why: str) -> None:
        self.hold = why

    def let_go(self) -> None:
        self.hold = ""

    def disown(self, why: str) -> None:
        self.hold = why

    def renew_measure(self) -> None:
        with suppress(OSError, WingsdError):  # It is measured in the background.
            self.disk_bytes = measure(str(self._directory))

    def forget(self, uuid: str) -> None:
        self.calls.append("forget")

    async def store_away(self, uuid: str) -> None:
        self.calls.append("store away")

    async def stop_within(self, grace: float) -> None:
        await self._called("stop")

    async def restore_environment(self) -> None:
        await self._called("restore")

    def directory(self, uuid: str) -> str:
        return str(self._directory)

    # The engine

    async def remove(self, uuid: str) -> None:
        await self._called("remove")

    # The Panel

    async def owns(self, uuid: str) -> bool:
        self.told.append("owns")
        return self.owned

    async def transfer_failed(self, uuid: str) -> bool:
        self.told.append("failure")
        return True


class Destination(Resource):
    """A node that answers as it is told, and keeps what it was sent."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.features = "symlinks, hard-links"
        self.status, self.body = 200, b""
        self.drop = False
        self.waits: dict[str, Deferred[None]] = {}
        self.archives: list[bytes] = []
        self.came: dict[str, Deferred[None]] = {"OPTIONS": Deferred(), "POST": Deferred()}

    def render_OPTIONS(self, request: Any) -> bytes | int:
        request.setResponseCode(204)
        if self.features:
            request.setHeader("Transfer-Features", self.features)
        return self._answer("OPTIONS", request)

    def render_POST(self, request: Any) -> bytes | int:
        form = UploadForm(request.getHeader("Content-Type"))
        self.archives.append(b"".join(form.receive(request.content.read())))
        form.close()
        request.setResponseCode(self.status)
        request.write(self.body) if self.body else None
        return self._answer("POST", request)

    def _answer(self, method: str, request: Any) -> int:
        def finish(_: None) -> None:
            if self.drop and method == "POST":
                request.channel.forceAbortClient()
            elif not request._disconnected:
                request.finish()

        self.waits.get(method, succeed(None)).addCallback(finish)
        if not self.came[method].called:
            self.came[method].callback(None)
        return NOT_DONE_YET


class House:
    """A sender with real files, threads and sockets."""

    def __init__(self, directory: Path, pool: Workers) -> None:
        self.tree = directory / "server"
        (self.tree / "world").mkdir(parents=True)
        (self.tree / "world" / "level.dat").write_bytes(bytes(range(256)) * 500)
        (self.tree / "link").symlink_to("world/level.dat")
        self.world = World(self.tree)
        self.destination = Destination()
        self._site: Any = Site(self.destination)
        self._site.displayTracebacks = False
        self._port = reactor.listenTCP(0, self._site, interface="127.0.0.1")
        self.states: list[str] = []
        self.lines: list[str] = []
        bus = EventBus()
        bus.subscribe(UUID, self._note)
        world: Any = self.world
        self.store = Store(str(directory))
        self.store.open()
        workers: Any = SynchronousWorkers()
        journal = Journal(self.store, workers, reactor.seconds)
        self.sender = Sender(
            SendingMeans(
                reactor=reactor,
                panel=world,
                journal=journal,
                outbox=Outbox(world, journal, reactor),
                environment=world,
                servers=world,
                attic=world,
                bus=bus,
                trust=Trust(),
                compression=Compression.BEST_SPEED,
                stop_grace=60,
                stall_timeout=120,
                packers=pool,
                slots=DeferredSemaphore(2),
            )
        )

    def _note(self, event: Event) -> None:
        where = self.states if event.name == "transfer status" else self.lines
        where += event.args

    def start(self, port: int = 0) -> Deferred[None]:
        """Begin; the Deferred fires when it is over, and nothing waits any more."""
        url = f"http://127.0.0.1:{port or self._port.getHost().port}/api/transfers"
        server: Any = self.world
        self.sender.start(server, TransferOrder(url, "Bearer token"))
        return Deferred.fromCoroutine(self._over())

    async def _over(self) -> None:
        while self.sender.servers:
            await deferLater(reactor, 0.005)

    def said(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    async def close(self) -> None:
        await self._port.stopListening()
        for waiting in (*self.world.waits.values(), *self.destination.waits.values()):
            if not waiting.called:
                waiting.callback(None)
        await deferLater(reactor, 0)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    pool = Workers(reactor, "test", 4)
    pool.start()
    made = House(tmp_path, pool)
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))
    pool.stop()


def members(archive: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {member.name: member for member in tar}


@pytest_twisted.ensureDeferred
async def test_a_server_goes_through_every_step_in_order(house: House) -> None:
    await house.start()
    assert house.world.calls == ["stop", "remove"]
    assert house.states == ["pending", "processing", "success", "completed"]
    assert house.world.told == []
    assert members(house.destination.archives[0])["link"].issym()
    # What is left of it here is not to be started.
    assert house.world.hold == MOVED


@pytest_twisted.ensureDeferred
async def test_a_node_that_does_not_say_that_it_keeps_links_gets_copies(house: House) -> None:
    house.destination.features = ""
    await house.start()
    link = members(house.destination.archives[0])["link"]
    assert (link.isreg(), link.size) == (True, 128_000)


@pytest_twisted.ensureDeferred
async def test_a_refusal_reaches_the_console_and_the_panel(house: House) -> None:
    house.destination.status = 409
    house.destination.body = b'{"error": "this server is already on this node"}'
    await house.start()
    assert house.said("this server is already on this node")
    assert house.states == ["pending", "processing", "failed", "failure"]
    assert house.world.told.count("failure") == 1
    assert house.world.calls == ["stop", "remove", "restore"]
    assert house.world.hold == ""


@pytest_twisted.ensureDeferred
async def test_a_server_is_not_stopped_for_a_node_that_cannot_be_reached(house: House) -> None:
    closed = reactor.listenTCP(0, house._site, interface="127.0.0.1")
    port = closed.getHost().port
    await closed.stopListening()
    await house.start(port)
    assert house.world.calls == []
    assert house.world.told == ["failure"]
    assert house.states == ["pending", "failed", "failure"]
    assert house.world.hold == ""


@pytest_twisted.ensureDeferred
async def test_a_server_that_cannot_be_stopped_stays(house: House) -> None:
    house.world.faults["stop"] = EnvironmentFailed("the engine is away")
    await house.start()
    assert house.said("the engine is away")
    assert house.world.calls == ["stop"]
    assert (house.world.told, house.world.hold) == (["failure"], "")


@pytest_twisted.ensureDeferred
async def test_files_that_cannot_be_read_fail_it(house: House) -> None:
    house.tree.rename(house.tree.with_name("gone"))
    await house.start()
    assert house.destination.archives == []
    assert house.world.told == ["failure"]
    assert house.states[-1] == "failure"


@pytest_twisted.ensureDeferred
async def test_it_is_not_over_before_its_container_is_there_again(house: House) -> None:
    house.destination.status = 500
    house.world.waits["restore"] = Deferred()
    await house.start()
    # Nobody waits for it, but a daemon that ends now must find what it has to do.
    assert (house.states[-1], house.world.hold) == ("failure", "")
    (entry,) = house.store.transfers(unfinished=True)
    assert entry.step == "SEND"
    house.world.waits["restore"].callback(None)
    assert house.store.transfers(unfinished=True) == []


# The answer is lost


@pytest_twisted.ensureDeferred
async def test_a_success_whose_answer_got_lost_is_one(house: House) -> None:
    house.destination.drop, house.world.owned = True, False
    await house.start()
    assert house.world.told == ["owns"]
    assert house.states[-2:] == ["success", "completed"]
    assert house.said("only its answer was lost")
    assert "restore" not in house.world.calls


@pytest_twisted.ensureDeferred
async def test_a_lost_answer_without_a_success_is_a_failure(house: House) -> None:
    house.destination.drop = True
    await house.start()
    assert house.world.told == ["owns", "failure"]
    assert house.states[-2:] == ["failed", "failure"]
    assert (house.world.calls[-1], house.world.hold) == ("restore", "")


# Cancelling, and deletion


def ask(house: House) -> Deferred[None]:
    house.destination.waits["OPTIONS"] = Deferred()
    return house.destination.came["OPTIONS"]


def stop(house: House) -> Deferred[None]:
    house.world.waits["stop"] = Deferred()
    return until(lambda: "stop" in house.world.calls)


def retire(house: House) -> Deferred[None]:
    house.world.waits["remove"] = Deferred()
    return until(lambda: "remove" in house.world.calls)


def send(house: House) -> Deferred[None]:
    # Larger than all buffers on the way, to a node that reads nothing of it.
    with (house.tree / "large").open("wb") as file:
        for _ in range(24):
            file.write(os.urandom(1 << 20))
    house._site.buildProtocol = lambda address: deaf(Site.buildProtocol(house._site, address))
    return until(lambda: house.said("sending the archive"))


def deaf(protocol: Any) -> Any:
    heard = protocol.dataReceived

    def data_received(data: bytes) -> None:
        heard(data)
        if data.startswith(b"POST"):
            protocol.transport.pauseProducing()

    protocol.dataReceived = data_received
    return protocol


def answer(house: House) -> Deferred[None]:
    house.destination.waits["POST"] = Deferred()
    return house.destination.came["POST"]


def until(holds: Callable[[], bool]) -> Deferred[None]:
    async def look() -> None:
        while not holds():
            await deferLater(reactor, 0.005)

    return Deferred.fromCoroutine(look())


MOMENTS = [ask, stop, retire, send, answer]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest_twisted.ensureDeferred
async def test_a_cancel_ends_it_at_once_wherever_it_is(
    house: House, moment: Callable[[House], Deferred[None]]
) -> None:
    there = moment(house)
    over = house.start()
    await there
    house.sender.cancel(UUID)
    await over.addTimeout(2, reactor)
    assert house.states[-2:] == ["failed", "failure"]
    assert house.said("the transfer was cancelled")
    assert house.world.told.count("failure") == 1
    assert house.world.hold == ""
    with pytest.raises(Conflict) as caught:
        house.sender.cancel(UUID)
    assert caught.value.message == "Server is not currently being transferred."


@pytest.mark.parametrize("moment", MOMENTS[:-1])
@pytest_twisted.ensureDeferred
async def test_a_deletion_before_everything_is_sent_cancels_it(
    house: House, moment: Callable[[House], Deferred[None]]
) -> None:
    there = moment(house)
    over = house.start()
    await there
    await house.sender.release(UUID)
    assert house.sender.servers == ()
    assert house.world.told == ["failure"]
    await over


@pytest_twisted.ensureDeferred
async def test_a_deletion_after_that_is_the_word_of_success(house: House) -> None:
    there = answer(house)
    over = house.start()
    await there
    released = Deferred.fromCoroutine(house.sender.release(UUID))
    # At once: the Panel waits for it with its own answer to the destination.
    assert released.called
    assert house.states[-2:] == ["success", "completed"]
    with pytest.raises(Conflict):
        house.sender.cancel(UUID)
    house.destination.waits["POST"].callback(None)
    await over
    assert house.world.told == []
    assert "restore" not in house.world.calls


@pytest_twisted.ensureDeferred
async def test_an_answer_that_is_lost_after_the_deletion_changes_nothing(house: House) -> None:
    there = answer(house)
    house.destination.drop = True
    over = house.start()
    await there
    await house.sender.release(UUID)
    house.destination.waits["POST"].callback(None)
    await over
    assert house.world.told == []
    assert house.states[-1] == "completed"


@pytest.mark.parametrize("ours", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_server_that_moved_and_was_not_deleted_is_asked_about(
    house: House, ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "DELETION_WITHIN", 0.02)
    house.world.owned = ours
    await house.start()
    (entry,) = house.store.transfers(unfinished=True)
    assert entry.step == "SEND"
    await until(lambda: house.store.transfers(unfinished=True) == [])
    if ours:
        # The destination took it and is lost, or its success was not wanted.
        assert house.world.told == ["owns", "failure"]
        assert house.world.hold == ""
    else:
        assert house.world.calls[-2:] == ["forget", "store away"]


@pytest_twisted.ensureDeferred
async def test_one_that_is_deleted_later_is_done_with(house: House) -> None:
    await house.start()
    assert len(house.store.transfers(unfinished=True)) == 1
    await house.sender.release(UUID)
    assert house.store.transfers(unfinished=True) == []


# All of them


@pytest_twisted.ensureDeferred
async def test_one_server_has_one_transfer(house: House) -> None:
    there = answer(house)
    over = house.start()
    await there
    with pytest.raises(Conflict) as caught:
        house.start()
    assert caught.value.message == "A transfer is already in progress for this server."
    house.destination.waits["POST"].callback(None)
    await over


def test_an_order_without_an_address_is_refused_and_holds_nothing(house: House) -> None:
    server: Any = house.world
    with pytest.raises(BadRequest):
        house.sender.start(server, TransferOrder("nowhere", "Bearer token"))
    assert (house.world.hold, house.states) == ("", [])


@pytest_twisted.ensureDeferred
async def test_a_daemon_that_goes_gives_up_what_is_not_sent(house: House) -> None:
    there = stop(house)
    house.start()
    await there
    await house.sender.stop()
    assert house.world.told == ["failure"]
    with pytest.raises(DaemonStopping):
        house.start()


@pytest_twisted.ensureDeferred
async def test_a_daemon_that_goes_waits_for_what_is_sent(house: House) -> None:
    there = answer(house)
    house.start()
    await there
    stopped = house.sender.stop()
    assert not stopped.called
    house.destination.waits["POST"].callback(None)
    await stopped
    assert house.states[-1] == "completed"


@pytest_twisted.ensureDeferred
async def test_a_panel_that_cannot_be_told_does_not_keep_the_server(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(uuid: str) -> Deferred[bool]:
        return fail(PanelUnreachable("down", "x"))

    monkeypatch.setattr(house.world, "transfer_failed", down)
    house.world.faults["stop"] = EnvironmentFailed("the engine is away")
    await house.start()
    assert house.world.hold == ""
