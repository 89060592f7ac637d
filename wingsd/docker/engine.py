"""The Docker engine, in blocking calls: containers, images, networks, and what it says of itself.

Knows a docker-py client and the values of `container` and `network`; `docker`
calls it in worker threads. Where it can tell a person more than the engine does, it raises
`EnvironmentFailed`; all else comes out as one of `FAILURES`.
"""

from __future__ import annotations

import posixpath
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from datetime import datetime
from http import HTTPStatus
from time import monotonic
from typing import Any, cast

import attrs
import urllib3
from docker import APIClient
from docker.errors import APIError, DockerException, NotFound, StreamParseError
from docker.tls import TLSConfig
from docker.utils import kwargs_from_env

from wingsd.docker.container import HOME, ContainerSpec
from wingsd.docker.network import NetworkSpec
from wingsd.docker.runtime import ConsoleBlocked
from wingsd.errors import EnvironmentFailed
from wingsd.util.observer import ENGINE, Observer

__all__ = [
    "FAILURES",
    "ContainerState",
    "DockerClient",
    "EngineInformation",
    "address",
    "ask",
    "console",
    "console_lines",
    "container_state",
    "create_container",
    "ensure_network",
    "explain",
    "image_exists",
    "in_the_way",
    "look",
    "moment",
    "pull_lines",
    "remove_container",
    "send_signal",
    "start_container",
    "stop_container",
    "tls_config",
    "type_line",
]

#: Seconds the engine may take to answer.
TIMEOUT = 60
#: Seconds the engine may be silent during a pull, which may take hours in all.
PULL_SILENCE = 120
#: Seconds until what is typed must have been taken by the server.
TYPING = 5

#: What docker-py raises, and what it lets through from the libraries it stands on.
FAILURES = (DockerException, StreamParseError, OSError, urllib3.exceptions.HTTPError)

_DEFAULT_ADDRESS = "unix:///var/run/docker.sock"


def address(configured: str, environ: Mapping[str, str]) -> str:
    """Return the URL of the engine: what is configured, else DOCKER_HOST, else the usual.

    Takes `docker.socket` (a path or a URL) and the process's environment.
    """
    if configured.startswith("/"):
        return f"unix://{configured}"
    return configured or environ.get("DOCKER_HOST") or _DEFAULT_ADDRESS


def tls_config() -> TLSConfig | None:
    """Return how tcp:// addresses are spoken to, from DOCKER_TLS_VERIFY and DOCKER_CERT_PATH."""
    return kwargs_from_env().get("tls")


class DockerClient(APIClient):
    """A docker-py client in which no request waits for ever, not even a pull.

    Making one asks the engine for its version. The environment's DOCKER_TLS_VERIFY and
    DOCKER_CERT_PATH hold for tcp:// addresses.
    """

    def __init__(self, base_url: str) -> None:
        tls = tls_config() or False
        super().__init__(base_url, version="auto", timeout=TIMEOUT, tls=tls)

    def request(self, *args: Any, **kwargs: Any) -> Any:
        """Send a request; `timeout` is the seconds of silence that end it."""
        # docker-py lifts the limit for a pull.
        if kwargs.get("timeout") is None:
            kwargs["timeout"] = PULL_SILENCE
        return super().request(*args, **kwargs)


def explain(error: BaseException) -> str:
    """Return the engine's own words, or the system's, if the error has any."""
    explanation = error.explanation if isinstance(error, APIError) else _system_words(error)
    return str(explanation or error).strip()


def _system_words(error: BaseException | None) -> str | None:
    """Return what the system said first: docker-py wraps it in the names of four libraries."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error.strerror
        error = error.__cause__ or error.__context__
    return None


@attrs.frozen
class ContainerState:
    """A container as it is at one moment."""

    id: str
    #: The host's directory at `/home/container`; empty when there is none.
    home: str = ""
    running: bool = False
    #: Of the last run; the engine says 0 for a container that never ran.
    exit_status: int | None = None
    #: Whether the kernel ended something in it for want of memory.
    out_of_memory: bool = False
    #: By the engine's clock.
    started: datetime | None = None
    #: What the engine itself stops it with.
    stop_signal: str = "SIGTERM"


def container_state(inspected: Mapping[str, Any]) -> ContainerState:
    """Return what matters of the engine's answer to an inspection."""
    state = inspected.get("State") or {}
    mounts = inspected.get("Mounts") or ()
    homes = [mount.get("Source") for mount in mounts if mount.get("Destination") == HOME]
    return ContainerState(
        id=inspected["Id"],
        home=(homes and homes[0]) or "",
        running=bool(state.get("Running")),
        exit_status=state.get("ExitCode"),
        out_of_memory=bool(state.get("OOMKilled")),
        started=moment(state.get("StartedAt")),
        stop_signal=(inspected.get("Config") or {}).get("StopSignal") or "SIGTERM",
    )


