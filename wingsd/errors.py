"""The errors of wingsd, each with a code, the status of its answer, and its messages.

The docstring of a class is for people who meet the error, in Markdown: a title, the cause, the
remedy. `wingsctl explain` prints it, and the page of troubleshooting is made of all of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

_MIB = 1024 * 1024


class InvalidData(ValueError):
    """A file, or an answer of the Panel, is not in the expected form.

    Cause: each line that follows in the log has the path of a value and what is expected there.

    Remedy: correct the value, in the file or in the Panel.
    """

    # The message has one line per fault: the path of the key, what was expected and what found.
    code = "invalid-data"


class ConfigError(Exception):
    """The configuration is invalid.

    The daemon writes the reason in one line, `wingsd: …`, and does not start. At a reload it keeps
    the previous configuration.

    Cause: the message names the file, the key and the value that is expected there. Usual reasons
    for a file that is not YAML: a tab in the indentation, a colon or a `#` in a value without
    quotes, half of a pasted file.

    Remedy: correct the file, or paste the contents of the node's *Configuration* tab in the Panel
    again, and check it with `wingsctl check-config`.

    - `is missing and has no default`: `token_id`, `token` or `remote` is not there.
    - `expected …, found …`: text that looks like a number needs quotes; numbers, `true` and
      `false` must have none. 0 means "no limit" only where the reference of the configuration says
      so.
    - `system.openat_mode`: the kernel is older than 5.6, or a sandbox forbids `openat2`. `auto`
      uses `openat` there.
    - a PEM file cannot be used: the directories `live` and `archive` of certbot are readable by
      root only. The package's service reads them; any other daemon's group needs access.
    - `cannot listen on …`: with `Address already in use`, `ss -ltnp` shows which program has the
      port, often Wings, which must not run beside wingsd. Ports below 1024 need
      `CAP_NET_BIND_SERVICE`, or a socket of systemd.
    - `another wingsd is running`: to run two on one machine, give each its own `system.data` and
      `system.root_directory`.
    """

    code = "invalid-configuration"


class WingsdError(Exception):
    """An error in wingsd.

    Cause: the log of the node has it with a traceback. A transfer fails by it, and a server that
    was being sent stays on the source.

    Remedy: report it in the repository's issues, with the traceback; SECURITY.md says how to
    report what should stay private. Where the log says that the next start completes something,
    restart the daemon when no transfer is under way.
    """

    # The base of all errors with an HTTP answer.

    #: The kind of error, which never changes: the name of the class, unless it has another.
    code = "internal-error"
    status = 500
    #: Seconds after which the request may be sent again, 0 if unknown.
    retry_after: float = 0.0
    #: Whether it comes again until a person has changed something.
    is_final = False

    def __init_subclass__(cls) -> None:
        if "code" not in vars(cls):
            cls.code = re.sub("(?<!^)(?=[A-Z])", "-", cls.__name__).lower()

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message, detail)
        #: The answer's `error`.
        self.message = message
        #: The reason and what to do; may be empty.
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.message.removesuffix('.')}: {self.detail}" if self.detail else self.message

    def add_context(self, subject: str) -> None:
        """Begin the detail with the one of several things that the error is about."""
        self.detail = f"{subject}: {self.detail}" if self.detail else subject


class _Fixed:
    """An error whose message is always the same, and its detail unless one is given."""

    message: str
    detail = ""

    def __init__(self, detail: str = "") -> None:
        super().__init__(self.message, detail or self.detail)  # type: ignore[call-arg]


def error_code(error: BaseException) -> str:
    """Return the code of an error; any but a `WingsdError` is an internal one."""
    return error.code if isinstance(error, WingsdError) else WingsdError.code


def error_codes() -> tuple[str, ...]:
    """Return the codes of all errors that an answer may have, sorted."""
    return tuple(sorted(kind.code for kind in _kinds()))


class Explanation(NamedTuple):
    """The explanation of the errors with a code, in Markdown; `text` is the whole.

    `status` is that of the answer, None for an error that no request is answered with.
    """

    code: str
    status: int | None
    title: str
    cause: str
    remedy: str
    text: str

    @classmethod
    def of(cls, kind: type[WingsdError | ConfigError | InvalidData]) -> Explanation:
        """Read the docstring of a class."""
        # From Python 3.13 on docstrings are without their indentation.
        text = (kind.__doc__ or "").replace("\n    ", "\n").strip()
        title, *paragraphs = (" ".join(each.split()) for each in text.split("\n\n"))
        found = dict(each.split(": ", 1) for each in paragraphs if ": " in each)
        status = getattr(kind, "status", None)
        return cls(kind.code, status, title, found.get("Cause", ""), found.get("Remedy", ""), text)


def explanations() -> dict[str, Explanation]:
    """Return the explanations of all errors by their codes, sorted."""
    found = map(Explanation.of, (*_kinds(), ConfigError, InvalidData))
    return {each.code: each for each in sorted(found)}


def _kinds() -> list[type[WingsdError]]:
    found = [WingsdError]
    for kind in found:
        found += kind.__subclasses__()
    return found


class Unauthorized(WingsdError):
    """The token of the request is missing or invalid.

    Cause: `token` in this node's configuration is not the one of the Panel, or another node's.

    Remedy: compare it with the node's *Configuration* tab in the Panel, and restart the node.
    """

    status = 401


class Forbidden(WingsdError):
    """The token, or the origin of the web page, does not allow this.

    Cause: the Panel's request has another token than this node's configuration, which is an old
    one or another node's. Of a web page: its origin is neither that of `remote` nor in
    `allowed_origins`.

    Remedy: copy the node's configuration from the Panel again, and restart the node. Where the
    Panel is opened under another name, correct `remote`, or add the origin to `allowed_origins`.
    """

    status = 403


class ServerNotFound(WingsdError):
    """The server is unknown to this node, or to the Panel.

    Cause: it was deleted, it has moved, or the request was sent to another node than its own.

    Remedy: look in the Panel which node the server belongs to.
    """

    status = 404


class ServersNotLoaded(_Fixed, WingsdError):
    """The node has not loaded its servers yet.

    Cause: it has just started, and is requesting its servers from the Panel.

    Remedy: try again in a minute. If it lasts, `wingsctl status` says whether the Panel answers,
    and why not.
    """

    status = 503
    message = "this node has not loaded its servers yet"
    detail = (
        "it is still requesting them from the Panel; try again in a minute, and see by "
        "wingsctl status whether the Panel answers"
    )


class Unprocessable(WingsdError):
    """A value in the request is invalid.

    Cause: the detail names the value, and what is expected there.

    Remedy: correct the value.
    """

    status = 422


#: Wings' message for a command to a stopped server.
NOT_RUNNING = "Cannot send commands to a stopped server instance."


class ServerNotRunning(WingsdError):
    """The server is not running.

    Cause: a command was sent to it, or asked for something that only a running server has.

    Remedy: start it.
    """

    status = 502


class Conflict(WingsdError):
    """The request conflicts with what the server or the node is doing.

    Cause: the message names it.

    Remedy: wait for that to end, or follow the detail.
    """

    status = 409


class ServerAlreadyExists(Conflict):
    """The server is on this node, or is being received.

    Nothing on this node was changed.

    Cause: the Panel lists the server as one of this node's, or it runs here: a transfer would
    overwrite it. Or a transfer of it is under way; since when, and its step, are in the detail.

    Remedy: look in the Panel which node it belongs to. A transfer whose source has failed ends
    after `system.transfers.stall_timeout` seconds without data; or cancel it in the Panel. A
    server that the Panel is to create here must be deleted here first.
    """

    is_final = True


class ServerBusy(Conflict):
    """Another action on the server is under way.

    Cause: the message names what excludes the request, such as an installation, a transfer, a
    restore or a power action.

    Remedy: try again when it has ended.
    """


class TransferCancelled(_Fixed, Conflict):
    """The transfer was cancelled.

    Cause: a person cancelled it in the Panel, or by `wingsctl cancel` at either node. The server
    stays on the source.

    Remedy: start it again if it was cancelled by mistake.
    """

    message = "the transfer was cancelled"
    detail = "start it again"


class BadRequest(WingsdError):
    """The request has an invalid value or part.

    Cause: the message or the detail names it.

    Remedy: correct the request.
    """

    status = 400


class DiskLimitExceeded(_Fixed, BadRequest):
    """The server is larger than its disk limit in the Panel.

    Cause: the detail has both figures, or the file that could not be written: `the disk is full`
    or `the disk quota is used up`. The lengths of files count, so a sparse file counts with its
    holes; `du --apparent-size` shows them. The node's own disk is not meant: that is
    `storage-failed`.

    Remedy: raise the limit in the Panel, or delete files; then start or transfer the server again.
    """

    message = "There is not enough disk space available to perform that action."


class StorageError(WingsdError):
    """Reading or writing failed on this node's disk.

    Cause: the detail has the file and the reason of the operating system.

    Remedy: follow the detail; what it leaves open is here.

    - `the disk is full: … MiB more`: `system.transfers.disk_reserve`, and what other moves will
      bring, are kept free, so the disk counts as full while some space is left. `inodes are free`:
      too many small files; delete some, or recreate the filesystem with more inodes.
    - `read-only`, `the disk failed`, `could not be synced`, `the disk has lost what was written to
      it`: look into the kernel's log (`dmesg`), and copy the data to another disk.
    - `permission denied`, `not permitted`: docs/systemd.md says what the daemon must be
      allowed.
    - `larger than the file system or a limit of this process allows`: `LimitFSIZE=` of the
      service. `too many open files`: `LimitNOFILE=`.
    - `does not support hard links`: use another filesystem for `system.backup_directory`, or leave
      the backups out of the transfer.
    - `belongs to user …, and it has … hard links`: it may be a file from outside the server, to
      which a user made a hard link. If it is the server's, give it to the owner of the server's
      directory with `chown`; else delete that name.
    - `more than … of its files have several hard links`, `holds too many directories`: the node
      keeps these in memory. Delete some, or put them into directories of their own.
    - `a backup that is to be sent with the server is not on this node`, or `is damaged`: the
      server was not stopped. Delete the backup in the Panel, or leave it out of the transfer.

    In a storage pool, `the server's files in the storage pool cannot be used`: the volume is not
    mounted at `system.data`, a different one is there, or `system.user` differs between the
    nodes. Nothing was changed.
    """

    code = "storage-failed"

    def __init__(
        self, detail: str, message: str = "the server's files could not be stored"
    ) -> None:
        super().__init__(message, detail)

    @classmethod
    def reading(cls, detail: str) -> StorageError:
        """Return the error of a server's files that cannot be read."""
        return cls(detail, "the server's files could not be read")


