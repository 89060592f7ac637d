"""`/api/pair`: calls of the source of a pair; see docs/protocol.md."""

from __future__ import annotations

from typing import Annotated, ClassVar

import attrs

from wingsd import __version__
from wingsd.api.node import machine
from wingsd.api.resource import Endpoint
from wingsd.direct_transfers.pairs import PairTerms, terms_of
from wingsd.docker.container import check_mounts
from wingsd.errors import BadRequest, ServersNotLoaded, WingsdError
from wingsd.http.operations import Access, Topic, call
from wingsd.node.figures import used_ports
from wingsd.panel.schemas import Mount
from wingsd.util.serialization import Keywords
from wingsd.util.text import canonical_uuid

#: Entries of each list that is asked about.
MOST = 10_000

Names = Annotated[tuple[str, ...], Keywords(maxItems=MOST)]


@attrs.frozen(eq=False, repr=False)
class PairQuestion:
    """The questions of the source of a pair about the destination."""

    name: Annotated[str, "How the source calls itself."] = ""
    images: Annotated[Names, "Images of containers."] = ()
    ports: Annotated[Names, "Addresses of servers, as `IP:PORT`."] = ()
    mounts: Annotated[Names, "Directories of the machine that servers need."] = ()
    servers: Annotated[Names, "UUIDs of servers."] = ()


@attrs.frozen(eq=False, repr=False)
class PairFacts:
    """The destination of a pair, and which of the things that were asked about it has."""

    name: Annotated[str, "The name that the destination has for the pair."]
    uuid: Annotated[str, "The node's UUID, which its Panel has given it."]
    version: str
    architecture: str
    kernel: str
    cpus: int
    memory_bytes: int
    disk_bytes: Annotated[int, "The size of the file system of servers."]
    free_bytes: Annotated[
        int, "What is free on it beside the reserve and what other moves will bring."
    ]
    pair: PairTerms
    maintenance: Annotated[bool, "Whether it takes no servers now."]
    starts_moved: Annotated[bool, "Whether it starts servers that ran before they moved."]
    images: Annotated[list[str], "Those that it has."]
    ports_busy: Annotated[list[str], "Those in use."]
    mounts_refused: Annotated[list[str], "Those that servers may not have there."]
    servers_here: Annotated[list[str], "Those that it has or receives, but by this pair."]
    servers_kept: Annotated[
        dict[str, int], "Those of which it keeps a copy of this pair, and its bytes."
    ]
    servers_moved: Annotated[
        list[str], "Those of which it keeps the files since they have moved to the source."
    ]


@attrs.frozen(eq=False, repr=False)
class SeedToken:
    """The token by which one seed may be begun, once."""

    token: str = attrs.field(repr=False)
    expires: float


class PairEndpoint(Endpoint):
    """`/api/pair`."""

    topic = Topic.TRANSFERS
    fails: ClassVar[tuple[int, ...]] = (401, 500)

    def authorize(self, access: Access) -> None:
        """Check the key. Raises `Unauthorized`."""
        self._pair = self._node.pairs.authorize(self._request.header("Authorization"))

    @call(200, "The facts.")
    async def get_pair_facts(self, body: PairQuestion) -> PairFacts:
        """Return facts of this node that a plan of moves to it needs, and the pair's limits."""
        node, use, config = self._node, self._pair, self._config
        if max(map(len, (body.images, body.ports, body.mounts, body.servers))) > MOST:
            raise BadRequest("too much is asked at once", f"{MOST} entries of each list at most")
        await node.pairs.note_use(use, body.name)
        await use.refresh()
        kept = {
            each.server: each.bytes
            for each in await node.long.run(node.partial_copies.kept)
            if each.pair == use.record.identity
        }
        total, free = await node.long.run(node.partial_copies.free)
        mounts = tuple(Mount(each, "/") for each in body.mounts)
        found = await node.workers.run(machine)
        return PairFacts(
            name=use.record.name,
            uuid=config.uuid,
            version=__version__,
            architecture=found.architecture,
            kernel=found.kernel_version,
            cpus=found.cpu_threads,
            memory_bytes=found.memory_bytes,
            disk_bytes=total,
            free_bytes=free,
            pair=terms_of(use),
            maintenance=node.receiver.maintenance is not None,
            starts_moved=config.system.transfers.live.start,
            images=await self._images(body.images),
            ports_busy=await self._busy(body.ports),
            mounts_refused=await node.disk.run(_refused, config.allowed_mounts, mounts),
            servers_here=await self._here(body.servers),
            servers_kept={each: kept[each] for each in body.servers if each in kept},
            servers_moved=[each for each in body.servers if await self._is_moved(each)],
        )

    async def _is_moved(self, server: str) -> bool:
        uuid = canonical_uuid(server)
        if uuid is None:
            return False
        return await self._node.pairs.moved_to(self._pair, uuid) is not None

    async def _images(self, names: tuple[str, ...]) -> list[str]:
        """Return the images that the engine has; all on a node without one."""
        engine = self._node.engine
        if engine is None or not names:
            return list(names)
        known = await engine.images()
        return [each for each in names if _tagged(each) in known]

    async def _busy(self, addresses: tuple[str, ...]) -> list[str]:
        """Return the addresses that a new server could not have. Raises `BadRequest`."""
        pairs = [(each, *each.rpartition(":")[::2]) for each in addresses]
        ips = {ip for _, ip, _ in pairs}
        if not ips:
            return []
        try:
            servers = {
                server.uuid: server.configuration.settings.allocations
                for server in self._node.servers.all()
            }
        except ServersNotLoaded:
            servers = {}
        config = self._config
        found = await self._node.workers.run(used_ports, config, ips, servers)
        busy = {(ip, str(each.port)) for ip, ports in found.items() for each in ports}
        return [each for each, ip, port in pairs if (ip, port) in busy]

    async def _here(self, servers: tuple[str, ...]) -> list[str]:
        """Return the servers of which no seed may be begun by the pair."""
        node, own, here = self._node, self._pair.record.identity, []
        for uuid in filter(None, map(canonical_uuid, servers)):
            found = node.receiver.find(uuid)
            if found is not None and not found.has_failed:
                if found.coordinator.pair_identity != own:
                    here.append(uuid)
                continue
            try:
                await node.direct_transfers.check_absent(uuid)
            except WingsdError:
                here.append(uuid)
        return here


def _tagged(image: str) -> str:
    """Return the name of an image as the engine has it; a ~ says that it is never pulled."""
    name = image.removeprefix("~").removeprefix("docker.io/").removeprefix("library/")
    return name if ":" in name.rpartition("/")[2] or "@" in name else f"{name}:latest"


def _refused(allowed: tuple[str, ...], mounts: tuple[Mount, ...]) -> list[str]:
    """Return the sources of mounts that servers may not have. Blocking."""
    refused = []
    for mount in mounts:
        try:
            _, found = check_mounts(allowed, [mount])
        except WingsdError:
            found = [mount]
        if found:
            refused.append(mount.source)
    return refused


class PairSeedEndpoint(PairEndpoint):
    """`/api/pair/seeds/{uuid}`."""

    @call(201, "It may be begun.", fails=(404, 409, 507))
    async def admit_pair_seed(self) -> SeedToken:
        """Admit the seed of a server: return a token by which a move with `follow` may be begun.

        Such a move is neither prepared nor committed.
        """
        server, pairs = self.uuid, self._node.pairs
        await pairs.note_use(self._pair, "")
        invitation = await pairs.invite(self._pair, server)
        return SeedToken(invitation.token, invitation.expires)