def in_the_way(state: ContainerState, name: str, home: str) -> str:
    """Return why this is not the container of the server whose files are at `home`, or nothing."""
    if state.home and posixpath.normpath(state.home) == posixpath.normpath(home):
        return ""
    shows = f"the files at {state.home}" if state.home else "no server's files"
    return (
        f"a container named {name} is on this Docker engine already, and it is not this node's: "
        f"it shows {shows}, and not those at {home}"
    )


def moment(text: object) -> datetime | None:
    """Return a time of the engine's; None for none, which it writes as the year 1."""
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found if found.year > 1 and found.tzinfo is not None else None


def console_lines(written: bytes) -> list[str]:
    """Return the lines of what was written to a console, without their ends."""
    lines = written.decode(errors="replace").replace("\r", "").split("\n")
    return lines if lines[-1] else lines[:-1]


def look(client: APIClient, name: str) -> ContainerState | None:
    """Return what the container of that name or id is doing; None when there is none."""
    try:
        return container_state(client.inspect_container(name))
    except NotFound:
        return None


def image_exists(client: APIClient, name: str) -> bool:
    """Return whether the engine has an image named `name`."""
    try:
        client.inspect_image(name)
    except NotFound:
        return False
    return True


def pull_lines(
    client: APIClient, image: str, auth: dict[str, str] | None
) -> Iterator[Mapping[str, Any]]:
    """Start to pull `image` and return the engine's lines about it."""
    lines = client.pull(image, stream=True, decode=True, auth_config=auth)
    return cast("Iterator[Mapping[str, Any]]", lines)


def _network_exists(client: APIClient, name: str) -> bool:
    try:
        # The engine also takes the beginning of an id for a name.
        found = client.inspect_network(name)["Name"] == name
    except NotFound:
        return False
    return bool(found)


def ensure_network(client: APIClient, spec: NetworkSpec) -> bool:
    """Make sure that the network exists; return whether it had to be created.

    Raises `EnvironmentFailed` when it cannot be, or is not for us to create.
    """
    if _network_exists(client, spec.name):
        return False
    if spec.body is None:
        raise EnvironmentFailed(
            f"docker.network.network_mode names the network {spec.name}, which does not exist: "
            f"create it (docker network create {spec.name}), or name another"
        )
    try:
        client.create_network(
            spec.name,
            driver=spec.body["Driver"],
            options=spec.body["Options"],
            ipam=spec.body.get("IPAM"),
            check_duplicate=True,
            internal=spec.body["Internal"],
            enable_ipv6=spec.body["EnableIPv6"],
        )
    except APIError as error:
        # Another transfer may have been faster; only the engine knows what its refusal means.
        if _network_exists(client, spec.name):
            return False
        raise EnvironmentFailed(
            f"the network {spec.name} could not be created: {explain(error)}; see "
            "`docker network ls` for one that is in its way, and docker.network.interfaces for "
            "the addresses it asks for"
        ) from error
    return True


def create_container(client: APIClient, spec: ContainerSpec) -> list[str] | None:
    """Create a container; return the engine's warnings, None when there is one of that name."""
    try:
        answer = client.create_container_from_config(spec.body, spec.name)
    except APIError as error:
        # The name is taken: by then, or by a creation under way whose container is not yet seen.
        if error.status_code == HTTPStatus.CONFLICT:
            return None
        raise
    return list(answer.get("Warnings") or ())


