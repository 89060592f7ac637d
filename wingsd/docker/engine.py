"""The Docker engine in blocking calls: containers, images, networks, version and statistics.

To be called in threads, with a docker-py client. Raises `EnvironmentFailed` where it can explain
more than the engine does, and else one of `FAILURES`. The names of the functions are values of a
metric's label.

Several nodes may share one engine, so a name alone does not say whose a container is; the
directory that is mounted at `/home/container` does.
"""

from __future__ import annotations

import os
import posixpath
import re
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
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

from wingsd.docker.container import (
    HOME,
    INSTALLED,
    MACHINE_ID,
    NODE_LABEL,
    SERVER_LABELS,
    ContainerSpec,
    NetworkSpec,
    advice_against,
)
from wingsd.docker.runtime import (
    Cgroups,
    Containers,
    ContainerState,
    DockerInformation,
    EngineDisk,
    Runc,
    RunningContainer,
    ServerContainer,
    Storage,
)
from wingsd.errors import NOT_RUNNING, ConsoleBlocked, EnvironmentFailed, ServerNotRunning
from wingsd.util.observer import ENGINE, Observer

#: Seconds the engine may take to answer.
TIMEOUT = 60
#: Seconds of silence during a pull, which may take hours in all.
PULL_TIMEOUT = 120
#: Bytes of output that are copied at a time.
PIECE = 64 * 1024
#: Seconds within which the server must have read a line.
STDIN_TIMEOUT = 5

#: The errors of docker-py, and those of its libraries that it does not wrap.
FAILURES = (DockerException, StreamParseError, OSError, urllib3.exceptions.HTTPError)


def tls_config() -> TLSConfig | None:
    """Return the TLS settings for tcp://, from DOCKER_TLS_VERIFY and DOCKER_CERT_PATH."""
    return kwargs_from_env().get("tls")


class DockerClient(APIClient):
    """A docker-py client in which every request has a timeout, even a pull.

    Its creation requests the engine's version. The environment's DOCKER_TLS_VERIFY and
    DOCKER_CERT_PATH hold for tcp:// addresses.
    """

    def __init__(self, base_url: str) -> None:
        tls = tls_config() or False
        super().__init__(base_url, version="auto", timeout=TIMEOUT, tls=tls)

    def request(self, *args: Any, **kwargs: Any) -> Any:
        """Send a request; `timeout` is in seconds of silence."""
        # docker-py lifts the limit for a pull.
        if kwargs.get("timeout") is None:
            kwargs["timeout"] = PULL_TIMEOUT
        return super().request(*args, **kwargs)


def explain(error: BaseException) -> str:
    """Return the explanation of the engine, else of the system, else the error as text."""
    explanation = error.explanation if isinstance(error, APIError) else _system_error(error)
    return str(explanation or error).strip()


def is_final(error: APIError) -> bool:
    """Return whether the engine refuses what it was asked for, and not only now."""
    return error.status_code in (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND)


def _system_error(error: BaseException | None) -> str | None:
    """Return the first system error, which docker-py wraps in those of four libraries."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error.strerror
        error = error.__cause__ or error.__context__
    return None


def container_state(inspected: Mapping[str, Any]) -> ContainerState:
    """Return the state from the engine's answer to `GET /containers/{id}/json`."""
    state = inspected.get("State") or {}
    mounts = inspected.get("Mounts") or ()
    sources = {mount.get("Destination"): mount.get("Source") for mount in mounts}
    made_of = inspected.get("Config") or {}
    return ContainerState(
        id=inspected["Id"],
        home=sources.get(HOME) or sources.get(INSTALLED) or "",
        machine_id=sources.get(MACHINE_ID) or "",
        running=bool(state.get("Running")),
        is_removed=state.get("Status") in ("removing", "dead"),
        exit_status=state.get("ExitCode"),
        out_of_memory=bool(state.get("OOMKilled")),
        pid=state.get("Pid") or 0,
        has_machine_network=(inspected.get("HostConfig") or {}).get("NetworkMode") == "host",
        started=parse_time(state.get("StartedAt")),
        stop_signal=made_of.get("StopSignal") or "SIGTERM",
        labels=made_of.get("Labels") or {},
        image=made_of.get("Image") or "",
        command=tuple(made_of.get("Cmd") or ()),
        environment=tuple(made_of.get("Env") or ()),
    )


def foreign_container(state: ContainerState, name: str, home: str) -> str:
    """Return why the container is not that of the server with files at `home`; empty if it is."""
    if state.home and posixpath.normpath(state.home) == posixpath.normpath(home):
        return ""
    shows = f"the files at {state.home}" if state.home else "no server's files"
    return (
        f"a container named {name} is on this Docker engine already, and it is not this node's: "
        f"it shows {shows}, and not those at {home}"
    )


def parse_time(text: object) -> datetime | None:
    """Return a time of the engine; None for an invalid or absent one, which is the year 1."""
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found if found.year > 1 and found.tzinfo is not None else None


def console_lines(written: bytes) -> list[str]:
    """Return the lines of a console's output, without their ends."""
    lines = written.decode(errors="replace").replace("\r", "").split("\n")
    return lines if lines[-1] else lines[:-1]