class EnvironmentFailed(WingsdError):
    """Docker failed to create, start or control the server's container.

    Cause: the detail has it, often in the words of the Docker engine: a port that another program
    has, a mount that is not there, or a limit that this kernel lacks.

    Remedy: follow the detail, and see the log of the Docker engine.

    - `the Docker engine at … does not answer`: start the engine, correct `docker.socket`, or let
      the daemon's user use the socket.
    - `the image … could not be pulled, and this node has no image of that name`: the name is
      wrong, the registry wants credentials (`docker.registries`), or cannot be reached. A name
      that begins with `~` is never pulled: load the image here.
    - `the network … could not be created`: another network of this engine has the subnet or the
      bridge that the node's network is to have. Choose others by the keys that the message names,
      or remove that network if nothing uses it.
    - `the mount of … cannot be made`: the directory is missing, or the service cannot see it. The
      package's service sees nothing of `/home` and `/tmp`: use another directory, or show it to
      the service with `BindPaths=`.
    - `the name … is taken on this Docker engine`: the engine hangs in making or removing a
      container; see its log, and restart it.
    - `a container named … is on this Docker engine already, and it is not this node's`: two nodes
      that share an engine cannot both have a server. If `system.data` was moved, the container has
      the files at the old place: stop its program, and remove it with `docker rm -f UUID`.
    - `the server was killed, and … s later the engine has not reported its exit`: look at the
      engine, and kill the server again.
    """

    def __init__(self, detail: str, *, is_silent: bool = False, is_final: bool = False) -> None:
        super().__init__("the server's environment could not be configured", detail)
        #: Whether the engine does not answer.
        self.is_silent = is_silent
        self.is_final = self.is_final or is_final


class DaemonStopping(_Fixed, WingsdError):
    """The daemon is shutting down.

    Cause: it was stopped, or is being restarted.

    Remedy: send the request, or the server, again when it has restarted.
    """

    status = 503
    message = "this node is shutting down"
    detail = "send the server again when it has restarted"


# Requests


class InvalidHttpRequest(WingsdError):
    """The bytes received are not an HTTP request that this node takes.

    Cause: `https` was sent to a port of plain HTTP, or the reverse; or the head of the request has
    more, or other, than this node parses, which the message names.

    Remedy: send `http` to a plain port and `https` to a TLS port. No client of a Panel needs as
    many headers, values or parts of a path: find out what sends them.
    """

    code = "http-request-invalid"
    status = 400

    def __init__(self, message: str = "this is not a valid HTTP request") -> None:
        super().__init__(message)


class PathNotFound(WingsdError):
    """The interface has no such path.

    Cause: the request is not one of this node's, or it is of a page of another family's Panel;
    then the detail names the families that have it.

    Remedy: correct the path. If this node's Panel is of another family, set `family` in the
    configuration.
    """

    status = 404

    def __init__(self, path: str, detail: str = "") -> None:
        super().__init__(f"this node has no path {path}", detail)


class MethodNotAllowed(WingsdError):
    """The path does not support the method.

    Cause: the request has another method than those of the path.

    Remedy: use one of those in the header `Allow`.
    """

    status = 405


class BodyTooLarge(WingsdError):
    """The body of the request is longer than this node takes.

    Cause: all but uploads have at most the number of bytes in the detail.

    Remedy: send less; an upload of a server goes to `/api/transfers`.
    """

    status = 413

    def __init__(self, limit: int) -> None:
        super().__init__(
            "the request body is too large",
            f"send {limit} bytes at most; an upload goes to /api/transfers",
        )


class UpgradeRequired(_Fixed, WingsdError):
    """The path is a WebSocket.

    Cause: the request does not ask for an upgrade, or a proxy has removed the headers `Upgrade`
    and `Connection`.

    Remedy: open it as a WebSocket (RFC 6455); have the proxy pass these headers on.
    """

    status = 426
    message = "this path is a WebSocket"
    detail = "send the headers of RFC 6455"


class HeaderTooLong(_Fixed, WingsdError):
    """A header line is over 16 KiB.

    Cause: the client, or a proxy, sends longer headers than this node takes.

    Remedy: send shorter headers.
    """

    status = 431
    message = "a header line is too long"


class RangeNotSatisfiable(WingsdError):
    """The file ends before the requested range.

    Cause: a download is continued, and the file has become shorter since it began.

    Remedy: download it again from its beginning.
    """

    status = 416

    def __init__(self, size: int) -> None:
        super().__init__(
            "the file ends before the requested range", f"it has {size} bytes; download it again"
        )


class BodyIncomplete(BadRequest):
    """The client disconnected before the whole body was received.

    Cause: it went away, or its connection broke. The file is as it was.

    Remedy: send it again.
    """

    def __init__(self, reason: str) -> None:
        super().__init__("Request aborted by client.", reason)


# Tokens and permissions


class TokenMissing(Unauthorized):
    """The request has no token.

    Cause: there is no header `Authorization: Bearer …`. If the Panel or the node sent it, a proxy
    in front of this node drops it.

    Remedy: send the header; correct the proxy.
    """


class TokenInvalid(Unauthorized):
    """The token cannot be read, was signed with another key, or is for another purpose.

    Cause: the reason is in the message.

    Remedy: depends on the reason.

    - `it was not signed with this node's key`: the configuration here is not this node's, so
      compare `token` with the Panel's; or the address of the node in the Panel is another node's.
      Of a direct transfer: the token is another node's, or not all of it was copied; run `wingsctl
      receive` at the destination again.
    - `it is not valid yet`: this node's clock is more than 5 minutes behind the Panel's.
    - `it is not for this node`: the node's address in the Panel and `api.public_url` differ. Make
      them the same, or leave `api.public_url` empty.
    - `it has no scope`: the Panel is older than scopes: update it. Or this node's Panel is of
      another family: set `family` in its configuration.
    """


class TokenExpired(TokenInvalid):
    """The token has expired.

    Cause: 15 minutes passed before the transfer began, or the clocks of the Panel and the node
    differ.

    Remedy: start the transfer again, and synchronize the clocks of both machines.
    """


class TokenUsed(TokenInvalid):
    """The token was used for a transfer before.

    Cause: a token is good for one transfer.

    Remedy: start the transfer again in the Panel, which issues a new token; a direct transfer,
    with `wingsctl receive`.
    """


class SignedUrlVoid(WingsdError):
    """The address of a download or upload is not valid any more.

    Cause: it was used before, is for something else, its server is not on this node, or the access
    of its user was changed since. A program that fetches each address as well, such as a virus
    scanner of the browser, uses it up.

    Remedy: start the download or upload again on the page of the server: it gets a new address.
    """

    status = 404

    def __init__(self, why: str) -> None:
        super().__init__(
            "The requested resource was not found on this server.",
            f"{why}; start it again on the page of the server for a new address",
        )


class InvalidHandshake(WingsdError):
    """The handshake of a WebSocket is not that of RFC 6455.

    Cause: a proxy in front of this node does not pass it on, or the client is no browser.

    Remedy: have the proxy pass `Upgrade`, `Connection` and `Sec-WebSocket-*` on.
    """

    code = "websocket-handshake-invalid"
    status = 400

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class TooManyWebSockets(BadRequest):
    """The server has as many open consoles as it may have.

    Cause: 30 consoles of it are open, or very many wait for their user's token.

    Remedy: close some pages, or try again.
    """

    code = "too-many-websockets"


class PermissionMissing(BadRequest):
    """The user lacks a permission for the server.

    Cause: the message names the permission.

    Remedy: give it to the user in the Panel.
    """


class ServerMoved(Conflict):
    """The server has moved to another node.

    Cause: the page is still connected to the previous node of the server. After `wingsctl send`
    the Panel may not know the new node yet.

    Remedy: reload the page, or change the server's node in the Panel.
    """


# Files of servers


class PathInvalid(BadRequest):
    """No file can have this path, or the action cannot be done with it.

    Cause: the message says which: the name is empty, is not Unicode, has a zero byte or a slash,
    or is one that is used for files that are being written; or the path is the server's own
    directory, a mount point, or lies in the directory that is to be moved.

    Remedy: use another path. Where a file system is mounted in the server's directory, copy the
    file and delete it, or have an administrator unmount it. Where files are created in a directory
    while it is deleted, stop the server first.
    """

    code = "file-path-invalid"

    def __init__(self, why: str, detail: str = "") -> None:
        super().__init__(f"Cannot perform that action: {why}", detail)


class NameTooLong(_Fixed, BadRequest):
    """The name or the path of a file is too long.

    Cause: a name has more than 255 bytes, or a path more than 4095; letters outside of ASCII take
    several. In an archive, a path may also have at most 256 directories.

    Remedy: use a shorter name; make the archive again without that directory, or extract it higher
    up.
    """

    code = "file-name-too-long"

    message = "Cannot perform that action: file name is too long."


class FileTypeRefused(_Fixed, BadRequest):
    """The file is a symlink, a FIFO, a socket or a device.

    Cause: only regular files are opened, and no symlink at the end of a path is followed. Other
    files have no mode of their own that could be changed.

    Remedy: open the file that is meant.
    """

    message = "Cannot open files of this type."


class FileInUse(_Fixed, BadRequest):
    """A program has a lease of the file, or runs it.

    Cause: most often the server itself.

    Remedy: stop the server, then try again.
    """

    message = "Cannot perform that action: file is in use."


class IsDirectory(_Fixed, BadRequest):
    """The path is that of a directory, where a file is required.

    Cause: a directory cannot be read, written or downloaded as a file.

    Remedy: name a file, or pack the directory first.
    """

    code = "file-is-directory"

    message = "Cannot perform that action: file is a directory."


class NotDirectory(_Fixed, BadRequest):
    """A directory cannot be made below a file.

    Cause: a file, or a symlink that leads nowhere, is in the way.

    Remedy: use another path.
    """

    code = "file-not-directory"

    message = "Part of the path being created is not a directory (ENOTDIR)."


class FileTooLarge(WingsdError):
    """The file is larger than the Panel's page shows.

    Cause: the editor of the page has a limit.

    Remedy: download it.
    """

    status = 413

    def __init__(self, size: int) -> None:
        super().__init__("file size exceeds maximum allowed size", f"it has {size} bytes")


class NameConflict(BadRequest):
    """The name is in use.

    Cause: a file or directory of that name exists; the message says what was to be done with it.

    Remedy: use another name, or delete or rename what has it.
    """

    code = "file-name-conflict"

    @classmethod
    def renaming(cls, detail: str) -> NameConflict:
        """Return the error of a rename to a name in use."""
        return cls("Cannot move or rename file, destination already exists.", detail)

    @classmethod
    def writing(cls, detail: str) -> NameConflict:
        """Return the error of a file with the name of a directory."""
        return cls(
            "Cannot write file, name conflicts with an existing directory by the same name.",
            detail,
        )

    @classmethod
    def creating(cls, detail: str) -> NameConflict:
        """Return the error of a directory with the name of a file (Pelican's message)."""
        return cls(
            "Cannot create directory, name conflicts with an existing file by the same name.",
            detail,
        )


