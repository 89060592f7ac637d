"""The calls about servers: their settings, power, installations, consoles and backups."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Annotated, Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from wingsd.api.context import NodeContext
from wingsd.api.resource import Endpoint, ServerResource
from wingsd.auth.tokens import user_key
from wingsd.backups.creation import missing_backup
from wingsd.backups.points import PointBackup
from wingsd.backups.store import backup_uuid
from wingsd.errors import (
    BadRequest,
    InvalidData,
    ServerAlreadyExists,
    ServerBusy,
    ServerNotFound,
    StorageError,
    Unprocessable,
    WingsdError,
)
from wingsd.http.operations import INVALID, Call, PlainText, Topic, call
from wingsd.panel.schemas import Configuration, InstallScript, configuration_from_panel
from wingsd.restores.content import LocalArchive, RestoreArchive
from wingsd.servers.installations import InstallOptions
from wingsd.servers.operations import Operation, Operations, refusal
from wingsd.servers.power_states import PowerAction
from wingsd.servers.server import Server, ServerDetails, Utilization
from wingsd.util.serialization import Keywords
from wingsd.util.text import canonical_uuid, canonical_uuids, require_uuid

# The status until the Panel has sent the list of servers.
_NOT_LOADED = 503
_CONFLICT = (409, 500)


@attrs.frozen(eq=False, repr=False)
class NewServer:
    """A server to be created. The Panel has its settings."""

    uuid: Annotated[str, Keywords(format="uuid")]
    start_on_completion: bool = False
    skip_scripts: Annotated[bool, "Do not run the egg's installation script."] = False


class ServerEndpoint(Endpoint):
    """`/api/servers/{uuid}`: one server."""

    topic = Topic.SERVERS
    fails = (404, _NOT_LOADED)

    @call(200, "The server.")
    async def get_server(self) -> ServerDetails:
        """Return a server's configuration and state."""
        return self._node.servers.get(self.uuid).details()

    # Not a `ServerResource`: a server being received is not in the registry yet.
    @call(204, "The server is deleted.", fails=_CONFLICT)
    async def delete_server(self) -> None:
        """Delete a server with its container and its files.

        A transfer, the restoring of a backup, or a rewind is cancelled first. With Pelican's Panel
        its local backups are deleted as well, unless it has moved to another node.
        """
        # After a transfer that has sent everything, the Panel makes this call before it answers
        # the destination: it must return quickly.
        uuid = self.uuid
        is_incoming = uuid in self._node.receiver.servers
        moves = is_incoming or uuid in self._node.sender.servers
        with suppress(ServerNotFound):
            # The Panel has it on another node, or may have.
            moves = moves or self._node.servers.get(uuid).disowned
        await self._node.sender.release(uuid)
        await self._node.receiver.release(uuid, keeps=self.is_calagopus)
        await self._node.rewinds.release(uuid)
        # Last: it waits for nothing after the end of a restore, so that none can begin again.
        await self._node.restores.release(uuid)
        try:
            await self._node.servers.delete(uuid, self._node.sender.put_away(uuid))
        except ServerNotFound:
            self._node.sender.deleted(uuid)
            # The cancelled transfer to this node has removed the server.
            if not is_incoming:
                raise
        else:
            self._node.sender.deleted(uuid)
        keeps = not self._config.system.backups.remove_backups_on_server_delete
        if self._config.is_pelican and not moves and not keeps:
            await self._node.backups.delete_with_server(uuid)


# Console lines in an answer at most, as in Wings.
MAX_LINES = 100


@attrs.frozen(eq=False, repr=False)
class Commands:
    """Commands for the console, one a line."""

    commands: tuple[str, ...]


@attrs.frozen(eq=False, repr=False)
class LogsQuery:
    """How many lines to return. Strings, so that the handler words the error."""

    size: Annotated[
        str,
        f"Number of lines, {MAX_LINES} at most.",
        Keywords(type="integer", minimum=1, default=MAX_LINES),
    ] = ""
    lines: Annotated[
        str,
        f"Number of lines, {MAX_LINES} at most, of an answer in plain text.",
        Keywords(type="integer", minimum=1),
    ] = ""


@attrs.frozen(eq=False, repr=False)
class ConsoleLines:
    """The last lines of the console, the oldest first."""

    data: Annotated[list[str], Keywords(maxItems=MAX_LINES)]


