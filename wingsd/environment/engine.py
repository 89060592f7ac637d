"""The conversation with the Docker engine, in blocking calls.

Knows a docker-py client and the values of `container` and `network`; `docker`
calls it in worker threads. Where it can tell a person more than the engine does, it raises
`EnvironmentFailed`; all else comes out as one of `FAILURES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any, cast

import attrs
import urllib3
from docker import APIClient
from docker.errors import APIError, DockerException, NotFound, StreamParseError
from docker.utils import kwargs_from_env

from wingsd.environment.container import ContainerSpec
from wingsd.environment.network import NetworkSpec
from wingsd.errors import EnvironmentFailed

__all__ = [
    "FAILURES",
    "Client",
    "PullProgress",
    "address",
    "container_exists",
    "create_container",
    "ensure_network",
    "explain",
    "follow",
    "image_exists",
    "remove_container",
]

#: Seconds the engine may take to answer.
TIMEOUT = 60
#: Seconds the engine may be silent during a pull, which may take hours in all.
PULL_SILENCE = 120
#: Seconds between two reports about a pull.
PULL_REPORT = 10

#: What docker-py raises, and what it lets through from the libraries it stands on.
FAILURES = (DockerException, StreamParseError, OSError, urllib3.exceptions.HTTPError)

_DEFAULT_ADDRESS = "unix:///var/run/docker.sock"
_MB = 1_000_000


def address(socket: str, environ: Mapping[str, str]) -> str:
    """Return the URL of the engine: `socket` (a path or a URL), else DOCKER_HOST, else the usual.

    Takes `docker.socket` from the configuration and the process's environment.
    """
    if socket.startswith("/"):
        return f"unix://{socket}"
    return socket or environ.get("DOCKER_HOST") or _DEFAULT_ADDRESS


class Client(APIClient):
    """A docker-py client in which no request waits for ever, not even a pull.

    Making one asks the engine for its version. The environment's DOCKER_TLS_VERIFY and
    DOCKER_CERT_PATH hold for tcp:// addresses.
    """

    def __init__(self, base_url: str) -> None:
        tls = kwargs_from_env().get("tls", False)
        super().__init__(base_url, version="auto", timeout=TIMEOUT, tls=tls)

    def request(self, *args: Any, **kwargs: Any) -> Any:
        """Send a request; `timeout` is the seconds of silence that end it."""
        # docker-py lifts the limit for a pull.
        if kwargs.get("timeout") is None:
            kwargs["timeout"] = PULL_SILENCE
        return super().request(*args, **kwargs)

    def pull_lines(self, image: str, auth: dict[str, str] | None) -> Iterator[Mapping[str, Any]]:
        """Start to pull `image` and return the engine's lines about it."""
        lines = self.pull(image, stream=True, decode=True, auth_config=auth)
        return cast("Iterator[Mapping[str, Any]]", lines)


@attrs.define
class PullProgress:
    """How far a pull has come, from the lines the engine tells it in."""

    #: Layer by id: whether it is complete.
    _layers: dict[str, bool] = attrs.field(factory=dict)
    #: Layer by id: bytes downloaded and, as far as known, to download.
    _bytes: dict[str, tuple[int, int]] = attrs.field(factory=dict)
    error: str = ""

    def note(self, line: Mapping[str, Any]) -> None:
        """Take one line of the engine's answer to `POST /images/create` into account."""
        self.error = self.error or str(line.get("error") or "")
        layer, status = line.get("id"), line.get("status", "")
        if layer is None or status.startswith("Pulling from"):
            return
        self._layers[layer] = status in ("Pull complete", "Already exists")
        detail = line.get("progressDetail") or {}
        if status == "Downloading":
            self._bytes[layer] = (detail.get("current", 0), detail.get("total", 0))
        elif layer in self._bytes:
            _, total = self._bytes[layer]
            self._bytes[layer] = (total, total)

    def __str__(self) -> str:
        """Return the progress in words, with sizes in MB."""
        done = sum(size for size, _ in self._bytes.values()) / _MB
        total = sum(size for _, size in self._bytes.values()) / _MB
        complete = sum(self._layers.values())
        return f"{complete} of {len(self._layers)} layers, {done:.1f} of {total:.1f} MB"


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


def follow(
    progress: PullProgress, lines: Iterator[Mapping[str, Any]], clock: Callable[[], float]
) -> bool:
    """Take the lines of a pull for `PULL_REPORT` seconds; return whether more may come."""
    until = clock() + PULL_REPORT
    for line in lines:
        progress.note(line)
        if clock() >= until:
            return True
    return False


def container_exists(client: APIClient, name: str) -> bool:
    """Return whether there is a container named `name`."""
    try:
        client.inspect_container(name)
    except NotFound:
        return False
    return True


def image_exists(client: APIClient, name: str) -> bool:
    """Return whether the engine has an image named `name`."""
    try:
        client.inspect_image(name)
    except NotFound:
        return False
    return True


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


def remove_container(client: APIClient, name: str) -> bool:
    """Remove a container, killing it if it runs; return whether there was one."""
    try:
        client.remove_container(name, v=True, force=True)
    except NotFound:
        return False
    except APIError as error:
        if error.status_code != HTTPStatus.CONFLICT:
            raise
        _await_removal(client, name)
    return True


def _await_removal(client: APIClient, name: str) -> None:
    # Someone else is removing it; its name is free only when that is done.
    with suppress(NotFound):
        client.wait(name, timeout=TIMEOUT, condition="removed")