class FileDenied(_Fixed, Forbidden):
    """The egg's denylist has the file.

    Cause: the egg protects this file from changes by users.

    Remedy: an administrator can change it on the node.
    """

    message = "This file cannot be modified: present in egg denylist."


class PastReadOnly(FileDenied):
    """The files of the past cannot be changed.

    Cause: the path is in `.history`, which has the server's files as they were. They are read
    there, and copied out of it. Calls that pack or extract files do not read it.

    Remedy: copy or download the files. `wingsctl rewind` brings back a whole point.
    """

    message = "Cannot perform that action: .history is the server's past, which stays as it was."
    detail = "copy or download the files"


class PastInUse(_Fixed, Conflict):
    """The server's past cannot be read at this moment.

    Cause: a point of its history is being made or removed, or is verified, or another file of it
    is read. Or many of its files are open, by downloads or by SFTP: the copies of one server take
    a tenth of the free space of the disk of histories together, those of all half of it.

    Remedy: try again in some seconds; after the first point of a large server in some minutes.
    Close files, or wait for the end of downloads.
    """

    message = "The server's past is in use at this moment; try again soon."
    retry_after = 5.0


class PastUnreadable(_Fixed, Conflict):
    """A file of the server's past cannot be read.

    Cause: the detail says what is wrong. A file that `is damaged` was changed by this node's disk
    or memory; other points may have it whole.

    Remedy: use another point. Have the node's administrator check its disk and memory.
    """

    message = "This file of the server's past cannot be read; try another point."


class FileNotPermitted(_Fixed, Forbidden):
    """The operating system does not let this node do this with the file.

    Cause: its permissions do not let its owner do this, such as 000 after a chmod; or it is
    immutable, or belongs to another user. A daemon that runs as root meets only the latter.

    Remedy: set the permissions of the file first, or of the directories that it is in: 644 for a
    file and 755 for a directory are usual. An administrator of the node can use `chattr -i` or
    `chown`.
    """

    message = "Cannot perform that action: permission denied."


class FileMissing(_Fixed, WingsdError):
    """The file does not exist, or its path leads out of the server's directory.

    Cause: it was deleted or moved, or a symlink in its path leads out of the server's directory or
    is absolute, which the daemon does not follow.

    Remedy: correct the path; make the symlink relative.
    """

    status = 404

    message = "The requested resources was not found on the system."


class DirectoryMissing(_Fixed, WingsdError):
    """The directory does not exist, or is something else.

    Cause: it was deleted or moved; a symlink to a directory is not opened as one.

    Remedy: correct the path.
    """

    status = 404

    message = "The requested directory does not exist."


class FileWorkCancelled(_Fixed, Conflict):
    """Long work on the server's files was cancelled.

    Cause: a user has cancelled it, the server was deleted, or the node stops.

    Remedy: start it again; what was done stays.
    """

    message = "the work on the server's files was cancelled"


class TreeTooLarge(StorageError):
    """The server's files are too many or nested too deeply to be counted or sent.

    Cause: the directories are nested too deeply, or too many directories or hard links are side by
    side.

    Remedy: delete what the detail names; until then the server is above any disk limit.
    """

    status = 400


class UploadInProgress(_Fixed, Conflict):
    """Another request is writing the same part of the file for the same user.

    Cause: the user uploads the file in two windows.

    Remedy: wait for one to end.
    """

    message = "this file is being uploaded by another request"
    detail = "wait for it to end"


class InvalidMode(BadRequest):
    """The mode of a file is not octal.

    Cause: the request has another text than such as `644` or `755`.

    Remedy: send an octal mode.
    """

    code = "file-mode-invalid"

    def __init__(self, mode: str) -> None:
        super().__init__("Invalid file mode.", f"{mode[:20]!r} is not octal, such as 644")


class TooManyFileTasks(Conflict):
    """Too many changes of the server's files are under way.

    Cause: copies, archives and deletions that take long go on behind their answers.

    Remedy: try again when one has ended; the server's console says so.
    """

    def __init__(self, most: int) -> None:
        super().__init__(
            "too many concurrent operations",
            f"{most} changes of this server's files are under way; try again when one has ended",
        )


class UploadFormInvalid(_Fixed, BadRequest):
    """The upload is not a form, or is not complete.

    Cause: the browser or a proxy has cut the upload, its connection broke or was slower than
    `system.transfers.least_rate`, or something else was sent. The detail says which.

    Remedy: upload it again.
    """

    message = "Failed to get multipart form data from request."


class NoFilesUploaded(_Fixed, BadRequest):
    """The form of the upload has no file.

    Cause: the client names its fields otherwise than the Panels do.

    Remedy: send each file in a field named `files`.
    """

    message = "No files were found on the request body."
    detail = "send each file in a field named files"


class UploadTooLarge(BadRequest):
    """The uploaded file is larger than this node allows.

    Cause: `api.upload_limit` is the limit, which the Panel has as the node's upload size.

    Remedy: use SFTP, which has no limit, or let an administrator raise it in the Panel's settings
    of the node.
    """

    def __init__(self, name: str, limit: int) -> None:
        super().__init__(
            f"File {name} is larger than the maximum file upload size of {limit} MB.",
            "the limit is api.upload_limit of the node",
        )


class FilesBusy(_Fixed, WingsdError):
    """Too many requests for files wait already.

    Cause: a user opens hundreds of pages at once, or the disk is slow. A server's users wait for
    each other, and not for those of others.

    Remedy: try again in a few seconds.
    """

    status = 503
    retry_after = 5.0
    message = "this node is busy with the files of its servers"
    detail = "try again in a few seconds"


class NoSpaceToCompress(_Fixed, Conflict):
    """The server is above its disk limit, so no archive of its files is made.

    Cause: its files take more than its disk limit in the Panel.

    Remedy: delete files, or raise its disk limit in the Panel.
    """

    message = (
        "This server does not have enough available disk space to generate a compressed archive."
    )
    detail = "delete files, or raise its disk limit in the Panel"


class FileTaskMissing(_Fixed, WingsdError):
    """No change of files with this identifier is under way.

    Cause: it has ended.

    Remedy: see the server's console, which says how.
    """

    status = 404
    message = "operation not found"


class UploadOffsetWrong(Conflict):
    """The part of the uploaded file does not begin where the last one ended.

    Cause: a part was lost or sent twice.

    Remedy: ask by HEAD where to continue, as pages that upload in parts do.
    """

    def __init__(self, size: int) -> None:
        super().__init__(
            "upload offset does not match the current file length",
            f"{size} bytes of the file are here",
        )


# Archives


class ArchiveError(_Fixed, WingsdError):
    """The archive cannot be extracted.

    Cause: it is damaged, truncated, empty, of an unknown format, or beyond a limit; the detail
    says which. Nothing of the server stays at the destination of a transfer, and the server stays
    on the source.

    Remedy: depends on the detail.

    - `the archive is damaged`: if the checksum was right, the source made the archive so. Send it
      again, and check that node's memory and disk.
    - `the archive is empty`: the source sent nothing; see its log.
    - `more than … files, directories and links`: raise `system.transfers.max_members`.
    - `too many directories come after their contents`: write the archive with directories first,
      as tar does, or raise `system.transfers.directory_memory`.
    - `comes more than once`: a file is in two of the archives that the server came in. Transfer it
      without additional streams.
    """

    code = "archive-invalid"
    message = "the archive could not be extracted"


class MemberRefused(ArchiveError):
    """A member of the archive may not be written, so none is.

    Cause: the detail has its name and the reason: its name is too long, absolute or has `..`, it
    is nested too deeply, or its type cannot be extracted. Nodes make no such archives, but a user
    can make such files: then the source has them.

    Remedy: rename, move or delete the file at the source. An archive with absolute names was made
    by another program.
    """

    code = "archive-member-refused"

    def __init__(self, shown: str, reason: str) -> None:
        super().__init__(f"{shown} is refused: {reason}")


class ArchiveFormatUnsupported(BadRequest):
    """Archives of that format are not made here.

    Cause: the node makes zip and tar archives only.

    Remedy: choose one of those that the detail names.
    """

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(
            "This node does not make archives of that format.",
            f"{name[:40]!r} is none of {', '.join(sorted(known))}",
        )


class ArchiveFormatUnknown(_Fixed, BadRequest):
    """The file is no archive that can be extracted here.

    Cause: neither its first bytes nor its name are those of a zip, tar, 7z or RAR, or of a file
    compressed by gzip, bzip2, xz, zstd, lz4, lzip, Brotli or Snappy.

    Remedy: extract it elsewhere, and upload the files.
    """

    message = "The archive provided is in a format Wings does not understand."


class OverwritesFileInUse(_Fixed, BadRequest):
    """A file that the archive would replace is in use.

    Cause: the server runs it, or has a lease of it.

    Remedy: stop the server, then try again.
    """

    code = "archive-overwrites-file-in-use"
    message = (
        "One or more files this archive is attempting to overwrite are currently in use by "
        "another process. Please try again."
    )


class ArchiveDamaged(_Fixed, BadRequest):
    """The archive's bytes are not what its format demands.

    Cause: the detail has what was found, often in the words of the library: a part is missing, or
    it was changed on its way. An archive that lies about its sizes or checksums is refused by
    this, too. Files that were whole before the error stay.

    Remedy: upload it again. If it was changed while it was read, extract it again when the program
    or upload that writes to it has ended.
    """

    message = "The archive is damaged or incomplete; upload it again."


class ArchiveEncrypted(_Fixed, BadRequest):
    """The archive needs a password.

    Cause: this node knows none.

    Remedy: upload it without one.
    """

    message = "The archive is encrypted, and this node knows no password; upload it without one."


class ArchiveInParts(_Fixed, BadRequest):
    """The file is one part of an archive that was divided.

    Cause: its name is such as `x.7z.001`, `x.part1.rar` or `x.z01`.

    Remedy: put the archive together, and upload it whole.
    """

    message = "The file is one of several parts of an archive; upload it undivided."


class ArchiveMethodUnsupported(_Fixed, BadRequest):
    """The archive is compressed by a method that this node does not have.

    Cause: the detail has the method. With `a library is missing on this node`, wingsd was not
    installed as a package.

    Remedy: make it a zip, a 7z or a tar.gz by the usual methods; an administrator can install
    `libarchive13t64`.
    """

    message = (
        "The archive is compressed by a method that this node does not have; make it a zip, "
        "a 7z or a tar.gz by the usual methods."
    )


class ArchiveExcessive(_Fixed, BadRequest):
    """The archive takes more than this node gives to one.

    Cause: one archive has at most 1,000,000 members, and the process that parses it 512 MiB of
    memory and 5 minutes of CPU time, with one second more for each MiB.

    Remedy: divide it, or make it with a dictionary of at most 64 MiB.
    """

    message = (
        "The archive takes more than this node gives to one; divide it, or make it with a "
        "dictionary of at most 64 MiB."
    )