def look(client: APIClient, name: str) -> ContainerState | None:
    """Return the state of the container with that name or id; None when there is none."""
    try:
        state = container_state(client.inspect_container(name))
    except NotFound:
        return None
    return attrs.evolve(state, home=resolved_home(state.home)) if state.home else state


def look_by_end(client: APIClient, end: str) -> ContainerState | None:
    """Return the state of a container whose name ends so; None when there is none."""
    found = client.containers(all=True, filters={"name": f"{re.escape(end)}$"})
    return look(client, found[0]["Id"]) if found else None


def resolved_home(home: str) -> str:
    """Return the directory of a server's files without links above it."""
    # Other daemons may name `system.data` by a symlink; `load` of the configuration has resolved
    # that of this node.
    above, name = posixpath.split(posixpath.normpath(home))
    return posixpath.join(os.path.realpath(above), name)


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
    """Start to pull `image`, and return the engine's progress lines."""
    lines = client.pull(image, stream=True, decode=True, auth_config=auth)
    return cast("Iterator[Mapping[str, Any]]", lines)


def network_exists(client: APIClient, name: str) -> bool:
    """Return whether the engine has a network named `name`."""
    try:
        # The engine also accepts the beginning of an id as a name.
        found = client.inspect_network(name)["Name"] == name
    except NotFound:
        return False
    return bool(found)


