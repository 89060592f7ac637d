"""Client of the Panel's API for nodes, `{remote}/api/remote`.

Calls are retried as Wings retries them: with growing pauses while the Panel cannot be reached or
answers 5xx, never on a 4xx. Each way a call can end has its class in `wingsd.errors`: a Panel that
refuses the node's own token is `NodeTokenRefused`, in any call.

Answers are bounded: headers, interim answers (1xx), body and encoding. Twisted's parser accepts
any number of headers, logs each interim answer, and returns a body of any size; treq also asks for
gzip and decodes it to any size. The bounds are therefore on the connection, below the parser, and
encoded answers are neither asked for nor accepted.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from enum import Enum
from functools import partial
from http import HTTPStatus
from io import BytesIO
from types import MappingProxyType
from typing import Any, TypeVar

import attrs
import treq
from hyperlink import EncodedURL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import connectionDone
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import Agent, FileBodyProducer, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse
from zope.interface import implementer

from wingsd.config import PTERODACTYL, Config, family_of_panel, node_agent_of
from wingsd.errors import (
    InvalidData,
    NodeTokenRefused,
    PanelRefused,
    PanelUnreachable,
    ServerNotAssigned,
    ServerNotFound,
)
from wingsd.http_client.exchange import MAX_HEAD, AnswerRefused
from wingsd.panel.schemas import (
    Configuration,
    InstallScript,
    SftpAccess,
    configuration_from_panel,
)
from wingsd.util.observer import PANEL, Observer
from wingsd.util.reactor import Reactor
from wingsd.util.retry import Backoff, seconds_asked_for
from wingsd.util.serialization import structure

#: Header lines of one answer.
MAX_HEADERS = 128
#: Interim answers (1xx) before the final one.
MAX_INTERIM = 16
#: Bytes of a body as sent, including chunk headers.
MAX_BODY = 16 * 1024 * 1024
#: Seconds for the server to close the connection after its answer.
CLOSE_WITHIN = 10

_HEAD_END = re.compile(rb"\n\r?\n")
_PROTOCOL = b"HTTP/"


class BoundedClient:
    """An HTTP/1.1 client that makes one connection for each request, and follows no redirect."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor

    async def request(
        self, method: str, url: str, headers: Headers, content: bytes | None = None
    ) -> tuple[IResponse, bytes]:
        """Return the answer and its body. The connection is closed in any case.

        `content` is the request's body. Raises `AnswerRefused`, and what twisted.web's Agent does.
        A cancelled request ends at once; the caller sets time limits.
        """
        pool = _Pool(self._reactor)
        asked = headers.copy()
        asked.setRawHeaders("Accept-Encoding", ["identity"])
        producer = None if content is None else FileBodyProducer(BytesIO(content))
        complete = False
        try:
            agent = Agent(self._reactor, pool=pool)
            response = await agent.request(method.encode("ascii"), _encoded(url), asked, producer)
            _check(response)
            body = await body_of(response)
            complete = pool.refusal is None
        except Exception as error:
            if pool.refusal is None:
                raise
            raise pool.refusal from error
        finally:
            pool.finish(gracefully=complete)
        # A body without a length ends with its connection, even if this side closes it.
        if pool.refusal is not None:
            raise pool.refusal
        return response, body


async def body_of(response: IResponse) -> bytes:
    """Return the body of an answer, in one buffer: its pieces may be of a few bytes each."""
    received = BytesIO()

    def keep(piece: bytes) -> None:
        received.write(piece)

    await treq.collect(response, keep)
    return received.getvalue()


def _encoded(url: str) -> bytes:
    """Return the URL, with a host name in Unicode in its xn-- form."""
    if url.isascii():  # without the tables of Unicode: 1 MiB
        return url.encode("ascii")
    return EncodedURL.from_text(url).to_uri().to_text().encode("ascii")


def _check(response: IResponse) -> None:
    """Raise `AnswerRefused` for a body that is too long, or encoded, by its headers."""
    encodings = response.headers.getRawHeaders("Content-Encoding") or []
    for encoding in encodings:
        if encoding.strip().lower() not in ("", "identity"):
            raise AnswerRefused(
                f"its answer is encoded with {encoding[:60]!r}, which was not asked for"
            )
    if isinstance(response.length, int) and response.length > MAX_BODY:
        raise _too_long()