class ArchiveNotParsed(_Fixed, WingsdError):
    """The process that parses archives could not be started, or has ended.

    Cause: the detail says how it ended. When the machine is short of memory or processes, the
    kernel ends this process first.

    Remedy: try again. If it fails again, report it with the archive.
    """

    message = "the archive could not be read"


# Downloads from a URL


class UrlInvalid(BadRequest):
    """The URL of the download is not one that is requested here.

    Cause: the message has the reason: it has a user, a password, a control character or no host,
    its address is not in the usual form, or its port below 1024 is not 80 or 443.

    Remedy: correct the URL.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"An error occurred while parsing that URL: {reason}")
        self.reason = reason


class UrlSchemeRefused(UrlInvalid):
    """The URL of the download is of neither http nor https.

    Cause: other protocols are not downloaded from.

    Remedy: use an address that begins with `http://` or `https://`.
    """

    def __init__(self) -> None:
        super().__init__("it must begin with http:// or https://")


class AddressBlocked(BadRequest):
    """The URL of the download leads to an address that is not on the public Internet.

    Cause: the name, or a redirect, leads to an address of a private or reserved network, or of the
    node itself. The log has the address.

    Remedy: if users may download from there, an administrator adds the host to
    `api.remote_download.host_allowlist`.
    """

    def __init__(self, host: str) -> None:
        super().__init__(
            "This node does not connect to the address of that URL.",
            f"{host} is not on the public Internet, or is this node itself; an administrator of "
            "the node can allow it",
        )


class DownloadFailed(_Fixed, BadRequest):
    """The other server did not send the file.

    Cause: the detail says what it did: it does not answer, has another certificate, or sends an
    error, no length, or more than a node accepts.

    Remedy: correct the URL, or try again later.

    - `the other server answers with status …`: 401 and 403 mean that it wants a login.
    - `TLS could not be set up`: it does not speak TLS 1.2 or above; use an `http` URL if it has
      one.
    - `it does not tell the length of the file`, `it is sent encoded with …`: its owner can correct
      that.
    - `it redirects from https to http`: a file that was to come by TLS would come without. Use an
      `http` URL if you trust the way to it.
    """

    message = "The file could not be downloaded from that URL."


class TooManyRedirects(DownloadFailed):
    """The URL of the download redirects too often, or in a circle.

    Cause: the other server is not set up well.

    Remedy: use the URL that it leads to.
    """


class TooManyPulls(BadRequest):
    """The server has as many downloads from URLs as it may have.

    Cause: `api.server_remote_download_limit` is the limit.

    Remedy: wait for one to end, or cancel one.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"This server has reached its limit of {limit} simultaneous remote file downloads at "
            "once. Please wait for one to complete before trying again."
        )


class RemoteDownloadDisabled(_Fixed, BadRequest):
    """The node does not download from URLs.

    Cause: `api.disable_remote_download` is set.

    Remedy: an administrator can allow it.
    """

    message = "This functionality is not currently enabled on this instance."
    detail = "see api.disable_remote_download of the node"


# The Panel


class ServerNotAssigned(ServerNotFound):
    """The Panel has no transfer of the server to this node.

    Cause: the token was valid, but the source belongs to another Panel, or the server was deleted,
    or the transfer closed, in the meantime.

    Remedy: check in the Panel that the server exists, and start the transfer again there.
    """


class PanelError(WingsdError):
    """A request to the Panel failed.

    Cause: the detail has it.

    Remedy: follow the detail, and see the Panel's log.
    """

    code = "panel-failed"

    def __init__(self, message: str, detail: str = "", retry_after: float = 0.0) -> None:
        super().__init__(message, detail)
        #: Seconds that the Panel asks to be left alone for, 0 when it does not.
        self.retry_after = retry_after


class PanelRefused(PanelError):
    """The Panel refused this node's request.

    Cause: the detail has the status. With 403 the Panel does not give this node access to this
    server. With 429 the node sends too many requests: it repeats them for 30 s, with the pauses
    that the Panel asks for. A login by SFTP is refused with 403 for a wrong password or key, and
    with 409 while the server is installed, restored or moved.

    Remedy: look in the Panel which node the server belongs to; for other statuses, see the Panel's
    log.
    """

    def __init__(
        self,
        message: str,
        detail: str,
        response_status: int,
        retry_after: float = 0.0,
        *,
        is_own: bool = True,
    ) -> None:
        super().__init__(message, detail, retry_after)
        self.response_status = response_status
        #: Whether the answer is in the form of the Panel's errors, and not a page of a proxy.
        self.is_own = is_own


class NodeTokenRefused(PanelRefused):
    """The Panel does not accept this node's own token.

    Until that is corrected, nothing is decided about any server: uploads are refused with 503,
    reports on transfers are kept, and nothing is deleted or moved to quarantine.

    Cause: `token_id` and `token` belong to another node or have been replaced, or `remote` is
    another Panel. The requested address is in the message.

    Remedy: copy the node's configuration from the Panel's *Configuration* tab again, and restart
    the node.
    """

    status = 503

    def __init__(self, answer: str, response_status: int, retry_after: float = 0.0) -> None:
        super().__init__(
            "the Panel does not accept this node's token",
            "copy the node's configuration from the Panel again, then restart this node; "
            f"{answer}",
            response_status,
            retry_after,
        )


class PanelUnreachable(PanelError):
    """The Panel gives no usable answer.

    What needed the answer fails; a report on a transfer is kept and sent later. A single line in
    the log about an attempt that failed needs no attention.

    Cause: the Panel is down, too slow, or answers 5xx; the last reason is in the detail. Where the
    answer is not JSON, not HTTP, encoded or beyond a limit, something answers in the Panel's
    place: a maintenance page, a proxy, or `remote` is wrong.

    Remedy: see the Panel's own log, and ask the Panel from this machine with `curl -i`, at the
    address in the message. If its answer is too long, request fewer servers at a time:
    `remote_query.boot_servers_per_page`. If it describes another server than the requested one, a
    cache or a proxy mixes up requests.
    """

    status = 503


# Docker and installations


class SettingsInvalid(EnvironmentFailed):
    """No container can have the server's settings.

    Cause: the detail names the image or the variable: a name that is empty or has `=`, a control
    character or a line break in it, or a value with a NUL character. Until it is corrected, the
    server gets no container, is not started and is not received.

    Remedy: correct it in the server's settings in the Panel.
    """

    code = "server-settings-invalid"
    status = 422
    is_final = True


class ConsoleBlocked(EnvironmentFailed):
    """The server does not read its console input.

    Cause: its program hangs, or is busy.

    Remedy: send the command again, or restart the server.
    """

    # Not a failure of the node: the server's users can mend it.
    status = 409


class InstallationFailed(_Fixed, WingsdError):
    """The installation script did not run to its end.

    Cause: the detail has it. A container, a volume or a script is never left behind. The
    installation log, `install/UUID.log` in `system.log_directory`, has the script's lines.

    Remedy: correct the cause, and install the server again in the Panel.

    - `the script has not ended within …`: it hangs, for example since it waits for input, or needs
      longer; raise `docker.installer_limits.timeout`. If memory ran out, raise
      `docker.installer_limits.memory`.
    - `its container was removed while the script ran`, `is gone`: something removed it, such as
      `docker rm` or a cleanup.
    - `the script was killed`: the engine or the machine was stopped. With `live-restore` a
      restarted engine does not end containers.
    - `half of a surrogate pair`: a character was cut in two when the script was stored; delete
      what is left of it.
    - `the installation script cannot be written`: free the disk, or choose another
      `system.tmp_directory` that the engine sees under the same path.
    """

    message = "the server was not installed"


# The node


class EngineUnavailable(_Fixed, Conflict):
    """The Docker engine cannot be asked about this node.

    Cause: Docker is disabled (`docker.enabled`), does not answer, or refuses; the detail says
    which.

    Remedy: start the engine and see its log, correct `docker.socket`, or let the daemon's user use
    the socket.
    """

    message = "Docker cannot be asked on this node"


class PruneInProgress(_Fixed, Conflict):
    """Unused images are still being removed.

    Cause: the Docker engine takes long for it; this node goes on with it.

    Remedy: ask again in some minutes for what was removed.
    """

    message = "Docker is still removing unused images"
    detail = "this node goes on with it; ask again in some minutes for what was removed"


class FiguresUnavailable(_Fixed, WingsdError):
    """The system hides its figures from the daemon.

    Cause: a setting of the service's unit, such as `ProcSubset=` or `RestrictAddressFamilies=`,
    keeps the daemon from reading them. The package's unit hides none.

    Remedy: change the unit as the detail says.
    """

    message = "the figures of this node cannot be read"


class LogFileNotFound(_Fixed, WingsdError):
    """There is no such log file on this node.

    Cause: only the files of `system.log_directory` are shown, or it was deleted.

    Remedy: list the files first.
    """

    status = 404
    # As in Calagopus' nodes.
    message = "log file not found"


class SettingsNotSaved(_Fixed, WingsdError):
    """The Panel's settings of this node could not be written to its configuration.

    The Panel has saved them, the node goes on with its old ones, and its configuration is as it
    was.

    Cause: the detail says why.

    Remedy: remove the cause, and save the settings in the Panel again. If the node's token was
    reset there, the Panel's calls are refused until both are the same: copy `token_id` and `token`
    from the node's *Configuration* tab into the file, then `systemctl reload wingsd`.

    - `cannot be replaced`: the daemon needs to write to the file's directory; with the package,
      the usual directories are in `ReadWritePaths=` of its unit. A file that is a mount of its
      own, as in a container, cannot be replaced: mount its directory.
    - `it shares values between …`: one value is in several places, by a YAML anchor. Write it in
      each of them.
    - `is being changed by somebody else`: a program keeps rewriting the file; end it.
    - `this node's token is not in its configuration`: the file names a variable or another file
      for it. Put the Panel's new token there.
    """

    message = "the node's settings could not be saved"


class StateDatabaseError(StorageError):
    """The state database cannot be opened, read or written.

    Cause: the detail has the reason of SQLite: the disk is full or read-only, or `wingsd.db` in
    `system.root_directory` belongs to another user. Or it was written by another version of
    wingsd.

    Remedy: free space, or correct the owner and mode of the file. Of a newer wingsd, install that
    version again, or move the file away as a damaged one (`state-database-damaged`); of an earlier
    one, the daemon updates it when it starts. While the daemon starts or stops, try again.
    """

    code = "state-database-failed"

    def __init__(self, detail: str, message: str = "the state database cannot be used") -> None:
        super().__init__(detail, message)