def _number_of_lines(name: str, text: str, usual: int, limit: str = "") -> int:
    try:
        number = int(text or usual)
    except ValueError:
        number = 0
    if number <= 0:
        raise BadRequest(INVALID, f"{name}: expected a number of lines from 1{limit}")
    return number


@attrs.frozen(eq=False, repr=False)
class SyncedServer:
    """The new settings of a server, as Calagopus' Panel sends them; other Panels send no body."""

    server: Annotated[
        dict[str, Any] | None,
        "What the Panel describes the server by: `settings` and `process_configuration`, or the "
        "settings alone.",
    ] = None


# As in Wings: seconds that a power action may wait for another one at most, and by default.
MAX_WAIT = 300
DEFAULT_WAIT = 30

ActionName = Annotated[str, Keywords(enum=tuple(action.value for action in PowerAction))]
Wait = Annotated[int, f"Seconds to wait for a power action in progress; {MAX_WAIT} at most."]


@attrs.frozen(eq=False, repr=False)
class PowerRequest:
    """A power action."""

    action: ActionName
    wait_seconds: Wait = DEFAULT_WAIT


@attrs.frozen(eq=False, repr=False)
class AllPowerRequest:
    """A power action on several servers."""

    servers: Annotated[
        Any,
        '`{"type": "all"}`, `{"type": "uuids", "uuids": [...]}`, or a list of UUIDs. Servers that '
        "are not on this node are ignored.",
        Keywords(type=("object", "array")),
    ]
    action: ActionName
    wait_seconds: Wait = DEFAULT_WAIT


@attrs.frozen(eq=False, repr=False)
class AffectedServers:
    """How many servers a power action is begun for."""

    affected: Annotated[int, Keywords(minimum=0)]


class AllServersEndpoint(Endpoint):
    """The calls about all servers."""

    topic = Topic.SERVERS
    fails = (_NOT_LOADED,)
    _log = Logger()

    @call(200, "The servers.")
    async def list_servers(self) -> list[ServerDetails]:
        """List all servers with their configuration and state."""
        return [server.details() for server in self._node.servers.all()]

    @call(200, "What each server uses, by its UUID.")
    async def get_servers_utilization(self) -> dict[str, Utilization]:
        """Return what the servers use, by their UUIDs."""
        return {server.uuid: server.details().utilization for server in self._node.servers.all()}

    @call(202, "The server is being created.", fails=(409, 422, 500))
    async def create_server(self, body: NewServer) -> None:
        """Create a server with the settings that the Panel has for it.

        It is installed in the background by its egg's script, and the result is reported to the
        Panel. A restart of this node does not end that. When it fails, the server exists
        nevertheless: it is offline, and its console and its installation log have the reason.
        """
        refusal = Unprocessable(INVALID, "uuid: expected the UUID of a server")
        uuid = require_uuid(body.uuid, refusal)
        with suppress(ServerNotFound):
            self._node.servers.get(uuid)  # `ServersNotLoaded` until the Panel has sent the list.
            raise ServerAlreadyExists("This server is already on this node.", "delete it first")
        self._node.receiver.require_open()
        await self._node.servers.create(
            uuid,
            start_on_completion=body.start_on_completion,
            options=InstallOptions(skip_script=body.skip_scripts),
        )

    @call(202, "The actions have started.", fails=(422,))
    async def power_servers(self, body: AllPowerRequest) -> AffectedServers:
        """Start, stop, restart or kill several servers.

        Servers that cannot be started or stopped now are left out.
        """
        action, selected = _action(body.action), _selected(body.servers)
        affected = 0
        for server in self._node.servers.all():
            if selected is None or server.uuid in selected:
                try:
                    _check(server, action)
                except WingsdError:
                    continue
                _start(server, action, body.wait_seconds)
                affected += 1
        return AffectedServers(affected)


def _action(name: str) -> PowerAction:
    try:
        return PowerAction(name)
    except ValueError:
        raise Unprocessable(
            "The power action provided was not valid, "
            'should be one of "stop", "start", "restart", "kill"'
        ) from None


def _check(server: Server, action: PowerAction) -> None:
    """Raise `BadRequest` or `Conflict` where the action cannot be begun now."""
    if action.starts and server.suspended:
        raise BadRequest("Cannot start or restart a server that is suspended.")
    server.check_power(action)


def _start(server: Server, action: PowerAction, wait_seconds: int) -> None:
    """Begin an action. The server reports a failure itself, in its console and in the log."""
    wait = wait_seconds if 0 <= wait_seconds <= MAX_WAIT else DEFAULT_WAIT
    Deferred.fromCoroutine(server.power(action, wait)).addErrback(lambda _: None)