def _too_long() -> AnswerRefused:
    return AnswerRefused(f"its answer is longer than {MAX_BODY // 1024**2} MiB")


@implementer(IStreamClientEndpoint)
class _Pool(HTTPConnectionPool):
    """The connection of one request, with a guard between the transport and the protocol."""

    def __init__(self, reactor: Reactor) -> None:
        # Not persistent: a POST on a connection that the server has just closed may or may not
        # have arrived.
        super().__init__(reactor, persistent=False)
        self._clock = reactor
        self._endpoint: Any = None
        self.guard: _Guard | None = None

    def getConnection(self, key: Hashable, endpoint: IStreamClientEndpoint) -> Deferred[Any]:
        """Connect to `endpoint` by `connect`."""
        self._endpoint = endpoint
        return super().getConnection(key, self)

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        """Return the protocol that `factory` builds, connected."""
        inner: Any = factory
        guarding: Any = WrappingFactory(inner)
        guarding.protocol = _Guard
        # Twisted's own log two lines for each connection.
        inner.noisy = guarding.noisy = False
        connected: Deferred[Any] = self._endpoint.connect(guarding)
        return connected.addCallback(self._connected)

    def _connected(self, guard: Any) -> Any:
        self.guard = guard
        return guard.wrappedProtocol

    @property
    def refusal(self) -> AnswerRefused | None:
        """Return why the answer was refused, None if it was not."""
        return self.guard.refusal if self.guard is not None else None

    def finish(self, *, gracefully: bool) -> None:
        """Close the connection, if there is one."""
        if self.guard is not None:
            self.guard.finish(self._clock, gracefully=gracefully)


class _Guard(ProtocolWrapper):
    """Passes on a server's answer within the bounds; beyond them it disconnects."""

    def __init__(self, factory: Any, protocol: Any) -> None:
        super().__init__(factory, protocol)
        #: Why the answer was refused.
        self.refusal: AnswerRefused | None = None
        self._closing: IDelayedCall | None = None
        #: The received part of a head, until it is complete, without interim answers.
        self._head = bytearray()
        self._in_head = True
        self._interim = 0
        self._body = 0

    def dataReceived(self, data: bytes) -> None:
        """Pass on the final answer."""
        if self.refusal is not None:
            return
        try:
            passed = self._read_head(data) if self._in_head else data
            self._body += 0 if self._in_head else len(passed)
            if self._body > MAX_BODY:
                raise _too_long()
        except AnswerRefused as error:
            self.refusal = error
            self.abortConnection()
            return
        if passed:
            super().dataReceived(passed)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Pass it on to the protocol."""
        self.connected = 0
        if self._closing is not None and self._closing.active():
            self._closing.cancel()
        super().connectionLost(reason)

    def finish(self, reactor: IReactorTime, *, gracefully: bool) -> None:
        """Close the connection: at once, or gracefully, when the server has closed it as well."""
        if not self.connected:
            return
        if not gracefully:
            self.abortConnection()
            return
        self.loseConnection()
        # TLS ends when both sides have sent close_notify.
        self._closing = reactor.callLater(CLOSE_WITHIN, self.abortConnection)

    def _read_head(self, data: bytes) -> bytes:
        """Return the final answer's head with what follows, empty while it is incomplete.

        Raises `AnswerRefused`.
        """
        start = max(0, len(self._head) - 2)  # its end may come in pieces
        self._head += data
        while (end := _HEAD_END.search(self._head, start)) is not None:
            head = bytes(self._head[: end.end()])
            _check_head(head)
            if not 100 <= _status(head) < 200:  # noqa: PLR2004 - as HTTP has them
                whole, self._head = bytes(self._head), bytearray()
                self._in_head = False
                self._body = -len(head)
                return whole
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise AnswerRefused(
                    f"it sent more than {MAX_INTERIM} interim answers (1xx) and no final one"
                )
            del self._head[: end.end()]
            start = 0
        _check_head(self._head)
        return b""


def _check_head(head: bytes | bytearray) -> None:
    """Raise `AnswerRefused` for a head, complete or not, that is not HTTP or beyond a bound."""
    if not _PROTOCOL.startswith(bytes(head[: len(_PROTOCOL)])):
        raise AnswerRefused(f"its answer is not HTTP but {bytes(head[:60])!r}")
    # The lines are the status line, those of headers, and the empty one.
    if len(head) > MAX_HEAD or head.count(b"\n") > MAX_HEADERS + 2:
        raise AnswerRefused(
            f"its answer's headers are longer than {MAX_HEAD // 1024} KiB, or more than "
            f"{MAX_HEADERS} lines"
        )


def _status(head: bytes) -> int:
    """Return the status, 0 for none; parsed like in Twisted's parser, which gets it next."""
    parts = head.partition(b"\n")[0].split(b" ", 2)
    try:
        return int(parts[1])
    except (IndexError, ValueError):
        return 0