class StateDatabaseDamaged(StateDatabaseError):
    """The state database is damaged.

    Cause: a damaged page, a truncated or empty file, or another file. Look into the kernel's log
    (`dmesg`) and the disk's health (`smartctl`) for the reason first.

    Remedy: have wingsd make a new one.

    1. Stop wingsd, and keep a copy of `wingsd.db`, `wingsd.db-wal` and `wingsd.db-shm`.
    2. Move all three out of `system.root_directory`. Do not restore a backup: with an old database
       the daemon continues transfers that have long ended.
    3. Wait until the tokens that were issued have expired (15 minutes for those of a Panel), since
       the new database does not contain which of them were used.
    4. Start wingsd. It makes a new database.

    These are lost with the old one: unfinished transfers (cancel them in the Panel; complete
    copies of their servers are at the sources or in `.volumes.staging`), reports that the Panel
    has not received, and the settings of servers that came by a direct transfer and that no Panel
    has on this node (their files stay; transfer them again).
    """

    def __init__(self, detail: str) -> None:
        super().__init__(detail, "the state database is damaged")


# Backups


class AdapterUnknown(BadRequest):
    """The Panel keeps backups in a way that this node does not have.

    Cause: the driver of backups in the Panel's settings is another than those that the message
    names.

    Remedy: choose one of these in the Panel.
    """

    code = "backup-adapter-unknown"

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(
            f"This node cannot make backups of the kind {name[:40]!r}.",
            f"choose another kind in the Panel's settings; this node has {', '.join(known)}",
        )


class BackupExists(_Fixed, Conflict):
    """The node has a backup of this UUID, or is making it.

    Cause: the request was sent twice.

    Remedy: nothing; each backup needs a UUID of its own.
    """

    message = "backup already exists"
    detail = "each backup needs a UUID of its own"


class BackupNotForWings(_Fixed, Conflict):
    """The backup is not rewritten for Wings, and stays as it is.

    Cause: the detail says why. Wings knows only a tar.gz, and a backup that is being made, is
    damaged or was deleted cannot be rewritten. A node of Calagopus restores directories and
    symlinks, so nothing is rewritten there.

    Remedy: wait until the backup is complete. One of another format is restored here first, and
    made again. Of a damaged one, `wingsctl verify` says more.
    """

    message = "the backup is not rewritten for Wings"


class BackupIsPoint(Conflict):
    """The backup is a point of its server's history, and no archive.

    Cause: `system.backups.wings.kind` is `history`, or was when the backup was made.

    Remedy: `wingsctl history verify` reads all points of a server.
    """

    def __init__(self, backup: str, number: int, server: str) -> None:
        super().__init__(
            f"the backup {backup} is a point of a history, and no archive",
            f"`wingsctl history verify {server}` verifies it, point {number}, with all others",
        )


class InvalidBackupName(BadRequest):
    """A part of the upload has a name that no backup can have.

    Cause: it is not a UUID with a suffix of backups.

    Remedy: transfer the server without that backup.
    """

    code = "backup-name-invalid"


class NoSpaceForBackup(Conflict):
    """The disk of `system.backup_directory` has not enough free space.

    Cause: `system.transfers.disk_reserve` must stay free, also with a backup as large as the last
    one of the server.

    Remedy: delete backups, or free space on the node.
    """

    def __init__(self, free: int, needed: int, reserve: int) -> None:
        super().__init__(
            "There is not enough disk space on this node for the backup.",
            f"{free // _MIB} MiB are free where backups are kept, of which {reserve // _MIB} MiB "
            f"must stay free (system.transfers.disk_reserve), and it takes at least "
            f"{-(-needed // _MIB)} MiB more: delete backups, or free space on this node",
        )


class BackupIgnoresEverything(_Fixed, BadRequest):
    """The list of ignored files leaves nothing of the server.

    Cause: as in git, `!` does not bring back what is in a directory that is ignored: `*` and
    `!world/` ignore everything.

    Remedy: write `/*` and `!/world/`; for a directory further down `/*`, `!/a/`, `/a/*` and
    `!/a/b/`.
    """

    message = "The backup was not made: its list of ignored files leaves nothing of the server."
    detail = (
        "what is in an ignored directory cannot be named again with `!`; the lines `/*` and "
        "`!/world/` keep one directory, `/*`, `!/a/`, `/a/*` and `!/a/b/` one further down"
    )


class BackupConflict(Conflict):
    """A different backup of the same name is on this node.

    Cause: `system.backup_directory` has a file of the backup's name with other contents. It is
    never overwritten.

    Remedy: move that file away, or transfer the server without that backup.
    """


class BackupMissing(WingsdError):
    """The node has no file of the backup.

    Cause: it was removed from `system.backup_directory`, or is in another store.

    Remedy: delete the backup in the Panel; of one in S3 the Panel itself gives the address.
    """

    status = 404

    def __init__(self, uuid: str) -> None:
        super().__init__(
            "The requested backup was not found on this server.",
            f"system.backup_directory has no file of the backup {uuid} of this server",
        )


class BackupOnItsWay(_Fixed, Conflict):
    """The backup is on its way from the node that the server left.

    Cause: the server moved here, and its local backups follow it one after the other. Until one
    has arrived, it cannot be downloaded or restored.

    Remedy: wait. `wingsctl backups` shows at the node that the server left how far it is, and what
    it waits for. If that node is gone for good, `wingsctl backups delete` here, or the deletion in
    the Panel, ends it.
    """

    message = "The backup is on its way from the node that the server left."
    detail = "try again later; `wingsctl backups` on this node lists what is still to come"


class BackupNotLeft(Conflict):
    """The backup is not one that a server has left on this node.

    Cause: its server is on this node or is coming back, or the backup is not here any more.

    Remedy: delete backups of servers of this node in the Panel. `wingsctl backups` lists those
    that were left.
    """

    def __init__(
        self, backup: str, detail: str = "its server is on this node, or it is not here"
    ) -> None:
        super().__init__(f"the backup {backup} is not left here by a server that moved", detail)


class BackupCannotFollow(Conflict):
    """The backup cannot be sent to the node of its server.

    Cause: the server moved before both nodes could do this, as one stream, or to a node that does
    not run wingsd.

    Remedy: `wingsctl backups keep` or `wingsctl backups delete`; a copy of the file can be given
    to its users by hand.
    """

    def __init__(self, backup: str) -> None:
        super().__init__(
            f"the backup {backup} cannot be sent to its server's node",
            "the move has left no key for that; keep it, or delete it",
        )


class BackupUploadFailed(WingsdError):
    """The backup could not be uploaded to its store.

    The Panel shows the backup as failed, and its archive is removed.

    Cause: the detail says what the Panel or the store has answered.

    Remedy: depends on the detail.

    - `see the settings of the store in the Panel`: the store does not accept what the Panel has
      signed. 403 with `SignatureDoesNotMatch`, `InvalidAccessKeyId` or `AccessDenied`: the key,
      the region or the address; 404 with `NoSuchBucket`: the bucket; with `NoSuchUpload`:
      something has removed the unfinished upload, such as a rule of the bucket. A store that
      redirects is in another region, or has another address.
    - `part … was sent … times`: the store, or the way to it, failed for minutes
      (`system.backups.s3.retry_limit`). Without a valid ETag: a proxy, or something that is no
      store, answers. If it took too long, let the Panel make smaller parts, or raise
      `system.backups.s3.part_upload_timeout`.
    - `the signed URLs expire before all parts are sent`: let the Panel sign them for a longer time
      (Pterodactyl: `BACKUP_PRESIGNED_URL_LIFESPAN`, in minutes), or make larger parts.
    - `is not valid for this node`: install a valid certificate at the store, or add its authority
      to those of this node's system.
    - `the Panel signs no URLs for it`: the backup is not known, not of this node, or not of S3.
    - `the Panel has signed no URLs for … h`: the Panel could not be reached, or could not reach
      the store, for hours; see its log.
    - `it has more than … parts`: a store takes no more; let the Panel make larger parts.
    """

    status = 502

    def __init__(self, detail: str, *, is_unknown_call: bool = False) -> None:
        super().__init__("the backup could not be uploaded", detail)
        #: Whether the Panel does not have the call for the URLs of backups.
        self.is_unknown_call = is_unknown_call


class BackupSettled(_Fixed, Conflict):
    """The Panel shows the backup as completed or failed already.

    Cause: it was settled while the backup was still being uploaded. Nothing more is uploaded or
    reported, and what was made of it is removed.

    Remedy: make a new backup if this one is missing.
    """

    message = "the Panel has settled the backup already"


class BackupLinkRefused(BadRequest):
    """The link to a backup in S3 cannot be used.

    Cause: the message says why.

    Remedy: correct the endpoint of the backups' store in the Panel, if the link is not a valid
    URL, is of neither http nor https, or redirects too often.

    - `resolves to a blocked address`: the store is in a private network, or is this node: with
      Pelican the link itself, with the other families what it redirects to. Add its host, address
      or network to `system.backups.restore_host_allowlist`, and restart the daemon.
    - `an invalid response status`: with 403 the link has expired, or the clocks of Panel and store
      differ; restore the backup again. With 404 the store has no such backup.
    - `is not a supported content type`: the store, or a proxy, has sent something else than a
      backup, such as a page with an error.
    """


class BackupChecksumMismatch(WingsdError):
    """The backup is not the one that was made.

    Cause: the file differs from its catalogue: it was changed, or its disk has lost data.

    Remedy: restore another backup, and check the disk.
    """

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(
            "the backup is not the one that was made",
            f"its SHA-256 is {found}, and {expected} is in its catalogue: the file was changed or "
            "damaged since; restore another backup",
        )


class RestoreFailed(_Fixed, WingsdError):
    """The backup was not restored; the server's files are as before.

    Until a backup is read and verified to its end, nothing of the server is changed.

    Cause: the detail says why.

    Remedy: depends on the detail.

    - `the server has not stopped within …`: a restore does not kill a server, which might lose
      what it has not saved. Kill it if it hangs, and restore the backup again.
    - `is on another file system than the server's directory`: unmount it, or have the backup
      replace all files.
    - `was changed while the backup was laid over it`: something outside of this node changes the
      server's files. Restore the backup again.
    - `its connection failed`: restore the backup again.
    - `has no size in the archive`: a zip that was made in an unusual way. Extract it and pack it
      again.
    """

    message = "the backup was not restored"


# SFTP


class HostKeyUnusable(_Fixed, WingsdError):
    """The host key of SFTP is damaged or cannot be read, so SFTP is off.

    Cause: the key in `system.data` at `.sftp/id_ed25519` is damaged, has a passphrase, is not an
    ed25519 key, or is not a regular file.

    Remedy: restore it from a backup, and restart the node. Without a backup, delete it and
    restart: a new key is made, and the clients of all users warn of a changed key once. A key with
    a passphrase must be stored without.
    """

    code = "sftp-host-key-unusable"
    message = "SFTP is off: the host key cannot be used"