def _selected(servers: Any) -> frozenset[str] | None:
    """Return the UUIDs of the servers that are meant, None for all of them."""
    if isinstance(servers, dict):
        if servers.get("type") == "all":
            return None
        servers = servers.get("uuids") if servers.get("type") == "uuids" else None
    uuids = canonical_uuids(servers)
    if uuids is None:
        raise Unprocessable(
            INVALID, 'servers: expected {"type": "all"}, {"type": "uuids", "uuids": [...]}'
        )
    return frozenset(uuids)


#: Lines of a log that are returned unless more or fewer are asked for.
DEFAULT_LINES = 1000
_STARTED = "The installation has started."


@attrs.frozen(eq=False, repr=False)
class Reinstallation:
    """How a server is installed again; everything may be left out."""

    truncate_directory: Annotated[bool, "Delete the server's files first."] = False
    installation_script: Annotated[
        InstallScript | None, "Run this script in place of the egg's."
    ] = None


@attrs.frozen(eq=False, repr=False)
class InstallOutput:
    """The output of the last installation's script."""

    data: str


@attrs.frozen(eq=False, repr=False)
class InstallLogQuery:
    """How many lines to return."""

    lines: Annotated[
        str,
        "Number of lines, the last ones.",
        Keywords(type="integer", minimum=1, default=DEFAULT_LINES),
    ] = ""


class ServerCallsEndpoint(ServerResource):
    """The calls about one server but `GET` and `DELETE` of it: console, power, installation."""

    topic = Topic.SERVERS

    @call(204, "The commands are sent.", fails=(500, 502))
    async def send_commands(self, body: Commands) -> None:
        """Send commands to the console, in order. Stops at the first that fails."""
        for line in body.commands:
            await self.game_server.command(line)

    @call(200, "The lines.", fails=(400,))
    async def get_logs(self, query: LogsQuery) -> ConsoleLines | PlainText:
        """Return the last lines of the console.

        With `lines`, as Calagopus' Panel asks for them, they are plain text.
        """
        asked = query.size or query.lines
        number = _number_of_lines("size", asked, MAX_LINES, f" to {MAX_LINES}")
        lines = await self.game_server.logs(min(number, MAX_LINES))
        if query.lines and not query.size:
            return PlainText("".join(f"{line}\n" for line in lines))
        return ConsoleLines(lines)

    @call(204, "The settings are updated.", fails=(500,))
    async def sync_server(self, body: SyncedServer | None = None) -> None:
        """Take over a server's settings: those in the body, else fetched from the Panel.

        A suspended server is stopped, and killed after a minute; on a node of Pelican's its
        WebSockets are closed.
        Changed limits of memory, CPU and I/O are applied to the running container.
        """
        given = None if body is None else body.server
        await self.game_server.sync(None if given is None else self._described(given))

    def _described(self, given: dict[str, Any]) -> Configuration:
        described = given if "settings" in given else {"settings": given}
        try:
            found = configuration_from_panel(described)
        except InvalidData as error:
            raise BadRequest(INVALID, "; ".join(str(error).split("\n"))) from error
        if canonical_uuid(found.settings.uuid) != self.game_server.uuid:
            raise BadRequest(INVALID, "server.settings.uuid: expected the UUID in the path")
        if "process_configuration" not in described:
            return attrs.evolve(found, process=self.game_server.configuration.process)
        return found

    @call(202, "The action has started.", fails=(409, 422))
    async def power_server(self, body: PowerRequest) -> None:
        """Start, stop, restart or kill a server.

        The result is shown in its console and by its events.
        """
        action = _action(body.action)
        _check(self.game_server, action)
        _start(self.game_server, action, body.wait_seconds)

    async def log(self, *, output: bool) -> str:
        """Return the log of the last installation. Raises `StorageError`."""
        text = await self._node.installations.log(self.uuid, output=output)
        if text is None:
            raise StorageError(
                "there is none: the server was not installed on this node",
                "failed to read the log for the installation process.",
            )
        return text

    @call(202, _STARTED, fails=_CONFLICT)
    async def install_server(self) -> None:
        """Run the installation script of a server's egg again.

        The result is reported to the Panel as that of a first installation.
        """
        await self._node.installations.repeat(self.game_server, reinstall=False)

    @call(202, _STARTED, fails=_CONFLICT)
    async def reinstall_server(self, body: Reinstallation | None = None) -> None:
        """Stop a server, fetch its settings, and run the installation script of its egg again.

        Its files stay, unless `truncate_directory` is true.
        """
        asked = body or Reinstallation()
        options = InstallOptions(
            truncate=asked.truncate_directory, script=asked.installation_script
        )
        await self._node.installations.repeat(self.game_server, options, reinstall=True)

    @call(202, "The installation is being stopped.", fails=(409,))
    async def abort_installation(self) -> None:
        """Stop an installation, which is then reported to the Panel as failed."""
        self._node.installations.abort(self.uuid)

    @call(200, "The output.", fails=(500,))
    async def get_install_output(self) -> InstallOutput:
        """Return what the script of the server's last installation has written."""
        return InstallOutput(await self.log(output=True))

    @call(200, "The lines.", fails=(400, 500))
    async def get_install_log(self, query: InstallLogQuery) -> PlainText:
        """Return the last lines of the log of the server's last installation."""
        count = _number_of_lines("lines", query.lines, DEFAULT_LINES)
        lines = (await self.log(output=False)).splitlines(keepends=True)
        return PlainText("".join(lines[-count:]))