def remove_container(client: APIClient, name: str, *, force: bool) -> bool:
    """Remove a container, with `force` also one that runs; return whether there was one."""
    try:
        client.remove_container(name, v=True, force=force)
    except NotFound:
        return False
    except APIError as error:
        if error.status_code != HTTPStatus.CONFLICT or not force:
            raise
        _await_removal(client, name)
    return True


def _await_removal(client: APIClient, name: str) -> None:
    # Someone else is removing it; its name is free only when that is done.
    with suppress(NotFound):
        client.wait(name, timeout=TIMEOUT, condition="removed")


def start_container(client: APIClient, name: str) -> None:
    """Start a container."""
    client.start(name)


def send_signal(client: APIClient, name: str, signal: str) -> None:
    """Send a signal; a container that is gone, or does not run any more, needs none."""
    try:
        client.kill(name, signal)
    except APIError as error:
        if error.status_code not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
            raise


def stop_container(client: APIClient, name: str) -> None:
    """Send the signal with which the engine stops the container, without waiting for its end."""
    state = look(client, name)
    if state is not None:
        send_signal(client, name, state.stop_signal)


def type_line(client: APIClient, name: str, line: bytes) -> None:
    """Type a line, with its end, into the console; return when it has been taken.

    Raises `EnvironmentFailed` when the container does not run, `ConsoleBlocked` when it does not
    take the line.
    """
    state = look(client, name)
    # To one that has ended it would be handed at its next start.
    if state is None or not state.running:
        raise EnvironmentFailed(f"the container {name} is not running, so nothing can be typed")
    with closing(_keyboard(client, name)) as keyboard:
        keyboard.settimeout(TYPING)
        try:
            keyboard.sendall(line)
            _hang_up(keyboard)
        except TimeoutError as error:
            raise ConsoleBlocked(
                f"the server did not read its console for {TYPING} s; it may still read the line"
            ) from error


def _keyboard(client: APIClient, name: str) -> socket.socket:
    attached = client.attach_socket(name, {"stdin": 1, "stream": 1})
    # docker-py gives the socket itself for TLS only, else the file it has made of it.
    return cast(socket.socket, getattr(attached, "_sock", attached))


def _hang_up(keyboard: socket.socket) -> None:
    # The engine closes its side when all has been passed on: until then, a line sent over another
    # connection might overtake this one. The container's own end stays open, as it has a terminal.
    if isinstance(keyboard, ssl.SSLSocket):
        keyboard.unwrap()
    else:
        keyboard.shutdown(socket.SHUT_WR)
        keyboard.recv(1)


def console(client: APIClient, name: str, lines: int) -> bytes:
    """Return the last lines of the console that the engine has kept."""
    return client.logs(name, tail=lines)


@attrs.frozen
class EngineInformation:
    """The engine's version and kind, and how many containers it has, whoever's they are."""

    version: str
    cgroup_driver: str
    cgroup_version: str
    containers: int
    running: int
    paused: int
    stopped: int
    storage_driver: str
    filesystem: str
    runc: str


def ask(address: str, observer: Observer) -> EngineInformation:
    """Return what the engine at `address` says of itself. Raises `EnvironmentFailed`.

    `observer` is told how long that takes.
    """
    try:
        with (
            observer.timing(ENGINE, "information", monotonic),
            closing(DockerClient(address)) as client,
        ):
            return _information(client.version(), client.info())
    except FAILURES as error:
        raise EnvironmentFailed(
            f"the Docker engine at {address} does not tell about itself: {explain(error)}"
        ) from error


def _information(version: Mapping[str, Any], info: Mapping[str, Any]) -> EngineInformation:
    # What an engine leaves out (rootless, podman) is empty.
    storage = dict(info.get("DriverStatus") or ())
    return EngineInformation(
        version=version.get("Version", ""),
        cgroup_driver=info.get("CgroupDriver", ""),
        cgroup_version=info.get("CgroupVersion", ""),
        containers=info.get("Containers", 0),
        running=info.get("ContainersRunning", 0),
        paused=info.get("ContainersPaused", 0),
        stopped=info.get("ContainersStopped", 0),
        storage_driver=info.get("Driver", ""),
        filesystem=storage.get("Backing Filesystem", ""),
        runc=(info.get("RuncCommit") or {}).get("ID", ""),
    )