class LoginRefused(_Fixed, Forbidden):
    """A login by SFTP is refused by this node.

    The client is not shown the reason; only the log has it.

    Cause: the reason is in the message: the user name is not the one on the server's page, such as
    `anna.5b0c7a6e`; the server is suspended; the user's access was revoked; or there are too many
    logins or connections.

    Remedy: depends on the reason. With `too many logins wait for the Panel's answer`, somebody
    tries passwords, or the Panel is slow: see from which addresses, and block them in the
    firewall. With `the user has … connections already`, set the client to use fewer at once, or
    raise `system.sftp.limits`.
    """

    code = "sftp-login-refused"
    message = "the login is refused"


class SftpPermissionMissing(Forbidden):
    """An operation of SFTP takes a permission that the user does not have.

    Cause: the text names the permission.

    Remedy: the owner gives it on the page of the server's users.
    """

    def __init__(self, permission: str) -> None:
        super().__init__(
            "you are not allowed to do this",
            f"it takes the permission {permission}, which the server's owner can give in the "
            "Panel",
        )


class ReadOnly(_Fixed, WingsdError):
    """SFTP is read-only on this node.

    Cause: `system.sftp.read_only` is set.

    Remedy: use the Panel's file manager.
    """

    code = "sftp-read-only"
    message = "SFTP is read-only on this node"
    detail = "use the Panel's file manager"


class TooManyHandles(WingsdError):
    """A client of SFTP, or all of them together, have too many files open.

    Cause: `system.sftp.limits` is how many may be open.

    Remedy: set the client to fewer transfers at once, or raise the limit.
    """

    code = "sftp-too-many-handles"

    def __init__(self, most: int) -> None:
        super().__init__(
            "too many files are open", f"{most} are allowed; close some, or use fewer at once"
        )


class HandleInvalid(_Fixed, WingsdError):
    """A client of SFTP names a file that is not open.

    Cause: the client has a fault.

    Remedy: use another client, or a newer version of it.
    """

    code = "sftp-handle-invalid"
    message = "the handle is not that of an open file of this kind"


# Transfers


class TransferInProgress(ServerBusy):
    """The server is already being sent.

    Cause: a transfer of it from this node is under way.

    Remedy: wait for that transfer to end, or cancel it.
    """


class PairInvalid(_Fixed, Unauthorized):
    """The node knows no pair with this key.

    Cause: the pair was revoked or has expired, not all of the key was copied, or it is another
    node's.

    Remedy: run `wingsctl pair` at the destination again, and the command that it prints at the
    source.
    """

    message = "the key of the pair is not valid"
    detail = (
        "it was revoked, has expired, or is another node's: run wingsctl pair at the destination "
        "again"
    )


class PairNotFound(_Fixed, WingsdError):
    """The node has no pair with this name.

    Cause: it was revoked, or is called otherwise.

    Remedy: `wingsctl pair list` has their names.
    """

    status = 404
    message = "this node has no such pair"
    detail = "wingsctl pair list has their names"


class PairExists(Conflict):
    """There is a pair with this name already.

    Cause: two nodes are to be named alike.

    Remedy: give `--from` another name, or revoke that pair first.
    """

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is a pair {name} already",
            f"give it another name by --from, or run wingsctl pair revoke {name} first",
        )


class PairLimitReached(WingsdError):
    """A pair may not bring more servers, or more bytes, to this node.

    Cause: `--bytes` or `--servers` of `wingsctl pair` at the destination. Copies that are kept
    there count as well, each file with 4 KiB at least.

    Remedy: transfer servers whose copies are there, remove kept copies with `wingsctl forget`, or
    make a new pair with larger limits.
    """

    status = 507


class PairPlacesNothing(_Fixed, Forbidden):
    """A copy that came by a pair is not put into place by its source.

    Cause: the source has asked for more than a pair allows: only a transfer that the Panel orders,
    or one by `wingsctl receive`, goes on with such a copy.

    Remedy: order the transfer in the Panel.
    """

    message = "a pair only brings copies"
    detail = "only a transfer with a token of its own puts a copy into place"


class NodeInMaintenance(Conflict):
    """The node takes no servers: it is in maintenance.

    Cause: `wingsctl maintenance on` was run on it.

    Remedy: create the server on another node, or transfer it to another. `wingsctl maintenance
    off` ends it.
    """

    is_final = True

    def __init__(self, why: str = "") -> None:
        reason = f" ({why})" if why else ""
        super().__init__(
            f"this node is in maintenance and takes no servers{reason}",
            "choose another node, or run wingsctl maintenance off on this one",
        )


class OrderWaitedTooLong(WingsdError):
    """A transfer waited for another action on the server for too long.

    The server stays on this node, and the Panel has the failure.

    Cause: the Panel ordered the transfer while a backup, an installation or a restore of the
    server was under way, which did not end before the Panel's token did.

    Remedy: transfer it again when that has ended.
    """

    status = 409

    def __init__(self, waits_for: str, seconds: float) -> None:
        super().__init__(
            "the transfer has waited for too long",
            f"{waits_for}, for more than {seconds:.0f} s; transfer the server again when that has "
            "ended",
        )


class TransferNotActive(Conflict):
    """The server has no transfer that can be cancelled.

    Cause: it was not begun, it has ended, or its success was reported, so that it can only be
    completed.

    Remedy: nothing.
    """


class SeedAdopted(TransferCancelled):
    """A transfer of the server has taken the place of the copy that followed it.

    The server is used as ever; `wingsctl transfers` lists the copy as taken over.

    Cause: the Panel has ordered a transfer. To the same node it goes on with the copy; with an
    order to another node the copy is kept for `system.transfers.moves.keep_days`.

    Remedy: nothing. If that transfer fails, begin another copy: it goes on with what is kept.
    """

    message = "a transfer of the server has begun"
    detail = "it takes the place of the copy"


class ContainerNameTaken(Conflict):
    """Both nodes use one Docker engine.

    Cause: another node's container on the same engine has the server's name. The nodes of
    Pterodactyl and Pelican remove a container only after the transfer. Nothing was received.

    Remedy: give each node an engine of its own, or do what the detail says.
    """


class StoragePoolConflict(Conflict):
    """The storage pools of the two nodes do not fit each other.

    Nothing was changed.

    Cause: the message says which setting.

    Remedy: depends on the message.

    - `both nodes have the same volume, but not the same storage pool`: the destination would
      overwrite the files with a copy. Set `system.transfers.storage_pool` there as here.
    - `the server's directory is already in the storage pool`: an ordinary transfer would replace a
      directory that may be the source's own. If both nodes have the volume, configure the same
      pool on both. If the directory is a rest of a transfer to a node without the volume, move it
      away.
    - `this node no longer has the storage pool of the other node`: the configuration was changed
      during the transfer. Transfer the server again.
    """


class InvalidForm(BadRequest):
    """The upload is not valid `multipart/form-data`, or one of its parts is invalid.

    Cause: the detail has it. An invalid client fails each time; otherwise a proxy cut the body.

    Remedy: transfer the server again; correct the client. If the detail names a configuration key,
    it is a limit of this node: raise it if the client is right.
    """

    code = "form-invalid"


class InvalidDestination(BadRequest):
    """The destination's URL or token is invalid.

    Cause: the Panel has an invalid address of the destination; the reason is in the detail.

    Remedy: correct the address of that node in the Panel.
    """

    code = "destination-invalid"


class InvalidContentType(_Fixed, BadRequest):
    """The request is not an upload.

    Cause: its header `Content-Type` is not `multipart/form-data` with a boundary: the client is
    not a node, or a proxy changes the header.

    Remedy: correct the client or the proxy.
    """

    code = "content-type-invalid"
    message = "invalid content type"


class ArchiveNotFirst(BadRequest):
    """Another part of the upload came before the archive.

    Cause: the client sent the parts in another order.

    Remedy: send the archive first.
    """

    def __init__(self, part: str = "checksum") -> None:
        super().__init__(
            f"archive must be sent before the {part}",
            f'send the part named "archive" first and the part named "{part}" after it',
        )


class StreamMismatch(_Fixed, BadRequest):
    """One of the requests that a server is sent in does not belong to the others.

    If it came after the first, only that request is refused; a source to which that happens ends
    the transfer. The server stays on the source.

    Cause: the detail has it. The source, or a proxy that repeats requests, sent one again; the
    numbers of the requests do not fit; or there are more than this node accepts.

    Remedy: transfer the server again, with fewer additional streams, or raise
    `system.transfers.streams.most` here. Have the proxy repeat no requests.
    """

    message = "the streams of this transfer do not match"


class StreamMissing(_Fixed, BadRequest):
    """Not all of the requests that a server is sent in came in time.

    Cause: the source lost a connection, or something between the nodes limits the number of
    connections.

    Remedy: transfer the server again, with fewer additional streams or none. On a slow line, raise
    `system.transfers.streams.within`.
    """

    message = "a stream of this transfer is missing"


class UploadPartMissing(_Fixed, BadRequest):
    """The upload is complete, and lacks a part.

    Cause: the detail names the part. The source stopped in the middle, or the client is not a
    node.

    Remedy: transfer the server again; correct the client.
    """

    message = "missing archive or checksum"


class ChecksumMismatch(BadRequest):
    """The data received is not the data sent.

    Cause: something between the nodes changes bodies, such as a proxy or a broken network card.

    Remedy: transfer the server again. If it happens again, do so without the proxy.
    """

    def __init__(self, sent: str, received: str, what: str = "archive") -> None:
        super().__init__(
            "checksums don't match",
            f"the sender's SHA-256 is {sent}, that of the {what} received is {received}; "
            f"the {what} was changed on its way, send it again",
        )


class UploadTruncated(BadRequest):
    """The connection or the body ended before the upload was complete.

    Cause: the connection broke, or the source ended.

    Remedy: transfer the server again. If it breaks each time after the same time or the same
    number of bytes, a proxy cuts it: raise the proxy's limits for bodies and for time, or let the
    nodes reach each other directly.
    """


class TooManyTransfers(WingsdError):
    """The node is already receiving as many servers as it may.

    Cause: the limits `system.transfers.concurrent` and `system.transfers.waiting` are reached.

    Remedy: try again in some minutes, or raise the limits.
    """

    status = 503
    retry_after = 60.0

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"this node is already receiving {limit} servers",
            "send the server again in some minutes; system.transfers.concurrent and .waiting in "
            "this node's configuration set how many it takes",
        )


class TransferRevoked(_Fixed, Conflict):
    """The Panel closed the transfer before it was complete.

    The server is complete on this node, but the Panel has it on the source. What was received is
    in quarantine.

    Cause: the transfer was cancelled, or the source reported a failure, in the meantime.

    Remedy: start the transfer again.
    """

    message = "the Panel has closed this transfer"
    detail = (
        "it was cancelled, or the other node reported a failure; the server stays on the source"
    )