Uuid = Annotated[str, Keywords(format="uuid")]


class SocketEndpoint(ServerResource):
    """`/api/servers/{uuid}/ws`: for browsers, which send their token in the first message."""

    topic = Topic.CONSOLE

    @call(101, "The WebSocket is open.", fails=(400, 403, 426))
    async def open_console(self) -> None:
        """Open a WebSocket (RFC 6455) for the console and the events of a server.

        The first message must be `{"event": "auth", "args": [TOKEN]}`, with a token issued by the
        Panel. On a node of Pelican's, the WebSocket of a suspended server is closed at once,
        with the code 4409.

        For a minute after the server was transferred to another node the WebSocket can still be
        opened; it sends the end of the transfer and accepts nothing else.
        """
        server = self.game_server
        self._node.sockets.open(server.uuid, server, self._request)

    async def handle(self, call: Call) -> None:
        """Run the call. Raises `ServerNotFound`, `ServersNotLoaded`."""
        try:
            await super().handle(call)
        except ServerNotFound:
            if not self._node.sockets.transfers.has_moved(self.uuid):
                raise
            self._node.sockets.open(self.uuid, None, self._request)


async def revoke(node: NodeContext, keys: tuple[str, ...]) -> None:
    """Refuse tokens that were issued until now, by their `jti` or by `user_key`.

    Raises `StorageError` where that cannot be recorded.
    """
    node.denied.deny(keys, node.now())
    # After the answer the Panel relies on it, also when this process is restarted.
    await node.database.deny(keys)


async def revoke_users(
    node: NodeContext,
    users: Collection[str],
    servers: Collection[str],
    close: Callable[[str, Collection[str]], int],
) -> int:
    """Refuse the tokens of users for these servers, of all when there are none.

    Close what they have open there, and return how many. Raises `StorageError`.
    """
    names = [(user, server) for user in users for server in (servers or ("",))]
    try:
        await revoke(node, tuple(user_key(*each) for each in names))
    finally:
        # Also where the disk fails: the tokens are refused as long as this daemon runs.
        closed = sum(close(user, servers) for user in users)
    return closed


@attrs.frozen(eq=False, repr=False)
class DeniedTokens:
    """Ids of tokens, the claim `jti`."""

    jtis: tuple[str, ...]


@attrs.frozen(eq=False, repr=False)
class UserPermissions:
    """The present permissions of a user for the server."""

    user: Uuid
    permissions: tuple[str, ...] = ()
    ignored_files: tuple[str, ...] = ()


@attrs.frozen(eq=False, repr=False)
class ChangedPermissions:
    """The users whose permissions have changed."""

    user_permissions: tuple[UserPermissions, ...]


@attrs.frozen(eq=False, repr=False)
class UserAndServers:
    """A user, and servers; none stands for all servers."""

    user: Uuid
    servers: tuple[Uuid, ...] = ()


@attrs.frozen(eq=False, repr=False)
class DeauthorizedUser:
    """A user who has lost the access to servers, or whose permissions have changed."""

    user: Annotated[str, "The user's UUID.", Keywords(format="uuid")] = ""
    servers: Annotated[tuple[str, ...], "UUIDs of servers. Without any, all are meant."] = ()
    json: Annotated[
        UserAndServers | None, "The same, in place of the other two, as Pelican's Panel sends it."
    ] = None


