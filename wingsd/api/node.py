"""Calls about the node itself: its machine, engine, figures, logs and settings."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import attrs
from twisted.logger import Logger

from wingsd.api.resource import Endpoint
from wingsd.config import Config, read_yaml, version_for
from wingsd.config_file.updates import NodeSettings
from wingsd.docker.runtime import DockerInformation, EngineDisk
from wingsd.errors import (
    BadRequest,
    BodyTooLarge,
    Conflict,
    EngineUnavailable,
    EnvironmentFailed,
    InvalidData,
    LogFileNotFound,
    WingsdError,
)
from wingsd.http.operations import Call, PlainText, Topic, call
from wingsd.node.diagnostics import ReportOptions
from wingsd.node.figures import DiskDetails, UsedPort, host_addresses, used_ports
from wingsd.node.logs import MAX_LINES, LogUnavailable, StoredLog, read_log, stored_logs
from wingsd.node.redaction import Redaction
from wingsd.servers import PowerState
from wingsd.util.media import decode
from wingsd.util.serialization import Amount, Keywords, unknown_keys

if TYPE_CHECKING:
    from wingsd.node.engine import NodeEngine

#: Seconds to wait for the engine: a Panel waits for 15 in all.
ENGINE_PATIENCE = 5.0

Number = Annotated[int, Keywords(minimum=1)]

# Panels expect the names of Go.
_ARCHITECTURES = {
    "x86_64": "amd64",
    "i386": "386",
    "i686": "386",
    "aarch64": "arm64",
    "armv6l": "arm",
    "armv7l": "arm",
}


@attrs.frozen(eq=False, repr=False)
class SystemInformation:
    """The machine, in version 1."""

    architecture: str
    cpu_count: Number
    kernel_version: str
    os: Annotated[str, "The kernel's name."]
    version: Annotated[str, "Of wingsd; `develop` with Pelican, with Calagopus the last release."]


@attrs.frozen(eq=False, repr=False)
class Machine:
    """The machine."""

    architecture: str
    cpu_threads: Number
    memory_bytes: Number
    kernel_version: str
    os: Annotated[str, "The distribution's name."]
    os_type: Annotated[str, "The kernel's name."]


@attrs.frozen(eq=False, repr=False)
class SystemAndEngine:
    """The machine and its Docker engine, in version 2."""

    version: Annotated[str, "Of wingsd; `develop` with Pelican, with Calagopus the last release."]
    system: Machine
    docker: Annotated[DockerInformation | None, "When an engine is used and answers."] = None


@attrs.frozen(eq=False, repr=False)
class SystemQuery:
    """The version of the answer."""

    v: Annotated[str, "`2` for the longer answer, with the Docker engine."] = ""


def _timed_out(_: object, seconds: float) -> NoReturn:
    raise EnvironmentFailed(f"the Docker engine gives no information within {seconds:g} s")


def machine() -> Machine:
    """Return the machine that this node runs on."""
    name = platform.machine()
    return Machine(
        architecture=_ARCHITECTURES.get(name, name),
        cpu_threads=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        kernel_version=platform.release(),
        os=_distribution(),
        os_type=sys.platform,
    )


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.system()


#: The name under which the daemon's own log is listed, wherever it is written.
OWN_LOG = "wingsd.log"
#: Lines of a file in an answer at most.
MOST_LINES = 10_000


@attrs.frozen(eq=False, repr=False)
class LogFiles:
    """The log files, the oldest first."""

    log_files: list[StoredLog]


@attrs.frozen(eq=False, repr=False)
class LogFileQuery:
    """How many lines to return. A string, so that the handler words the error."""

    lines: Annotated[str, f"The number of last lines; {MOST_LINES} at most, and by default."] = ""


def _at_most(most: int, name: str, text: str, unit: str = "") -> int:
    if not (text.isascii() and text.isdigit()):
        raise BadRequest(f"{name} must be a whole number", f"0 to {most}{unit}")
    # The digits are bounded before the number is made.
    return min(int(text[:9]), most)


#: Bytes of a node's settings; those of a Panel are some KiB. To change a file of YAML takes 0.3 ms
#: for each value of a list.
MAX_SETTINGS = 64 << 10


@attrs.frozen(eq=False, repr=False)
class Update:
    """The result of a change of settings by the Panel."""

    applied: Annotated[bool, "False where `ignore_panel_config_updates` is true."]
    restart: Annotated[
        list[str] | None, "Changed keys whose values are used from the next restart on."
    ] = None


class UpdateEndpoint(Endpoint):
    """`/api/update`."""

    topic = Topic.NODE

    async def handle(self, call: Call) -> None:
        """Run the call, and put the settings in force when it is answered.

        Panels compare the answer with the node's old `token_id`. Raises `Unauthorized`,
        `Forbidden`.
        """
        await super().handle(call)
        self._node.updates.apply()

    @call(200, "The settings are saved, unless `applied` is false.", fails=(409, 422, 500))
    async def update_settings(self, body: NodeSettings) -> Update:
        """Save the node's settings in its configuration file, and put them in force.

        Directories and all other keys that are not described here are not taken over, and named in
        the log. Nodes of Calagopus take over `app_name`, `allowed_origins`,
        `allow_cors_private_network` and `ignore_panel_config_updates`, the others `uuid`,
        `token_id`, `token`, `remote` and `allowed_mounts`. Of `api.ssl`, paths below
        `/etc/letsencrypt/live/` do not replace the node's own. The log and the answer
        name the changes that need a restart. When a value is invalid nothing is changed.
        """
        content = self._request.content.getvalue()
        if len(content) > MAX_SETTINGS:
            raise BodyTooLarge(MAX_SETTINGS)
        sent = decode(content, self._request.media)
        waiting = await self._node.updates.save(body, unknown_keys(sent, NodeSettings))
        return Update(applied=waiting is not None, restart=list(waiting or ()) or None)


# PHP sends a boolean as a digit.
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


@attrs.frozen(eq=False, repr=False)
class DiagnosticsQuery:
    """The parts of the report. Strings, so that the handler words the error."""

    include_endpoints: Annotated[str, "`true` to show hosts and addresses."] = "false"
    include_logs: Annotated[str, "`false` to leave out the log."] = "true"
    log_lines: Annotated[str, f"The lines of the log; {MAX_LINES} at most."] = "200"


def report_options(query: DiagnosticsQuery) -> ReportOptions:
    """Return the options that a query asks for. Raises `BadRequest`."""
    endpoints = _boolean("include_endpoints", query.include_endpoints)
    logs = _boolean("include_logs", query.include_logs)
    lines = _at_most(MAX_LINES, "log_lines", query.log_lines, " lines")
    return ReportOptions(endpoints, lines if logs else None)


def _boolean(name: str, text: str) -> bool:
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise BadRequest(f"{name} must be true or false") from None


Average = Annotated[float, Keywords(minimum=0)]
Percent = Annotated[float, Keywords(minimum=0, maximum=100)]


@attrs.frozen(eq=False, repr=False)
class NodeUtilization:
    """Memory and disk of the machine, in bytes."""

    memory_total: Amount
    memory_used: Annotated[Amount, "What programs could not get."]
    swap_total: Amount
    swap_used: Amount
    load_average1: Average
    load_average5: Average
    load_average15: Average
    cpu_percent: Annotated[Percent, "Of all cores, since the last question."]
    disk_total: Annotated[Amount, "Of all disks."]
    disk_used: Amount
    disk_details: list[DiskDetails]


@attrs.frozen(eq=False, repr=False)
class IpAddresses:
    """The node's addresses, for Pelican's Panel."""

    ip_addresses: list[str]


@attrs.frozen(eq=False, repr=False)
class AssignableAddresses:
    """The node's addresses, for Calagopus' Panel."""

    ips: list[str]


def _assignable(config: Config) -> list[str]:
    docker = config.docker
    return host_addresses(docker.system_ips, without=[docker.network.bridge_name])


@attrs.frozen(eq=False, repr=False)
class PortsQuery:
    """The addresses in question."""

    ip: Annotated[
        tuple[str, ...], "Addresses of the node; those of `/api/system/ips` without."
    ] = ()


@attrs.frozen(eq=False, repr=False)
class UsedPorts:
    """The ports in use."""

    used: Annotated[dict[str, list[UsedPort]], "By the address, as in the query."]


Rate = Annotated[float, Keywords(minimum=0), "In a second."]

#: Containers of Docker and Podman have one of these.
_CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv")


@attrs.frozen(eq=False, repr=False)
class ProcessorDetails:
    """The processor."""

    name: str
    brand: str
    vendor_id: str
    frequency_mhz: Amount
    cpu_count: Amount


@attrs.frozen(eq=False, repr=False)
class MemoryDetails:
    """The memory, in bytes."""

    total_bytes: Amount
    free_bytes: Annotated[Amount, "What programs can get."]
    used_bytes: Amount
    used_bytes_process: Annotated[Amount, "By this daemon."]


@attrs.frozen(eq=False, repr=False)
class ServerNumbers:
    """The numbers of servers."""

    total: Amount
    online: Amount
    offline: Amount


@attrs.frozen(eq=False, repr=False)
class NodeOverview:
    """The node."""

    version: Annotated[str, "Of wingsd; `develop` with Pelican, with Calagopus the last release."]
    local_time: Annotated[str, Keywords(format="date-time")]
    container_type: Annotated[str, "`none`, or `unknown` where wingsd itself is in a container."]
    cpu: ProcessorDetails
    memory: MemoryDetails
    servers: ServerNumbers
    architecture: str
    kernel_version: str


@attrs.frozen(eq=False, repr=False)
class ProcessorStats:
    """The use of the processor."""

    used: Annotated[float, "Percent of all cores."]
    threads: Amount
    model: str


@attrs.frozen(eq=False, repr=False)
class NetworkStats:
    """The traffic of the machine, without that within it; bytes and packets."""

    received: Amount
    received_packets: Amount
    receiving_rate: Rate
    received_packets_rate: Rate
    sent: Amount
    sent_packets: Amount
    sending_rate: Rate
    sending_packets_rate: Rate


@attrs.frozen(eq=False, repr=False)
class MemoryStats:
    """The use of the memory, in bytes."""

    used: Amount
    used_process: Amount
    total: Amount


@attrs.frozen(eq=False, repr=False)
class DiskStats:
    """The disk with the servers' files, in bytes; what is read and written is of all disks."""

    used: Amount
    total: Amount
    read: Amount
    reading_rate: Rate
    written: Amount
    writing_rate: Rate