class DaemonRestarted(_Fixed, WingsdError):
    """The daemon ended during the transfer.

    Cause: it was restarted before the server was complete on this node. The server stays on the
    source.

    Remedy: start the transfer again.
    """

    message = "this node was restarted during the transfer"
    detail = "start the transfer again"


class DestinationError(WingsdError):
    """The destination failed to receive the server.

    Cause: the detail has it.

    Remedy: follow the detail, and see the log of that node.
    """

    code = "destination-failed"
    status = 502
    #: Whether the destination may still be at work, and have the server in the end.
    may_complete = False

    @property
    def cause(self) -> str:
        """The event alone, without the advice for a transfer that has failed by it."""
        return str(self)

    @property
    def is_refusal(self) -> bool:
        """True if it is certain by this that the destination never has the server."""
        return False


class DestinationUnreachable(DestinationError):
    """There is no connection to the destination, or its certificate is invalid.

    The server stays on the source.

    Cause: the detail says which.

    Remedy: depends on the detail.

    - `the name … is not known`: correct the node's address in the Panel, or this node's DNS.
    - `nothing listens at …`: start the daemon there, or correct its port in the Panel.
    - `is silent`: allow this node in the firewall of the destination.
    - `closed the connection before anything could be sent`: a proxy without a backend, or no TLS
      where TLS is expected.
    - `there is no TLS at …`: the Panel says `https` for a node that speaks plain HTTP, the port is
      not the node's, or the other end has neither TLS 1.3 nor an AEAD suite of TLS 1.2.
    - `it expired on …`, `it is not valid before …`: renew the certificate, or set the clocks of
      both nodes.
    - `which this node does not trust`: use a certificate of a public authority, or name the
      private authority's in `system.transfers.ca_file` here.
    - `it is for …, and the Panel calls that node …`: make the name in the certificate and the
      node's name in the Panel the same.
    - `certificate cannot be verified`: `system.transfers.ca_file` of this node cannot be used.
    """

    is_refusal = True


class DestinationRefused(DestinationError):
    """The destination, or something at its address, answered with an error.

    Cause: `says: …` is followed by that node's own message: if wingsd runs there, its code is
    explained there. Wings does not send the reason but a `request_id`, which its log has.
    `answered …` has the status of a server that is not a node.

    Remedy: see the log of that node, or of a proxy in front of it. With 413, a proxy limits the
    size of a request. With a redirect, correct the address of that node in the Panel, most often
    to `https`. If it answered before it had received everything, or its answer is invalid, a proxy
    answers in its place, or it is not a node.
    """

    def __init__(
        self, message: str, detail: str, response_status: int, *, may_complete: bool = False
    ) -> None:
        super().__init__(message, detail)
        self.response_status = response_status
        self.may_complete = may_complete
        #: The code of the answer, empty where it is not known.
        self.answer_code = ""
        #: Whether it only was not able to answer now: nothing is said about the server.
        self.is_temporary = False
        #: Whether it is refused until a person has changed something there.
        self.is_final = False
        #: Whether it may be of a proxy: an answer to a move that is not the node's own.
        self.is_foreign = False

    @property
    def is_refusal(self) -> bool:
        """True if the node itself has refused the server."""
        return not (self.may_complete or self.is_temporary or self.is_foreign)


def is_cancel(error: Exception | None) -> bool:
    """Return whether a person has cancelled a transfer, at this node or at the other one."""
    if isinstance(error, DestinationRefused):
        return error.answer_code == TransferCancelled.code
    return isinstance(error, TransferCancelled)


class DestinationDisconnected(DestinationError):
    """The connection to the destination ended without an answer.

    If everything had been sent, this node asks the Panel which node has the server before it
    decides anything, for `system.transfers.answer_grace` at most.

    Cause: the daemon there ended or was killed, or a proxy closed the connection, most often since
    its time limit is shorter than the destination's work, such as pulling an image. With interim
    answers or too long headers, the server at that address is not a node.

    Remedy: see the log of that node, and wait for the answer of the Panel. If the destination is
    known to have failed, cancel the transfer: the server can be started at once. To avoid it,
    raise the time limit of the proxy in front of the destination.
    """

    may_complete = True

    def __init__(self, reason: str, *, body_sent: bool) -> None:
        sent = (
            "it may have received the whole server; check in the Panel where the server is now"
            if body_sent
            else "it had not received everything; transfer the server again"
        )
        super().__init__("the destination node did not answer", f"{reason}; {sent}")
        #: Whether the destination may have everything, and even have reported it to the Panel.
        self.body_sent = body_sent
        self._reason = reason

    @property
    def cause(self) -> str:
        """The reason why there is no answer."""
        return f"{self.message}: {self._reason}"


class DestinationTimeout(DestinationDisconnected):
    """The destination received everything and did not answer in time.

    Cause: the connection lasted for all of `system.transfers.answer_timeout`, in which the
    destination verifies what it has received, makes the container and reports to the Panel.

    Remedy: see the log of that node. This node asks the Panel which node has the server before it
    decides anything.
    """

    may_complete = False

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer for {seconds:g} s", body_sent=True)