class AccessEndpoint(Endpoint):
    """The calls by which a Panel takes the access to consoles and files back from users."""

    topic = Topic.CONSOLE
    fails = (500,)
    _log = Logger()

    @call(204, "The tokens are refused from now on.")
    async def deny_tokens(self, body: DeniedTokens) -> None:
        """Refuse tokens for the WebSocket that were issued until now.

        The id of a token is unique, whatever server the path has. It does not say whose it is:
        the Panel is asked five seconds later whether the users of the server's SFTP sessions may
        go on.
        """
        self._node.sftp.sessions.check_server(self.uuid)
        await revoke(self._node, body.jtis)

    @call(204, "Tokens with other permissions are refused from now on.", fails=(422,))
    async def change_permissions(self, body: ChangedPermissions) -> None:
        """Refuse the tokens of users whose permissions for a server have changed.

        Their pages get a new token from the Panel, which has the present permissions. Their SFTP
        sessions are closed.
        """
        users = [_user(each.user, "user_permissions.user") for each in body.user_permissions]
        await revoke_users(self._node, users, (self.uuid,), self._node.sftp.sessions.close_user)

    @call(204, "The tokens are void, WebSockets and sessions closed.", fails=(422,))
    async def deauthorize_user(self, body: DeauthorizedUser) -> None:
        """Close a user's WebSockets and SFTP sessions of some servers.

        Tokens issued until now are refused.
        """
        given = body.json or UserAndServers(body.user, body.servers)
        if not given.user:
            raise BadRequest(INVALID, "user: is missing and has no default")
        user, servers = _user(given.user, "user"), canonical_uuids(given.servers)
        if servers is None:
            raise Unprocessable(INVALID, "servers: expected the UUIDs of servers")
        sftp = self._node.sftp.sessions.close_user(user, servers)
        closed = await revoke_users(self._node, (user,), servers, self._node.sockets.close_user)
        self._log.info(
            "user {user} deauthorized for {servers}: {closed} WebSockets and {sftp} SFTP sessions "
            "closed",
            user=user,
            servers=", ".join(servers) or "all servers",
            closed=closed,
            sftp=sftp,
        )


def _user(text: str, path: str) -> str:
    return require_uuid(text, Unprocessable(INVALID, f"{path}: expected the UUID of a user"))


#: The message of Wings.
_NO_BACKUP_UUID = "The backup identifier must be a valid UUID."


def _backup(text: str) -> str:
    advice = "a backup is identified by its UUID"
    return require_uuid(text, BadRequest(_NO_BACKUP_UUID, advice))


#: What needs the backups of a server to stay. A download does not: it reads on.
_KEEPING = (
    Operation.TRANSFER_OUT,
    Operation.FOLLOW,
    Operation.TRANSFER_IN,
    Operation.RESTORE,
)


def _check_unused(operations: Operations) -> None:
    """Raise ServerBusy while a backup of the server may be sent to another node, or restored."""
    for keeping in _KEEPING:
        if operations.runs(keeping):
            raise ServerBusy(refusal(keeping, Operation.BACKUP), "try again when that is over")


@attrs.frozen(eq=False, repr=False)
class BackupRequest:
    """A backup to be made."""

    uuid: Annotated[str, Keywords(format="uuid")]
    adapter: Annotated[str, "Where it is kept: `wings` is this node."]
    ignore: Annotated[
        str,
        "What it leaves out, in lines as in gitignore. When it is empty, the server's own list "
        "counts: `.pteroignore`, of Pelican `.pelicanignore`, of Calagopus both.",
    ] = ""


class BackupsEndpoint(ServerResource):
    """The calls about the backups of one server, but that which restores one."""

    topic = Topic.BACKUPS

    @call(202, "The backup is being made.", fails=_CONFLICT)
    async def make_backup(self, body: BackupRequest) -> None:
        """Make a backup of a server, whose program runs on.

        Its end is reported to the Panel, also after a restart of this node, and shown in the
        server's console.
        """
        backup = _backup(body.uuid)
        await self._node.backups.begin(self.game_server, backup, body.adapter, body.ignore)

    @call(204, "The backup is deleted.", fails=_CONFLICT)
    async def delete_backup(self) -> None:
        """Delete a local backup of a server.

        One that is being made is cancelled. A download of it that is under way goes on to its end.
        """
        _check_unused(self.game_server.operations)
        await self._node.backups.delete(self.uuid, backup_uuid(self.part("backup")))

    @call(204, "They are deleted.", fails=_CONFLICT)
    async def delete_all_backups(self) -> None:
        """Delete all local backups of a server.

        Backups of which nothing tells whose they are stay.
        """
        _check_unused(self.game_server.operations)
        await self._node.backups.delete_all(self.uuid)