@attrs.frozen(eq=False, repr=False)
class MachineStats:
    """The load of the machine."""

    cpu: ProcessorStats
    network: NetworkStats
    memory: MemoryStats
    disk: DiskStats


@attrs.frozen(eq=False, repr=False)
class NodeStats:
    """The load of the machine, for Calagopus' Panel."""

    stats: MachineStats


def _written(path: str) -> dict[str, Any]:
    """Return what is in the file; nothing while it cannot be read."""
    try:
        data = read_yaml(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, InvalidData):
        return {}
    return data if isinstance(data, dict) else {}


def _merged(below: Mapping[Any, Any], above: Mapping[Any, Any]) -> dict[str, Any]:
    """Return `above` with the keys that only `below` has."""
    merged = {str(key): value for key, value in below.items()}
    for key, value in above.items():
        inner = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(inner, Mapping)
        merged[str(key)] = _merged(inner, value) if both else value  # type: ignore[arg-type]
    return merged


class NodeEndpoint(Endpoint):
    """The calls about the node itself, except the one that changes its settings."""

    topic = Topic.NODE
    _log = Logger()

    @call(200, "The node.")
    async def get_system(self, query: SystemQuery) -> SystemInformation | SystemAndEngine:
        """Return the machine that this node runs on."""
        here = machine()
        version = version_for(self._config.family)
        if query.v == "2":
            return SystemAndEngine(version, here, await self._docker())
        return SystemInformation(
            architecture=here.architecture,
            cpu_count=here.cpu_threads,
            kernel_version=here.kernel_version,
            os=here.os_type,
            version=version,
        )

    async def _docker(self) -> DockerInformation | None:
        ask = self._node.ask_engine
        if ask is None:
            return None
        try:
            return await ask().addTimeout(ENGINE_PATIENCE, self._node.reactor, _timed_out)
        except WingsdError as error:
            self._log.warn(
                "the Docker engine did not report its version and containers: {error}", error=error
            )
            return None

    @call(200, "The log files.", fails=(500,))
    async def list_log_files(self) -> LogFiles:
        """List the log files of the node.

        `wingsd.log` is the daemon's own log, also where it is in systemd's journal; its size is 0
        then.
        """
        found = await self._node.disk.run(stored_logs, self._config.system.log_directory)
        if self._node.own_log.source is not None and OWN_LOG not in [each.name for each in found]:
            found.append(StoredLog.written_at(OWN_LOG, 0, time.time()))
        return LogFiles(found)

    @call(200, "The lines.", fails=(400, 404))
    async def get_log_file(self, query: LogFileQuery) -> PlainText:
        """Return the last lines of a log file as text, without the node's secrets.

        They are of the last MiB; of a compressed file, of its first 64 MiB.
        """
        name = self._parts["file"].decode("utf-8", "surrogateescape")
        lines = _at_most(MOST_LINES, "lines", query.lines or str(MOST_LINES))
        directory = self._config.system.log_directory
        try:
            found = await self._node.disk.run(
                self._redacted, lambda: read_log(directory, name, lines)
            )
        except LogFileNotFound:
            if name != OWN_LOG or self._node.own_log.source is None:
                raise
            found = await self._own(lines)
        return PlainText("".join(f"{line}\n" for line in found))

    def _redacted(self, read: Callable[[], list[str]]) -> list[str]:
        redaction = Redaction(attrs.asdict(self._config), endpoints=True)
        return [redaction.text(line) for line in read()]

    async def _own(self, lines: int) -> list[str]:
        try:
            found = await self._node.own_log.last(min(lines, MAX_LINES))
        except LogUnavailable as error:
            raise BadRequest("the log of this node cannot be read back", str(error)) from error
        return await self._node.disk.run(self._redacted, lambda: found)

    @call(200, "The report.", fails=(400,))
    async def get_diagnostics(self, query: DiagnosticsQuery) -> PlainText:
        """Return versions, configuration, Docker's state and the last lines of the log, as text.

        Secrets are left out in any case, hosts and addresses unless they are asked for.
        """
        return PlainText(await self._node.diagnostics.report(report_options(query)))

    @call(200, "What the machine uses.", fails=(500,))
    async def get_utilization(self) -> NodeUtilization:
        """Return what the machine uses: its processor, memory and disks.

        It answers within a second. A disk that does not answer shows its last figures.
        """
        now = await self._node.figures.now()
        used = now.memory
        return NodeUtilization(
            memory_total=used.total,
            memory_used=used.used,
            swap_total=used.swap_total,
            swap_used=used.swap_used,
            load_average1=used.load[0],
            load_average5=used.load[1],
            load_average15=used.load[2],
            cpu_percent=now.rates.cpu_percent,
            disk_total=sum(disk.total_space for disk in now.disks),
            disk_used=sum(disk.used_space for disk in now.disks),
            disk_details=list(now.disks),
        )

    @call(200, "The addresses.", fails=(500,))
    async def list_addresses(self) -> IpAddresses | AssignableAddresses:
        """List the machine's IP addresses and those of `docker.system_ips`.

        Loopback and link-local addresses are left out; for Calagopus' Panel also those of Docker's
        interfaces.
        """
        if self.is_calagopus:
            return AssignableAddresses(await self._node.workers.run(_assignable, self._config))
        more = self._config.docker.system_ips
        return IpAddresses(await self._node.workers.run(host_addresses, more))

    @call(200, "The ports.", fails=(400, 500, 503))
    async def list_used_ports(self, query: PortsQuery) -> UsedPorts:
        """List the ports that a new server could not have at these addresses.

        They are those of the allocations of the node's servers, also of stopped ones, and those at
        which a program of the machine receives, by TCP or UDP.
        """
        servers = {
            server.uuid: server.configuration.settings.allocations
            for server in self._node.servers.all()
        }
        config = self._config

        def find() -> dict[str, list[UsedPort]]:
            return used_ports(config, query.ip or _assignable(config), servers)

        return UsedPorts(await self._node.workers.run(find))

    @property
    def engine(self) -> NodeEngine:
        """The engine. Raises `EngineUnavailable` on a node without one."""
        if self._node.engine is None:
            raise EngineUnavailable("docker.enabled is false in its configuration")
        return self._node.engine

    @call(200, "The sizes.", fails=(409,))
    async def get_engine_disk(self) -> EngineDisk:
        """Return what the Docker engine keeps on its disk."""
        return await self.engine.disk()

    @call(200, "What Docker says of it.", fails=(409,))
    async def prune_images(
        self,
    ) -> Annotated[dict[str, Any], "`ImagesDeleted` and `SpaceReclaimed`, in bytes."]:
        """Remove images without a name that no container uses.

        When that takes longer than a Panel waits, the answer is 409. The removal goes on, a second
        call does not begin another, and the next one after its end gets the result.
        """
        return await self.engine.prune()

    @call(200, "The node.", fails=(500, 503))
    async def get_overview(self) -> NodeOverview:
        """Return the machine, and how many servers it has."""
        states = [server.state for server in self._node.servers.all()]
        online = sum(state is not PowerState.OFFLINE for state in states)
        processor, used = await self._node.figures.processor(), await self._node.figures.memory()
        here = machine()
        inside = any(map(os.path.exists, _CONTAINER_MARKS))
        return NodeOverview(
            version=version_for(self._config.family),
            local_time=datetime.now().astimezone().isoformat(timespec="seconds"),
            container_type="unknown" if inside else "none",
            cpu=ProcessorDetails(
                name="cpu0",
                brand=processor.model,
                vendor_id=processor.vendor,
                frequency_mhz=processor.frequency,
                cpu_count=here.cpu_threads,
            ),
            memory=MemoryDetails(used.total, used.free, used.used, used.used_process),
            servers=ServerNumbers(len(states), online, len(states) - online),
            architecture=platform.machine(),
            kernel_version=here.kernel_version,
        )

    @call(200, "What the machine does.", fails=(500,))
    async def get_stats(self) -> NodeStats:
        """Return what the machine does: since its start, and in a second on average.

        Averages are since the last question.
        """
        now, processor = await self._node.figures.now(), await self._node.figures.processor()
        counted, rates, disk = now.counters, now.rates, now.data_disk
        return NodeStats(
            MachineStats(
                cpu=ProcessorStats(rates.cpu_percent, os.cpu_count() or 1, processor.model),
                network=NetworkStats(
                    received=counted.received,
                    received_packets=counted.received_packets,
                    receiving_rate=rates.received,
                    received_packets_rate=rates.received_packets,
                    sent=counted.sent,
                    sent_packets=counted.sent_packets,
                    sending_rate=rates.sent,
                    sending_packets_rate=rates.sent_packets,
                ),
                memory=MemoryStats(now.memory.used, now.memory.used_process, now.memory.total),
                disk=DiskStats(
                    used=disk.used_space if disk else 0,
                    total=disk.total_space if disk else 0,
                    read=counted.read,
                    reading_rate=rates.read,
                    written=counted.written,
                    writing_rate=rates.written,
                ),
            )
        )

    @call(200, "The configuration.")
    async def get_config(self) -> Annotated[dict[str, Any], "The keys of `config.yml`."]:
        """Return the configuration in force, and the keys of its file that are not used.

        Secrets are empty.
        """
        path = self._node.live.path
        written = await self._node.disk.run(_written, path) if path else {}
        values = _merged(written, attrs.asdict(self._node.config))
        return Redaction(values, endpoints=True).tree(values)

    @call(202, "Never given.", fails=(409,))
    async def upgrade(self) -> None:
        """Refuse to replace the daemon by a program from elsewhere, always with 409."""
        raise Conflict(
            "this node is upgraded by its package manager",
            "install the new version on the node, such as with apt upgrade wingsd",
        )