class FinalPassStalled(DestinationError):
    """The destination took nothing of the last round of a server that was stopped for its move.

    The server was started again at its node each time. After the third time the transfer has
    failed. What has arrived is kept there.

    Cause: the disk of the destination or the line to it stood still for
    `system.transfers.live.final_patience` seconds.

    Remedy: see the destination's log, its disk and the line to it, and transfer the server again.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(
            "the last round of the move came to a halt",
            f"nothing was taken for {seconds:g} s; see the destination's log, and the line to it",
        )


class TransferNotCommitted(PanelError):
    """The Panel does not know the transfer yet.

    Cause: a Panel commits a transfer only after its source has begun it, and may deny it in the
    first minute. The second of two nodes that report a failure gets the same answer.

    Remedy: nothing; the node repeats its report. A server whose transfer was cancelled when the
    destination may have had everything is held meanwhile, until that minute is over at most.
    """

    def __init__(self, pause: float) -> None:
        super().__init__("the Panel does not know this transfer yet")
        #: Seconds after which the Panel is asked again.
        self.pause = pause


class TryAgain(WingsdError):
    """The answer is not known yet.

    Cause: a server that came by a direct transfer is still being received or sent on, or the node
    is still starting.

    Remedy: nothing: the source asks again, after `Retry-After` seconds.
    """

    status = 503
    retry_after = 1.0


# Moves that resume


class BatchInvalid(BadRequest):
    """A batch of a move is not one that a node makes.

    Cause: it was cut short by a proxy, or the two nodes have different versions of wingsd. The
    reason is in the detail.

    Remedy: nothing at first, since the source sends it again. If that fails, update both nodes.
    """

    code = "move-batch-invalid"
    _advice = "; send the batch again, and update both nodes if that fails"

    def __init__(self, detail: str) -> None:
        super().__init__("the batch of a move is invalid", detail + self._advice)


class BatchDamaged(BatchInvalid):
    """Bytes of a batch do not fit their digest.

    Cause: they were changed on the way, or the source's memory or disk is faulty.

    Remedy: nothing at first, since the source sends them again. If it is repeated, check the
    source's memory and disk, and the line.
    """

    code = "move-batch-damaged"
    _advice = " does not fit its digest; send the batch again"


class FrameRefused(BatchInvalid):
    """A batch of a move names a path or number that it may not, or is beyond a limit.

    Cause: the detail has it. Of paths the reasons are those of archives
    (`archive-member-refused`).

    Remedy: rename, move or delete the file at the source. Where there are too many files, raise
    `system.transfers.max_members` on this node; where they are too large, raise the server's disk
    limit in the Panel.
    """

    code = "move-frame-refused"
    _advice = "; the batch of the move is refused"


class MoveVersionUnknown(BadRequest):
    """The two nodes have different versions of the format of moves.

    Cause: their wingsd are of different versions.

    Remedy: update the older node.
    """

    def __init__(self, version: int, known: int) -> None:
        super().__init__(
            "the move is of an unknown version",
            f"it has version {version}, this node knows {known}; update the older node",
        )


class MoveBatchTooLarge(WingsdError):
    """A batch is longer than `system.transfers.moves.batch` of this node.

    Cause: the setting was lowered during the move.

    Remedy: nothing: the source sends less. If it is repeated, update both nodes.
    """

    status = 413

    def __init__(self, limit: int) -> None:
        super().__init__("the batch is too large", f"send {limit} bytes at most")


class BatchConflict(_Fixed, Conflict):
    """A batch of a move does not fit what was received.

    Cause: the source has lost track of the move.

    Remedy: transfer the server again; if it is repeated, update both nodes.
    """

    code = "move-batch-conflict"
    message = "the batch does not fit the move"


class ShapeMissing(_Fixed, Conflict):
    """A batch of a move comes too early.

    Cause: another batch must be received before it.

    Remedy: nothing: the source sends it again.
    """

    code = "move-shape-missing"
    message = "the batch comes too early"


class RoundIncomplete(_Fixed, Conflict):
    """A round of a move is to be closed, and batches are missing.

    Cause: they are still being received, or were lost.

    Remedy: nothing: the source sends them.
    """

    code = "move-round-incomplete"
    message = "the round of a move is incomplete"


class RootMismatch(_Fixed, Conflict):
    """After a round the two nodes have different trees.

    Cause: a file changed while it was read, or memory or a disk is faulty.

    Remedy: nothing at first, since the source compares the directories and sends what differs. If
    it is repeated, check memory and disk of both nodes.
    """

    code = "move-root-mismatch"
    message = "the two nodes have different trees"


class LedgerDamaged(StorageError):
    """The record of what was received is damaged.

    Cause: this node's disk or memory has changed it: the detail says where. What it says is not
    trusted.

    Remedy: check this node's disk and memory, remove the partial copy, and move the server again.
    """

    code = "move-ledger-damaged"

    def __init__(self, position: int, detail: str) -> None:
        super().__init__(
            f"at byte {position}: {detail}; check this node's disk and memory, remove the partial "
            "copy, and move the server again",
            "the ledger of a partial copy is damaged",
        )


class LedgerVersionUnknown(StorageError):
    """The record of what was received is of another version of wingsd.

    Cause: it was written by a newer wingsd. It is kept as it is.

    Remedy: update wingsd, or remove the partial copy.
    """

    code = "move-ledger-version-unknown"

    def __init__(self, version: int, known: int) -> None:
        super().__init__(
            f"it has version {version}, this node knows {known}; it is kept as it is: update "
            "wingsd, or remove the partial copy",
            "the ledger of a partial copy is of an unknown version",
        )


class HistoryDamaged(StorageError):
    """A file of a server's history is damaged.

    Cause: this node's disk or memory has changed it: the detail says where. Other points of the
    history are not concerned, unless they need the same file.

    Remedy: check this node's disk and memory. Points and files that are not damaged can be used;
    `wingsctl rewind --skip-damaged` leaves damaged files as they are now.
    """

    code = "history-damaged"

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(
            f"{name}: {detail}; check this node's disk and memory",
            "a file of the server's history is damaged",
        )


class HistoryVersionUnknown(StorageError):
    """A server's history is of another version of wingsd.

    Cause: it was written by a newer wingsd. It is kept as it is, and no point is made.

    Remedy: update wingsd, or remove the directory of the server's history.
    """

    code = "history-version-unknown"

    def __init__(self, name: str, version: int, known: int) -> None:
        super().__init__(
            f"{name} has version {version}, this node knows {known}; it is kept as it is: update "
            "wingsd, or remove the history",
            "the server's history is of an unknown version",
        )


class HistoryFull(StorageError):
    """A point of a server's history would take more space than the history may take.

    Cause: the copy of the server's files alone takes more, or together with the points that may
    not be removed, such as backups.

    Remedy: give the history more space, or delete backups or files of the server.
    """

    code = "history-full"

    def __init__(self, directory: str, named: int = 0) -> None:
        which = f"the points of {named} backups stay; delete some of these, " if named else ""
        super().__init__(
            f"{directory} would become larger than it may: {which}give the history more space, or "
            "delete files of the server",
            "no point of the server's history can be made",
        )


class RewindFailed(_Fixed, WingsdError):
    """The server was not rewound; its files are as before.

    Nothing of the server is changed before all that differs is prepared, and a point of the
    stopped server was made.

    Cause: the detail says why.

    Remedy: depends on the detail.

    - `the server has not stopped within …`: a rewind does not kill a server, which might lose what
      it has not saved. Kill it if it hangs, and rewind it again.
    - `something writes to …`: a program outside of the server's container has these files open,
      such as one that an administrator has started. End it, and rewind it again.
    """

    message = "the server was not rewound"


class RewindNotActive(_Fixed, Conflict):
    """The server is not being rewound.

    Cause: its rewind has ended, or it was deleted.

    Remedy: none is needed; wingsctl rewind --undo undoes a rewind that has ended.
    """

    message = "the server is not being rewound"
    detail = "its last rewind has ended"


class HistoryBaseChanged(_Fixed, Conflict):
    """A delta of a history that follows its server does not fit that any more.

    Cause: the point that it goes before was removed at the server's node meanwhile, or has not
    been made yet.

    Remedy: nothing: the source asks for the point again, and sends the right delta.
    """

    message = "the server's history has changed meanwhile"


class HistoryTakesNoMore(Conflict):
    """The older points of a history that follows its server are not taken.

    Cause: with them it would take more space than `system.history.max_size` allows at the server's
    node. They are left out.

    Remedy: nothing, or allow more before servers move.
    """

    def __init__(self) -> None:
        super().__init__(
            "older points of the server's history are not taken",
            "with them it would become larger than system.history.max_size",
        )


class NoSuchPoint(WingsdError):
    """A server's history has no such point, or the point cannot be removed.

    Cause: it was removed since, by a user or because it was old. The newest point stays: it is
    replaced by the next one.

    Remedy: use a point that the history still has.
    """

    status = 404

    def __init__(self, detail: str) -> None:
        super().__init__("the server's history has no such point", detail)


class PointNamed(Conflict):
    """The point of a server's history is one of its backups, and stays.

    Cause: `system.backups.wings.kind` is `history`, or was when the backup was made.

    Remedy: delete the backup in the Panel. `wingsctl backups` lists those of a server.
    """

    def __init__(self, number: int, names: Collection[str]) -> None:
        which = f"the backup {next(iter(names))}" if len(names) == 1 else f"{len(names)} backups"
        super().__init__(
            f"point {number} is that of {which}",
            f"delete the backup in the Panel: {', '.join(sorted(names))}",
        )


class SourceFileChanged(StorageError):
    """A file of a stopped server was changed while it was read.

    Cause: a program on the source writes to it, such as a container or a mount that has its
    directory.

    Remedy: find out what writes to it, and move the server again.
    """

    code = "move-file-changed"

    def __init__(self, shown: str) -> None:
        super().__init__(
            f"{shown} was changed while it was read; find out what writes to the stopped server's "
            "files, and move it again",
            "the server's files changed during the move",
        )


class HeldTreeInvalid(WingsdError):
    """The destination's description of its partial copy is invalid.

    Cause: the destination is faulty, or its copy is several times larger than the server is now.

    Remedy: remove that copy there (`wingsctl forget`), update both nodes, and move the server
    again.
    """

    code = "move-held-tree-invalid"
    status = 502

    def __init__(self, detail: str) -> None:
        super().__init__(
            "the destination's description of its partial copy is invalid",
            f"{detail}; remove the partial copy on that node, update both nodes, and move the "
            "server again",
        )


class MoveKeyInvalid(_Fixed, Unauthorized):
    """A request of a move has another key than the move.

    Cause: another program asks, or the source has lost its key.

    Remedy: transfer the server again.
    """

    message = "the key of the move is wrong"
    detail = "only the source that began the move has its key; transfer the server again"


class MoveNotFound(_Fixed, WingsdError):
    """The node has no such move.

    Cause: it ended more than 90 days ago, was never begun here, or the state database was
    replaced.

    Remedy: transfer the server again.
    """

    status = 404
    message = "this node has no such move"
    detail = "it ended more than 90 days ago, or was never begun here; transfer the server again"


class MoveOver(_Fixed, WingsdError):
    """The move has ended.

    Cause: it was completed, cancelled or given up, and the source has not heard of it.

    Remedy: nothing: the source asks for its outcome.
    """

    status = 410
    message = "the move has ended"
    detail = "ask for its outcome"


class MoveResumeNeeded(Conflict):
    """A request of a move is of an earlier session.

    Cause: the node was restarted, the source has begun another session, or the copy was opened
    again after an error of the disk, which stands before it in the log.

    Remedy: nothing: the source resumes. Where the request has no session, let the proxy pass
    requests to `/api/transfers` on with their queries.
    """

    def __init__(self, detail: str = "another session has begun; resume the move") -> None:
        super().__init__("the session of the move has ended", detail)


class MoveCommitted(_Fixed, Conflict):
    """A request of a move comes after its commit.

    Cause: the server is being put into place.

    Remedy: nothing: the source asks for the outcome.
    """

    message = "the move is being completed"
    detail = "ask for its outcome"


class AttachmentOffsetWrong(Conflict):
    """A piece of a backup or log does not begin where the last one ended.

    Cause: a piece was lost or repeated, or its bytes did not fit their digest.

    Remedy: nothing: the source goes on at the offset in the answer.
    """

    code = "move-offset-wrong"

    def __init__(self, offset: int, reason: str = "") -> None:
        super().__init__(
            "the piece does not begin where the attachment ends",
            f"{reason or 'send it again'} from byte {offset} on",
        )
        self.offset = offset


class AttachmentMissing(_Fixed, WingsdError):
    """The move was begun without that backup or log, or does not take it any more.

    Cause: the source has a fault, or has begun the move otherwise. Of a backup that follows a
    server: it was deleted, or an operator has ended its way.

    Remedy: transfer the server again; of a backup that follows, nothing.
    """

    code = "move-attachment-unknown"
    status = 404
    message = "the move has no such attachment"
    detail = "it must be announced when the move is begun"


class AttachmentsIncomplete(Conflict):
    """A commit was requested before all backups are here.

    Cause: the source has a fault.

    Remedy: nothing at first, since the source sends them. If it is repeated, update both nodes.
    """

    code = "move-attachments-incomplete"

    def __init__(self, names: str) -> None:
        super().__init__("attachments of the move are missing", f"send the rest of {names}")


class MoveBusy(_Fixed, WingsdError):
    """The node cannot take a request of a move now.

    Cause: other servers arrive and all slots (`system.transfers.concurrent`) are in use, the node
    is still starting or asking its Panel, or its disk is slow.

    Remedy: nothing: the source sends it again.
    """

    status = 503
    retry_after = 5.0
    message = "the node cannot take this now"


class MoveNoSpace(StorageError):
    """There is no space on the disk for a batch of a move.

    Cause: the disk of the staging directory is full. What has arrived is kept.

    Remedy: free space: the move goes on by itself.
    """

    status = 507
    retry_after = 30.0


class MoveAbandoned(WingsdError):
    """Nothing was heard of the source of a move for a long time.

    Cause: its node, or the line, is down for longer than `system.transfers.moves.patience`. What
    has arrived is kept.

    Remedy: transfer the server again, which goes on with what is kept.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(
            "the source of the move fell silent",
            f"nothing was heard of it for {seconds:g} s; transfer the server again, which goes on "
            "with what has arrived",
        )


class MoveGivenUp(WingsdError):
    """The source has ended the move.

    Cause: the move has failed there.

    Remedy: see the log of the source.
    """

    def __init__(self, *, keeps: bool) -> None:
        super().__init__("the source has ended the move", "its own log says why")
        #: Whether what has arrived stays.
        self.keeps = keeps


class SeedForgotten(MoveGivenUp):
    """The copy that followed the server was removed at the other node.

    The server is used as ever.

    Cause: `wingsctl forget` was run there.

    Remedy: nothing; for another copy run `wingsctl receive` with `--follow`.
    """

    def __init__(self) -> None:
        WingsdError.__init__(
            self,
            "the copy that followed the server was removed",
            "by wingsctl forget; for another one run wingsctl receive with --follow",
        )
        self.keeps = False


class PairEnded(SeedForgotten):
    """The pair by which a copy was sent has ended at the destination.

    The server is used as ever, and the copy is removed.

    Cause: the pair was revoked there by `wingsctl pair revoke`.

    Remedy: nothing; for further copies run `wingsctl pair` there again, and the command that it
    prints here.
    """

    def __init__(self) -> None:
        WingsdError.__init__(
            self,
            "the pair of the two nodes was revoked",
            "for further copies run wingsctl pair at the destination again",
        )
        self.keeps = False


class MoveSuperseded(_Fixed, Conflict):
    """A later transfer of the server has taken the place of the move.

    Cause: the server was transferred again. It goes on with what has arrived.

    Remedy: nothing.
    """

    message = "a later transfer of the server has begun"
    detail = "it goes on with what has arrived"


class MoveRequestInvalid(_Fixed, BadRequest):
    """A request of a move has a part that is not valid.

    Cause: the detail has it. A backup that was announced has grown or become shorter since, a
    proxy has dropped the query of an address, or the source has a fault.

    Remedy: move the server again; with too many backups, with fewer. If it is repeated, update
    both nodes.
    """

    message = "the request of the move is invalid"
