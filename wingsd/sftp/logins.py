"""Logins of SFTP: checked by the Panel, or refused by the node itself.

Every refusal says to the client that its credentials are wrong; the log has the reason with its
code. Source: Wings' user names, and the Panels' `POST sftp/auth`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import CancelledError, DeferredSemaphore
from twisted.logger import Logger

from wingsd.auth.tokens import DenyList, user_key
from wingsd.config import CALAGOPUS, Config, SftpLimits
from wingsd.errors import (
    LoginRefused,
    NodeTokenRefused,
    PanelRefused,
    StorageError,
    TreeTooLarge,
    WingsdError,
)
from wingsd.files.denylist import denylist_lines
from wingsd.panel.client import Panel
from wingsd.panel.schemas import SftpAccess
from wingsd.servers.operations import Operation
from wingsd.servers.registry import Servers
from wingsd.servers.server import Server
from wingsd.sftp.messages import Granted, Login, Rejected
from wingsd.util.addresses import address_block, parse_address
from wingsd.util.text import canonical_uuid

K = TypeVar("K")
V = TypeVar("V")
#: Seconds for which a refusal is kept, and how many refusals and addresses are.
REFUSAL_KEPT = 10.0
_MAX_REFUSALS = 4096
_MAX_COUNTED = 4096
#: Refused passwords of one address for all user names, as a multiple of those for one; and refused
#: keys of one address, as a multiple of those of one connection.
_NAMES = 10
#: Blocked addresses that were reported.
_MAX_REPORTED = 1024
#: What refused keys are counted by in place of a user name, which has no NUL.
_KEYS = "\0keys"


class LoginTries:
    """Logins whose password or key was wrong. Secrets are kept as keyed hashes only.

    `seconds` is a clock.
    """

    def __init__(self, limits: SftpLimits, seconds: Callable[[], float]) -> None:
        self._most = limits.authentication_password_attempts
        self._most_keys = limits.authentication_pubkey_attempts * _NAMES
        self._cooldown = limits.authentication_cooldown
        self._seconds = seconds
        self._key = secrets.token_bytes(32)
        self._refused: OrderedDict[bytes, float] = OrderedDict()
        self._counted: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()
        self._reported: OrderedDict[str, float] = OrderedDict()

    def is_refused(self, username: str, secret: str) -> bool:
        """Return whether this very login was refused seconds ago."""
        at = self._refused.get(self._digest(username, secret))
        return at is not None and self._seconds() - at < REFUSAL_KEPT

    def is_blocked(self, block: str, username: str) -> bool:
        """Return whether an address has had too many passwords refused."""
        return (
            self._count((block, username)) >= self._most
            or self._count((block, "")) >= self._most * _NAMES
        )

    def is_blocked_for_keys(self, block: str) -> bool:
        """Return whether an address has had too many public keys refused."""
        return self._count((block, _KEYS)) >= self._most_keys

    def is_to_be_reported(self, block: str) -> bool:
        """Return whether a login that a block refuses is the address's first for a cooldown."""
        now = self._seconds()
        at = self._reported.get(block)
        if at is not None and now - at < self._cooldown:
            return False
        _keep(self._reported, block, now, _MAX_REPORTED)
        return True

    def refused(self, block: str, username: str, secret: str, *, is_password: bool) -> None:
        """Note a wrong password, or a wrong key."""
        digest = self._digest(username, secret)
        _keep(self._refused, digest, self._seconds(), _MAX_REFUSALS)
        if is_password:
            self._note((block, username), self._most)
            self._note((block, ""), self._most * _NAMES)
        else:
            self._note((block, _KEYS), self._most_keys)

    def granted(self, block: str, username: str) -> None:
        """Forget the tries of an address for this user name."""
        self._counted.pop((block, username), None)

    def _digest(self, username: str, secret: str) -> bytes:
        text = f"{len(username)} {username} {secret}".encode("utf-8", "surrogatepass")
        return hmac.new(self._key, text, hashlib.sha256).digest()

    def _count(self, key: tuple[str, str]) -> int:
        times = self._counted.get(key)
        if times is None:
            return 0
        oldest = self._seconds() - self._cooldown
        while times and times[0] <= oldest:
            times.popleft()
        return len(times)

    def _note(self, key: tuple[str, str], most: int) -> None:
        times = self._counted.get(key, deque(maxlen=most))
        times.append(self._seconds())
        _keep(self._counted, key, times, _MAX_COUNTED)