#: Lists, maps and values in an answer's JSON: three bytes of JSON may take over sixty in memory.
MAX_VALUES = 2_000_000
NO_REASON = "no reason given"


@attrs.frozen(eq=False, repr=False)
class _Meta:
    last_page: int = 1


@attrs.frozen(eq=False, repr=False)
class ServerPage:
    """A page of the node's servers, in the Panel's form."""

    data: tuple[Any, ...]
    meta: _Meta = _Meta()


def json_of(body: bytes) -> object:
    """Return the content of a body. Raises `InvalidData`."""
    if sum(map(body.count, b",[{")) > MAX_VALUES:
        raise InvalidData(f"its answer has more than {MAX_VALUES:,} values")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidData(f"its answer is not JSON but {body[:60]!r}") from error


def server_page(answer: object) -> ServerPage:
    """Return a page, each of whose servers has a UUID. Raises `InvalidData`."""
    page = structure(answer, ServerPage)
    if any(uuid_of(entry) is None for entry in page.data):
        raise InvalidData("its list of servers has an entry without a uuid")
    return page


def uuid_of(entry: object) -> str | None:
    """Return the UUID of a server in a page."""
    uuid = entry.get("uuid") if isinstance(entry, dict) else None
    return uuid if isinstance(uuid, str) else None


def error_text(body: bytes) -> str:
    """Return the messages of a Panel's error answer; `NO_REASON` where it has another form."""
    try:
        answer: Any = json_of(body)
        # Calagopus' Panel has texts there, the others have maps.
        details = [
            fault if isinstance(fault, str) else str(fault["detail"]) for fault in answer["errors"]
        ]
    except (ValueError, LookupError, TypeError):
        return NO_REASON
    return "; ".join(details) or NO_REASON


T = TypeVar("T")

# Seconds; the figures are Wings' own.
BACKOFF = Backoff(0.5, 12.0, factor=1.5)
GIVE_UP_AFTER = 30.0
#: Seconds to wait for an answer, whatever is configured.
LEAST_TIMEOUT = 30
#: The same for `success`: the Panel answers it only after it has asked the source to delete its
#: copy, which takes 15 s and more, and giving up too early leaves everybody in doubt.
SUCCESS_TIMEOUT = 120
#: Calls that a Panel allows every node whose token it accepts.
_NODE_PATHS = ("/servers?", "/servers/reset")
_ANY_SERVER = "/servers?page=1&per_page=1"


class BackupRecordState(Enum):
    """The answer of a Panel to the question for its record of a local backup."""

    THERE = "there"
    MISSING = "missing"
    UNKNOWN = "unknown"


_BACKUP_RECORDS: Mapping[int, BackupRecordState] = MappingProxyType(
    {
        HTTPStatus.CONFLICT: BackupRecordState.THERE,
        HTTPStatus.NOT_FOUND: BackupRecordState.MISSING,
    }
)


class _BadAnswer(InvalidData):
    """An answer that cannot be used, with the seconds of its `Retry-After`."""

    def __init__(self, what: str, retry_after: float) -> None:
        super().__init__(what)
        self.retry_after = retry_after