def ensure_network(client: APIClient, spec: NetworkSpec) -> bool:
    """Make sure that the network exists; return whether it had to be created.

    Raises `EnvironmentFailed` when it cannot be created, or the configuration only names it.
    """
    if network_exists(client, spec.name):
        return False
    if spec.body is None:
        raise EnvironmentFailed(
            f"docker.network.network_mode names the network {spec.name}, which does not exist: "
            f"create it (docker network create {spec.name}), or name another",
            is_final=True,
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
        # Another transfer may have created it meanwhile, which this refusal does not tell apart.
        if network_exists(client, spec.name):
            return False
        raise EnvironmentFailed(
            f"the network {spec.name} could not be created: {explain(error)}; "
            f"{advice_against(spec, client.networks())}"
        ) from error
    return True


def create_container(client: APIClient, spec: ContainerSpec) -> list[str] | None:
    """Create a container; return the engine's warnings, None when the name is taken."""
    try:
        answer = client.create_container_from_config(spec.body, spec.name)
    except APIError as error:
        # The name may be taken by a creation under way, whose container cannot be found yet.
        if error.status_code == HTTPStatus.CONFLICT:
            return None
        raise
    return list(answer.get("Warnings") or ())


def remove_container(client: APIClient, name: str, *, force: bool) -> bool:
    """Remove a container, with `force` also a running one; return whether it existed."""
    try:
        client.remove_container(name, v=True, force=force)
    except NotFound:
        return False
    except APIError as error:
        if error.status_code != HTTPStatus.CONFLICT or not force:
            raise
        # Another client is removing it; its name is free only when that is done.
        with suppress(NotFound):
            client.wait(name, timeout=TIMEOUT, condition="removed")
    return True


def start_container(client: APIClient, name: str) -> None:
    """Start a container."""
    client.start(name)


def send_signal(client: APIClient, name: str, signal: str) -> None:
    """Send a signal; a container that is gone or stopped is ignored."""
    try:
        client.kill(name, signal)
    except APIError as error:
        if error.status_code not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
            raise


def stop_container(client: APIClient, name: str) -> None:
    """Send the container's stop signal, without waiting for its end."""
    state = look(client, name)
    if state is not None:
        send_signal(client, name, state.stop_signal)


def type_line(client: APIClient, name: str, line: bytes) -> None:
    """Write a line, with its end, to the container's stdin; return when it has been read.

    Raises `ServerNotRunning` when the container does not run, `ConsoleBlocked` when it does not
    read the line.
    """
    state = look(client, name)
    # A stopped container would get the line at its next start.
    if state is None or not state.running:
        raise ServerNotRunning(NOT_RUNNING)
    attached = client.attach_socket(name, {"stdin": 1, "stream": 1})
    # docker-py returns the socket itself for TLS only, else a file object around it. It has given
    # that the answer, as one of a cycle: closed in any other order, its parts print errors.
    answer: Any = attached
    with (
        closing(answer._response),
        closing(cast(socket.socket, getattr(attached, "_sock", attached))) as stdin,
    ):
        stdin.settimeout(STDIN_TIMEOUT)
        try:
            stdin.sendall(line)
            # The engine closes its side when it has passed everything on: until then, a line sent
            # over another connection might overtake this one. The container's stdin stays open, as
            # it is a terminal.
            if isinstance(stdin, ssl.SSLSocket):
                stdin.unwrap()
            else:
                stdin.shutdown(socket.SHUT_WR)
                stdin.recv(1)
        except TimeoutError as error:
            raise ConsoleBlocked(
                f"the server did not read its console for {STDIN_TIMEOUT} s; it may still read "
                "the line"
            ) from error


def console(client: APIClient, name: str, lines: int) -> bytes:
    """Return the last lines of the console that the engine has kept."""
    return client.logs(name, tail=lines)


def copy_output(client: APIClient, name: str, write: Callable[[bytes], object]) -> None:
    """Call `write` with all output of a container, which has a terminal, piece by piece."""
    # docker-py gives either all of it at once or single bytes.
    answer = client.get(
        client._url("/containers/{0}/logs", name),  # type: ignore[attr-defined]
        params={"stdout": 1, "stderr": 1},
        stream=True,
        timeout=TIMEOUT,
    )
    with closing(answer):
        client._raise_for_status(answer)  # type: ignore[attr-defined]
        for piece in answer.iter_content(PIECE):
            write(piece)


def names_with_labels(client: APIClient, labels: Mapping[str, str]) -> list[str]:
    """Return the names of all containers with these labels, running or not."""
    wanted = [f"{key}={value}" for key, value in labels.items()]
    found = client.containers(all=True, filters={"label": wanted})
    return [name.lstrip("/") for each in found for name in each.get("Names") or ()]


def information(address: str, observer: Observer) -> DockerInformation:
    """Return the information of the engine at `address`. Raises `EnvironmentFailed`.

    `observer` gets the duration of the request.
    """
    try:
        with (
            observer.timing(ENGINE, "information", monotonic),
            closing(DockerClient(address)) as client,
        ):
            version, info = client.version(), client.info()
    except FAILURES as error:
        raise EnvironmentFailed(
            f"the Docker engine at {address} gives no information: {explain(error)}"
        ) from error
    # Fields that an engine omits (rootless, podman) are empty.
    storage = dict(info.get("DriverStatus") or ())
    return DockerInformation(
        version=version.get("Version", ""),
        cgroups=Cgroups(info.get("CgroupDriver", ""), info.get("CgroupVersion", "")),
        containers=Containers(
            total=info.get("Containers", 0),
            running=info.get("ContainersRunning", 0),
            paused=info.get("ContainersPaused", 0),
            stopped=info.get("ContainersStopped", 0),
        ),
        storage=Storage(info.get("Driver", ""), storage.get("Backing Filesystem", "")),
        runc=Runc((info.get("RuncCommit") or {}).get("ID", "")),
    )


#: Seconds that the engine may take to add up sizes, or to remove images.
COUNT_TIMEOUT = 120
PRUNE_TIMEOUT = 3600
#: Characters of an identifier that are shown.
_SHORT = 12


def engine_disk(client: DockerClient) -> EngineDisk:
    """Return what the engine keeps on its disk. It adds up the sizes, which takes its time."""
    client.timeout = COUNT_TIMEOUT
    found = client.df()
    images, containers = found.get("Images") or (), found.get("Containers") or ()
    caches = found.get("BuildCache") or ()
    return EngineDisk(
        containers_size=sum(_sizes(containers, "SizeRootFs")),
        images_total=len(images),
        images_active=sum(1 for image in images if (image.get("Containers") or 0) > 0),
        images_size=found.get("LayersSize") or 0,
        build_cache_size=sum(_sizes((each for each in caches if not each.get("Shared")), "Size")),
    )


def _sizes(things: Iterable[Mapping[str, Any]], key: str) -> Iterable[int]:
    return (thing.get(key) or 0 for thing in things)


def image_names(client: DockerClient) -> set[str]:
    """Return the names with tags, or with digests, of all images."""
    found = client.images()
    keys = ("RepoTags", "RepoDigests")
    return {name for each in found for key in keys for name in each.get(key) or ()}


def prune_images(client: DockerClient, filters: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Remove images without a name and a container; return what the engine says of it.

    `filters` are the engine's, such as a label that an image must have. This may take minutes.
    """
    client.timeout = PRUNE_TIMEOUT
    unannotated: Any = client
    removed: dict[str, Any] = unannotated.prune_images(dict(filters or {}))
    return removed


def running_containers(client: DockerClient) -> list[RunningContainer]:
    """Return the containers that run."""
    return [
        RunningContainer(
            id=str(found.get("Id", ""))[:_SHORT],
            name=", ".join(name.lstrip("/") for name in found.get("Names") or ()),
            image=found.get("Image", ""),
            status=found.get("Status", ""),
        )
        for found in client.containers()
    ]


def server_containers(client: DockerClient) -> list[ServerContainer]:
    """Return the containers of servers, of any node, running or not."""
    wanted = [f"{key}={value}" for key, value in SERVER_LABELS.items()]
    found = client.containers(all=True, filters={"label": wanted})
    return [
        ServerContainer(
            name=str(next(iter(each.get("Names") or ()), each["Id"])).lstrip("/"),
            home=resolved_home(mount["Source"]),
            status=each.get("Status") or "",
            image=each.get("Image") or "",
            node=(each.get("Labels") or {}).get(NODE_LABEL, ""),
        )
        for each in found
        for mount in each.get("Mounts") or ()
        if mount.get("Destination") == HOME and mount.get("Source")
    ]


def engine_report(client: DockerClient) -> dict[str, Any]:
    """Return what the engine reports about itself."""
    info: dict[str, Any] = client.info()
    return info