def _keep(kept: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    """Keep a value as the newest, of at most so many."""
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > most:
        kept.popitem(last=False)


#: Calls of the Panel at a time, and those of one address; and logins that are checked at a time.
_CALLS, _CALLS_OF_ADDRESS = 8, 4
_WAITING = 256
#: Logins of one address that are checked at a time: a client may open this many connections.
_OF_ADDRESS = 64
_USERNAME = re.compile(r"(.+)\.([a-z0-9]{8})", re.IGNORECASE | re.DOTALL)
#: How a Panel says that a password or a key is wrong: Pterodactyl and Pelican by this text, with
#: the status that they also have for a user without a permission, and Calagopus by a status.
_WRONG_TEXT, _WRONG_STATUS = "credentials were not correct", HTTPStatus.EXPECTATION_FAILED
#: How a Panel answers a login that gives no access, or none any more: with a wrong password or key
#: as well. Other refusals are about its load, this node, or what the server is busy with.
_NO_ACCESS = (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, _WRONG_STATUS)
#: Characters of a user name in the log.
_SHOWN = 64
#: What a Calagopus' Panel does not check: with one of these a user may log in.
_SFTP_PERMISSIONS = frozenset(("*", "file.sftp", "files.sftp"))


@attrs.frozen(eq=False, repr=False)
class GrantedLogin:
    """A login that was granted, and when the Panel was asked, in seconds since the epoch.

    It is revoked like a token of its user.
    """

    login: Login
    user: str
    server: str
    permissions: tuple[str, ...]
    ignored: tuple[str, ...]
    issued: float

    @property
    def keys(self) -> tuple[str, ...]:
        """The identifiers by which a `DenyList` may refuse the login."""
        return (user_key(self.user, self.server), user_key(self.user))

    def is_still(self, found: SftpAccess) -> bool:
        """Return whether the Panel's answer of now gives the same access."""
        return (
            (canonical_uuid(found.user) or found.user) == self.user
            and canonical_uuid(found.server) == self.server
            and set(found.permissions) == set(self.permissions)
            and set(found.ignored_files) == set(self.ignored)
        )

    def message(self, server: Server) -> Granted:
        """Return the message to the SFTP process."""
        denied = denylist_lines(server.configuration.settings.egg.file_denylist)
        return Granted(
            self.login.request,
            self.user,
            self.server,
            server.directory,
            self.permissions,
            denied,
            self.ignored,
        )


def check_server(server: Server) -> None:
    """Raise `Forbidden` or `ServerBusy` where a server's files cannot be used by SFTP now."""
    if server.suspended:
        raise LoginRefused("the server is suspended")
    server.operations.check(Operation.CHANGE_FILES)


@attrs.define(eq=False, repr=False, slots=False)
class SftpLogins:
    """Checks logins. `now` gives seconds since the epoch, `seconds` is a monotonic clock."""

    _log = Logger()

    _config: Config
    _panel: Panel
    _servers: Servers
    _denied: DenyList
    _seconds: Callable[[], float]
    _now: Callable[[], float]

    def __attrs_post_init__(self) -> None:
        self._tries = LoginTries(self._config.system.sftp.limits, self._seconds)
        self._calls = DeferredSemaphore(_CALLS)
        #: The logins that are checked now, by the blocks of their addresses, and their turns.
        self._checked: Counter[str] = Counter()
        self._turns: dict[str, DeferredSemaphore] = {}

    async def check(self, login: Login) -> GrantedLogin | Rejected:
        """Return what a login grants, or its refusal, which is logged."""
        block = address_block(login.ip)
        refused = self._refused_before(login, block)
        if refused is not None:
            return refused
        if self._checked[block] >= _OF_ADDRESS or self._checked.total() >= _WAITING:
            # It is not known to be wrong: it neither counts nor is kept.
            why = "too many logins wait for the Panel's answer"
            self._log_refusal(login, LoginRefused.code, why)
            return Rejected(login.request)
        self._checked[block] += 1
        turns = self._turns.setdefault(block, DeferredSemaphore(_CALLS_OF_ADDRESS))
        try:
            async with turns:
                return self._refused_before(login, block) or await self._judged(login, block)
        finally:
            self._checked -= Counter((block,))
            if block not in self._checked:
                del self._turns[block]

    def _refused_before(self, login: Login, block: str) -> Rejected | None:
        """Return the refusal of a login that the Panel need not be asked about."""
        if self._tries.is_refused(login.username, login.secret):
            return Rejected(login.request)
        if (
            self._tries.is_blocked(block, login.username)
            if login.kind == "password"
            else self._tries.is_blocked_for_keys(block)
        ):
            if self._tries.is_to_be_reported(block):
                why = "too many were refused of this address; it can try again later"
                self._log_refusal(login, LoginRefused.code, why)
            return Rejected(login.request, final=True)
        return None

    async def _judged(self, login: Login, block: str) -> GrantedLogin | Rejected:
        username, is_password = login.username, login.kind == "password"
        try:
            granted = await self._check(login)
        except CancelledError:
            raise
        except WingsdError as error:
            # Whether the Panel says that the password or the key is wrong.
            is_wrong = isinstance(error, PanelRefused) and (
                error.response_status == _WRONG_STATUS or _WRONG_TEXT in str(error)
            )
            if is_wrong or not _USERNAME.fullmatch(username):
                self._tries.refused(block, username, login.secret, is_password=is_password)
            self._log_refusal(login, error.code, str(error))
            return Rejected(login.request)
        self._tries.granted(block, username)
        return granted

    def _log_refusal(self, login: Login, code: str, why: str) -> None:
        self._log.info(
            "sftp: login of {user!r} from {ip} with a {kind} refused: {why}",
            user=login.username[:_SHOWN],
            ip=login.ip,
            kind=login.kind.replace("_", " "),
            code=code,
            why=why,
        )

    async def _check(self, login: Login) -> GrantedLogin:
        if not _USERNAME.fullmatch(login.username):
            raise LoginRefused(
                "the user name is not that of a Panel's user, a dot, and the first eight "
                "characters of a server's UUID"
            )
        async with self._calls:
            issued = self._now()
            found = await self._panel.sftp_access(_body(login))
        user, uuid = canonical_uuid(found.user) or found.user, canonical_uuid(found.server)
        if uuid is None:
            raise LoginRefused("the Panel's answer does not name a server")
        granted = GrantedLogin(login, user, uuid, found.permissions, found.ignored_files, issued)
        if self._config.family == CALAGOPUS and _SFTP_PERMISSIONS.isdisjoint(found.permissions):
            raise LoginRefused("the user has not the permission file.sftp")
        await self._measure(self.usable(granted))
        self.usable(granted)  # it may have been deleted meanwhile
        return granted

    async def ask_again(self, login: Login) -> SftpAccess | None:
        """Return what a login that was granted gives access to now, None if to nothing.

        Raises `PanelError` where that is not known.
        """
        try:
            async with self._calls:
                return await self._panel.sftp_access(_body(login))
        except PanelRefused as error:
            is_known = error.is_own and error.response_status in _NO_ACCESS
            if isinstance(error, NodeTokenRefused) or not is_known:
                raise
            return None

    def usable(self, granted: GrantedLogin) -> Server:
        """Return the server, if the login can have it now. Raises why not."""
        server = self._servers.get(granted.server)
        check_server(server)
        if self._denied.revoked(granted.keys, granted.issued):
            raise LoginRefused("the user's access has just been revoked")
        return server

    async def _measure(self, server: Server) -> None:
        """Count the files before something is written, if they have a limit."""
        if server.files.limit is None or server.disk_bytes is not None:
            return
        try:
            await server.files.measured()
        except (StorageError, TreeTooLarge) as error:
            self._log.warn(
                "{server}: its disk limit is not held for SFTP: {error}",
                server=server.uuid,
                error=error,
            )


def _body(login: Login) -> dict[str, Any]:
    ip = login.ip
    with suppress(ValueError):
        # As Panels compare it: one of IPv4 in its own form, and without a zone.
        ip = str(parse_address(ip))
    address = f"[{ip}]:{login.port}" if ":" in ip else f"{ip}:{login.port}"
    return {
        "type": login.kind,
        "username": login.username,
        "password": login.secret,
        "ip": address,
        # Panels read neither; the session's own id is not known to the SSH library's users.
        "session_id": base64.b64encode(secrets.token_bytes(32)).decode(),
        "client_version": base64.b64encode(login.client_version.encode()).decode(),
    }