@attrs.frozen(eq=False, repr=False)
class DeletedBackup:
    """How a backup is deleted; everything may be left out."""

    adapter: Annotated[str, "Where it is kept: `wings` is this node."] = "wings"
    server: Annotated[str | None, "Its server.", Keywords(format="uuid")] = None
    foreground: Annotated[bool, "Whether the answer waits for the end."] = False


class BackupDeletionEndpoint(Endpoint):
    """`/api/backups/{backup}`, for Calagopus' Panel."""

    topic = Topic.BACKUPS
    _log = Logger()

    @call(202, "The backup is being deleted.", fails=(404, *_CONFLICT))
    async def begin_backup_deletion(self, body: DeletedBackup | None = None) -> None:
        """Delete a local backup, and report to the Panel how that has ended."""
        asked = body or DeletedBackup()
        if asked.adapter != "wings":
            raise BadRequest(INVALID, "adapter: this node has only backups of the kind wings")
        backup = _backup(self.part("backup"))
        refusal = BadRequest(INVALID, "server: expected the UUID of a server")
        server = "" if asked.server is None else require_uuid(asked.server, refusal)
        server = await self._node.backups.owner(server, backup)
        for known in self._node.servers.all():
            # Where nothing tells whose it is, any server may be using it.
            if server in ("", known.uuid):
                _check_unused(known.operations)
        deleting = Deferred.fromCoroutine(self._node.backups.delete_and_report(server, backup))
        deleting.addErrback(
            lambda failure: self._log.failure(
                "backup {backup}: its deletion failed", failure, backup=backup
            )
        )
        if asked.foreground:
            await deleting


WINGS, S3 = "wings", "s3"


@attrs.frozen(eq=False, repr=False)
class RestoreRequest:
    """Which backup is restored, and how."""

    adapter: Annotated[str, Keywords(enum=(WINGS, S3))]
    truncate_directory: Annotated[
        bool,
        "Replace all files of the server. Otherwise those of the backup are laid over them.",
    ] = False
    download_url: Annotated[
        str | None, "A signed link to the archive, for a backup in S3.", Keywords(format="uri")
    ] = None


class RestoreEndpoint(ServerResource):
    """`/api/servers/{uuid}/backup/{backup}/restore`."""

    topic = Topic.SERVERS

    @call(202, "The backup is being restored.", fails=_CONFLICT)
    async def restore_backup(self, body: RestoreRequest) -> None:
        """Restore a backup of a server.

        Its archive is opened, or requested, before the answer; all of it is then read and verified
        before the server is stopped. Of a point of a history, only what differs is. The end is
        reported to the Panel.
        """
        backup = require_uuid(self.part("backup"), BadRequest(_NO_BACKUP_UUID))
        if body.adapter not in (WINGS, S3):
            raise BadRequest(INVALID, f'adapter: expected "{WINGS}" or "{S3}"')
        if body.adapter == S3 and not body.download_url:
            raise BadRequest(
                "The download_url field is required when the backup adapter is set to S3."
            )
        if body.adapter == WINGS and (point := await self._point(backup)) is not None:
            rewinds = self._node.rewinds.get()
            await rewinds.restore(self.game_server, point, truncate=body.truncate_directory)
            return
        opener = partial(self._open, backup, body)
        await self._node.restores.begin(
            self.game_server, backup, opener, truncate=body.truncate_directory
        )

    async def _point(self, backup: str) -> PointBackup | None:
        """Return a backup that is a point, None where there is an archive or nothing."""
        found = await self._node.disk.run(self._node.backup_store.find, self.uuid, backup)
        return None if found else await self._node.point_backups.find(self.uuid, backup)

    async def _open(self, backup: str, body: RestoreRequest) -> RestoreArchive:
        """Open the archive. Raises `BackupMissing`, `StorageError`, `DownloadFailed`."""
        if body.adapter == S3:
            return await self._node.restore_links.open(body.download_url or "")
        opened = await self._node.disk.run(self._node.backup_store.open, self.uuid, backup)
        if opened is None:
            raise await missing_backup(self._node.database, self.uuid, backup)
        found, file = opened
        return LocalArchive(file, found.catalogue.sha256 if found.catalogue is not None else "")