class Panel:
    """The Panel. `http` makes the requests; the default bounds their answers.

    `observer` gets the duration of each attempt.
    """

    _log = Logger()

    def __init__(
        self,
        config: Config,
        reactor: Reactor,
        http: BoundedClient | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.use(config)
        #: Whether the log has said that the Panel is of another family.
        self._has_warned = False
        self._per_page = config.remote_query.boot_servers_per_page
        self._timeout = max(config.remote_query.timeout, LEAST_TIMEOUT)
        self._reactor = reactor
        self._observer = observer or Observer()
        #: Time of the last answer, in seconds since the epoch; None before the first.
        self.heard: float | None = None
        #: The time of its last answer by the Panel's own clock, in seconds since the epoch; None
        #: where that did not say.
        self.date: float | None = None
        self._http = http or BoundedClient(reactor)

    def use(self, config: Config) -> None:
        """Make later calls to the Panel, and by the token, of another configuration."""
        self._family = config.family or PTERODACTYL
        self._system = config.system
        self._base = f"{config.remote.rstrip('/')}/api/remote"
        self._headers = Headers(
            {
                "Authorization": [f"Bearer {config.token_id}.{config.token}"],
                "Accept": ["application/vnd.pterodactyl.v1+json"],
                "Content-Type": ["application/json"],
                "User-Agent": [node_agent_of(config.family, config.token_id)],
            }
        )

    async def describe(self, uuid: str) -> Configuration:
        """Return the Panel's description of the server.

        Raises `ServerNotFound`, `ServerNotAssigned`, `PanelRefused`, `PanelUnreachable`.
        """
        try:
            found = await self._call("describe", "GET", f"/servers/{uuid}", self._configuration)
        except NodeTokenRefused:
            raise
        except PanelRefused as error:
            # Some Panels say 403 for a server that no transfer brings to this node.
            if error.response_status not in (HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN):
                raise
            is_unknown = error.response_status == HTTPStatus.NOT_FOUND
            kind = ServerNotFound if is_unknown else ServerNotAssigned
            raise kind(
                "the Panel does not know this server, or not for this node",
                "see on which node the Panel has it, and whether `remote` in this node's "
                "configuration names that Panel",
            ) from error
        described = found.settings.uuid
        if described != uuid:
            raise PanelUnreachable(
                "the Panel's answer is invalid", f"asked for {uuid} it described {described}"
            )
        return found

    def _configuration(self, answer: object) -> Configuration:
        found = configuration_from_panel(answer)
        family = family_of_panel(found.raw)
        if family and family != self._family and not self._has_warned:
            self._has_warned = True
            self._log.warn(
                "the Panel answers as one of {panels}, and this node is run as one of {own}: "
                "write `family: {family}` into its configuration, and restart it. If it names no "
                "`system.backup_directory` and `system.log_directory`, write these as well, as "
                "they are: {backups} and {logs}",
                panels=family.capitalize(),
                own=self._family.capitalize(),
                family=family,
                backups=self._system.backup_directory,
                logs=self._system.log_directory,
            )
        return found

    async def owns(self, uuid: str) -> bool:
        """Return whether the Panel lists the server as one of this node's.

        A list of several pages is read again before the answer is no: where another server leaves
        the node between two pages, the first one of the next page is in neither of them. Raises
        `PanelRefused`, `PanelUnreachable`.
        """
        for _ in range(2):
            pages = 0
            async for page in self._pages():
                pages += 1
                if any(uuid_of(entry) == uuid for entry in page):
                    return True
            if pages == 1:
                break
        return False

    async def servers(self) -> list[Configuration]:
        """Return all servers of this node. Those with an invalid description are logged.

        Raises `PanelRefused`, `PanelUnreachable`.
        """
        found = []
        async for page in self._pages():
            for entry in page:
                try:
                    found.append(self._configuration(entry))
                except InvalidData as error:
                    self._log.error(
                        "{server}: not loaded, the Panel's description of it is invalid: {error}",
                        server=uuid_of(entry),
                        error=error,
                    )
        return found

    async def _pages(self) -> AsyncIterator[tuple[Any, ...]]:
        page, last = 1, 1
        while page <= last:
            path = f"/servers?page={page}&per_page={self._per_page}"
            answer = await self._call("list", "GET", path, server_page)
            yield answer.data
            page, last = page + 1, answer.meta.last_page

    async def greet(self) -> None:
        """Check once, with a small request, that the Panel answers this node.

        Raises `PanelRefused`, `PanelUnreachable`.
        """
        await self._once("list", "GET", _ANY_SERVER, server_page)

    async def post_once(self, operation: str, path: str, body: object) -> None:
        """Send `body` as JSON to a path of the API, once: the caller knows when to repeat it.

        `operation` names it to the observer. Raises `PanelRefused`, `PanelUnreachable`.
        """
        await self._once(operation, "POST", path, None, body)

    async def sftp_access(self, login: dict[str, Any]) -> SftpAccess:
        """Return what a login by SFTP gives access to; it is asked once.

        Raises `PanelRefused`, `PanelUnreachable`.
        """
        read = partial(structure, cls=SftpAccess)
        return await self._once("sftp", "POST", "/sftp/auth", read, login)

    async def _once(
        self,
        operation: str,
        method: str,
        path: str,
        read: Callable[[object], T] | None,
        body: object = None,
    ) -> T:
        try:
            attempt = self._attempt(method, path, read, body)
            return await self._within(self._timeout, operation, attempt)
        except (CancelledError, PanelRefused):
            raise
        except Exception as error:
            retry_after = getattr(error, "retry_after", 0.0)
            message = "the Panel gave no usable answer"
            raise PanelUnreachable(message, _reason(error), retry_after) from error

    async def reset(self) -> None:
        """Report that this node has just started: operations of its servers are over.

        Raises `PanelRefused`, `PanelUnreachable`.
        """
        await self._call("reset", "POST", "/servers/reset", None)

    async def install_script(self, uuid: str) -> InstallScript:
        """Return the script that installs a server. Raises `PanelRefused`, `PanelUnreachable`."""
        path = f"/servers/{uuid}/install"
        read = partial(structure, cls=InstallScript)
        return await self._call("install_script", "GET", path, read)

    async def get(self, operation: str, path: str, read: Callable[[object], T]) -> T:
        """Return the answer's JSON at a path of the API, read with `read`.

        `operation` names it to the observer. Raises `PanelRefused`, `PanelUnreachable`.
        """
        return await self._call(operation, "GET", path, read)

    async def backup_record(self, backup: str) -> BackupRecordState:
        """Return whether a PHP Panel has a record of a complete local backup, asked once.

        Its own 409 means yes, its own 404 no. Anything else says nothing, as a proxy's page or the
        403 for a backup of a server that has moved away from this node. It must not be asked for a
        backup that is not complete: the Panel would begin an upload. Raises `PanelUnreachable`.
        """
        try:
            await self._once("backup", "GET", f"/backups/{backup}?size=1", lambda _: None)
        except PanelRefused as error:
            if error.is_own:
                return _BACKUP_RECORDS.get(error.response_status, BackupRecordState.UNKNOWN)
        return BackupRecordState.UNKNOWN

    async def installed(self, uuid: str, *, successful: bool, reinstall: bool = False) -> None:
        """Report the end of a server's installation. Raises `PanelRefused`, `PanelUnreachable`."""
        body = {"successful": successful, "reinstall": reinstall}
        await self._call("installed", "POST", f"/servers/{uuid}/install", None, body=body)

    async def restored(self, backup: str, server: str, *, successful: bool) -> None:
        """Report the end of restoring a backup. Raises `PanelRefused`, `PanelUnreachable`."""
        # The server is for Calagopus' Panel, and not looked at by others.
        body = {"successful": successful, "server_uuid": server}
        await self._call("restored", "POST", f"/backups/{backup}/restore", None, body=body)

    async def report(self, operation: str, path: str, body: object) -> None:
        """Send a report as JSON to a path of the API; it is repeated for a while.

        `operation` names it to the observer. Raises `PanelRefused`, `PanelUnreachable`.
        """
        await self._call(operation, "POST", path, None, body=body)

    async def transfer_succeeded(self, uuid: str, backups: Sequence[str] | None = None) -> None:
        """Report that the server is here now, with the backups of these UUIDs.

        None is for Panels that do not expect backups. Raises `PanelRefused`, `PanelUnreachable`.
        """
        timeout = max(self._timeout, SUCCESS_TIMEOUT)
        body = None if backups is None else {"backups": list(backups)}
        path = f"/servers/{uuid}/transfer/success"
        await self._call("success", "POST", path, None, timeout, body)

    async def transfer_failed(self, uuid: str) -> bool:
        """Report that the server stays where it was; return whether that ended the transfer.

        False: no such transfer was open any more (409), as the other node reported first.
        Raises `PanelRefused`, `PanelUnreachable`.
        """
        try:
            await self._call("failure", "POST", f"/servers/{uuid}/transfer/failure", None)
        except PanelRefused as error:
            if error.response_status != HTTPStatus.CONFLICT:
                raise
            return False
        return True

    async def _call(
        self,
        operation: str,
        method: str,
        path: str,
        read: Callable[[object], T] | None,
        timeout: float | None = None,
        body: object = None,
    ) -> T:
        """Return the answer's JSON, read with `read`; without it, the answer has no body.

        `operation` names it to the observer; `timeout` is the seconds to wait for one answer;
        `body` is sent as JSON.
        """
        started = self._reactor.seconds()
        pauses = iter(BACKOFF)
        while True:
            attempt = self._attempt(method, path, read, body)
            try:
                return await self._within(timeout or self._timeout, operation, attempt)
            except (CancelledError, NodeTokenRefused):
                raise
            except Exception as error:
                status = getattr(error, "response_status", None)
                if status == HTTPStatus.FORBIDDEN:
                    # The token may be refused, which this call shows, or this one server.
                    await self._call("list", "GET", _ANY_SERVER, server_page)
                if status not in (None, HTTPStatus.TOO_MANY_REQUESTS):
                    raise
                reason = _reason(error)
                retry_after = getattr(error, "retry_after", 0.0)
                wait = max(next(pauses), retry_after)
                if self._reactor.seconds() - started + wait > GIVE_UP_AFTER:
                    if status is not None:
                        raise
                    raise PanelUnreachable(
                        "the request to the Panel failed",
                        f"{method} {self._base}{path}: {reason}; try again when it answers",
                        retry_after,
                    ) from error
            self._log.warn(
                "no usable answer from the Panel to {method} {path}: {reason}; again in {pause} s",
                method=method,
                path=path,
                reason=reason,
                pause=round(wait, 1),
            )
            await deferLater(self._reactor, wait)

    async def _within(self, timeout: float, operation: str, attempt: Coroutine[Any, Any, T]) -> T:
        """Return the result of `attempt`, which `operation` names to the observer.

        `CancelledError` means that the caller cancelled it.
        """
        with self._observer.timing(PANEL, operation, self._reactor.seconds):
            waiting: Deferred[T] = Deferred.fromCoroutine(attempt)
            limit = self._reactor.callLater(timeout, waiting.cancel)
            try:
                return await waiting
            except Exception as error:
                if not _was_cancelled(error):
                    raise
                if limit.active():
                    raise CancelledError from error
                raise TimeoutError(f"no answer within {timeout:g} s") from error
            finally:
                if limit.active():
                    limit.cancel()

    async def _attempt(
        self, method: str, path: str, read: Callable[[object], T] | None, sent: object
    ) -> Any:
        content = None if sent is None else json.dumps(sent).encode()
        # Redirects are not followed: that could leak the token.
        try:
            response, body = await self._http.request(
                method, self._base + path, headers=self._headers, content=content
            )
        except AnswerRefused as error:
            raise InvalidData(
                f"{error}; see whether remote in the configuration is the Panel's address, and "
                "what a proxy in front of it sends"
            ) from error
        self.heard = time.time()
        self.date = _date_of(response)
        (asked, *_) = response.headers.getRawHeaders("Retry-After") or [""]
        retry_after = seconds_asked_for(asked)
        if HTTPStatus.BAD_REQUEST <= response.code < HTTPStatus.INTERNAL_SERVER_ERROR:
            reason = error_text(body)
            answered = f"was answered {response.code}: {reason}"
            is_for_node = response.code == HTTPStatus.FORBIDDEN and path.startswith(_NODE_PATHS)
            if is_for_node or response.code == HTTPStatus.UNAUTHORIZED:
                where = f"{method} {self._base}{path}"
                raise NodeTokenRefused(f"{where} {answered}", response.code, retry_after)
            what = f"{method} {path} {answered}"
            refusal = "the Panel refused this node's request"
            is_own = reason != NO_REASON
            raise PanelRefused(refusal, what, response.code, retry_after, is_own=is_own)
        if not HTTPStatus.OK <= response.code < HTTPStatus.MULTIPLE_CHOICES:
            raise _BadAnswer(f"it answered {response.code}: {error_text(body)}", retry_after)
        if read is not None:
            return read(json_of(body))
        # A maintenance page may have status 200, but its body is not JSON.
        return json_of(body) if body else None


def _date_of(response: IResponse) -> float | None:
    (text, *_) = response.headers.getRawHeaders("Date") or [""]
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _was_cancelled(error: Exception) -> bool:
    """Return whether a request was cancelled, also by the errors of twisted.web's Agent."""
    reasons = getattr(error, "reasons", ())
    return isinstance(error, CancelledError) or any(r.check(CancelledError) for r in reasons)


def _reason(error: Exception) -> str:
    reasons = getattr(error, "reasons", ())
    if reasons:
        return ", ".join(reason.getErrorMessage() for reason in reasons)
    return str(error) or type(error).__name__
