"""The errors of wingsd, each with a code, the status of its answer, and its messages."""

from __future__ import annotations

from collections.abc import Iterable

_MIB = 1024 * 1024


class InvalidData(ValueError):
    """Invalid data from a file or from the Panel.

    The message has one line per fault: the path of the key, what was expected, what was found.
    """

    code = "invalid-data"


class ConfigError(Exception):
    """The configuration is invalid. The message names the file, the key and the expected value."""

    code = "invalid-configuration"


class WingsdError(Exception):
    """An error with an HTTP answer.

    `code` names the kind of error and never changes; `message` is the answer's `error`; `detail`
    says why and what to do, and may be empty; `retry_after` is in seconds, 0 if unknown. One that
    `is_final` comes again until a person has changed something.
    """

    code = "internal-error"
    status = 500
    retry_after: float = 0.0
    is_final = False

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message, detail)
        self.message = message
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.message.removesuffix('.')}: {self.detail}" if self.detail else self.message

    def add_context(self, subject: str) -> None:
        """Begin the detail with the one of several things that the error is about."""
        self.detail = f"{subject}: {self.detail}" if self.detail else subject


def error_code(error: BaseException) -> str:
    """Return the code of an error; any but a `WingsdError` is an internal one."""
    return error.code if isinstance(error, WingsdError) else WingsdError.code


def error_codes() -> tuple[str, ...]:
    """Return the codes of all errors that an answer may have, sorted. They are stable."""
    found: list[type[WingsdError]] = [WingsdError]
    for kind in found:
        found += kind.__subclasses__()
    return tuple(sorted(kind.code for kind in found))


class Unauthorized(WingsdError):
    """The token is missing or invalid (401)."""

    code = "unauthorized"
    status = 401


class Forbidden(WingsdError):
    """The token, or the web page, does not give access to this (403)."""

    code = "forbidden"
    status = 403


class ServerNotFound(WingsdError):
    """The server is unknown to this node, or to the Panel (404)."""

    code = "server-not-found"
    status = 404


class ServersNotLoaded(WingsdError):
    """The list of servers has not been received from the Panel yet (503)."""

    code = "servers-not-loaded"
    status = 503

    def __init__(self) -> None:
        super().__init__(
            "this node has not loaded its servers yet",
            "it is still requesting them from the Panel; try again in a minute, and see by "
            "wingsctl status whether the Panel answers",
        )


class Unprocessable(WingsdError):
    """A value in the request is invalid (422)."""

    code = "unprocessable"
    status = 422


#: Wings' message for a command to a stopped server.
NOT_RUNNING = "Cannot send commands to a stopped server instance."


class ServerNotRunning(WingsdError):
    """The server is not running (502, as in Wings; by it Panels tell what is the matter)."""

    code = "server-not-running"
    status = 502


class Conflict(WingsdError):
    """The request conflicts with the state of the server or node (409)."""

    code = "conflict"
    status = 409


class ServerAlreadyExists(Conflict):
    """The server is on this node, or is being received (409)."""

    code = "server-already-exists"
    is_final = True


class ServerBusy(Conflict):
    """Something else is being done with the server, or prevents its start (409)."""

    code = "server-busy"


class TransferCancelled(Conflict):
    """The transfer was cancelled by a person (409)."""

    code = "transfer-cancelled"

    def __init__(self) -> None:
        super().__init__("the transfer was cancelled", "start it again")


class BadRequest(WingsdError):
    """The request is invalid (400)."""

    code = "bad-request"
    status = 400


class DiskLimitExceeded(BadRequest):
    """The server may not have as much disk as this takes, in Wings' own words."""

    code = "disk-limit-exceeded"

    def __init__(self, detail: str) -> None:
        super().__init__(
            "There is not enough disk space available to perform that action.", detail
        )


class StorageError(WingsdError):
    """Reading or writing failed on this node's disk: full, read-only, or not permitted."""

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

    `is_silent` is whether the engine does not answer.
    """

    code = "environment-failed"

    def __init__(self, detail: str, *, is_silent: bool = False, is_final: bool = False) -> None:
        super().__init__("the server's environment could not be configured", detail)
        self.is_silent = is_silent
        self.is_final = self.is_final or is_final


class DaemonStopping(WingsdError):
    """The daemon is shutting down (503)."""

    code = "daemon-stopping"
    status = 503

    def __init__(self) -> None:
        super().__init__(
            "this node is shutting down", "send the server again when it has restarted"
        )


# Requests


class InvalidHttpRequest(WingsdError):
    """The bytes received are not an HTTP request."""

    code = "http-request-invalid"
    status = 400

    def __init__(self, message: str = "this is not a valid HTTP request") -> None:
        super().__init__(message)


class PathNotFound(WingsdError):
    """The interface has no such path."""

    code = "path-not-found"
    status = 404

    def __init__(self, path: str, detail: str = "") -> None:
        super().__init__(f"this node has no path {path}", detail)


class MethodNotAllowed(WingsdError):
    """The path does not have the request's method."""

    code = "method-not-allowed"
    status = 405


class BodyTooLarge(WingsdError):
    """The request's body is longer than `limit` bytes."""

    code = "body-too-large"
    status = 413

    def __init__(self, limit: int) -> None:
        super().__init__(
            "the request body is too large",
            f"send {limit} bytes at most; an upload goes to /api/transfers",
        )


class UpgradeRequired(WingsdError):
    """The path is a WebSocket, and the request does not ask for one."""

    code = "upgrade-required"
    status = 426

    def __init__(self) -> None:
        super().__init__("this path is a WebSocket", "send the headers of RFC 6455")


class HeaderTooLong(WingsdError):
    """A line of the request's headers is too long."""

    code = "header-too-long"
    status = 431

    def __init__(self) -> None:
        super().__init__("a header line is too long")


class RangeNotSatisfiable(WingsdError):
    """The file ends before the requested range begins (416)."""

    code = "range-not-satisfiable"
    status = 416

    def __init__(self, size: int) -> None:
        super().__init__(
            "the file ends before the requested range", f"it has {size} bytes; download it again"
        )


class BodyIncomplete(BadRequest):
    """The client has gone, or its body ended, before its announced length (400)."""

    code = "body-incomplete"

    def __init__(self, reason: str) -> None:
        super().__init__("Request aborted by client.", reason)


# Tokens and permissions


class TokenMissing(Unauthorized):
    """The request has no token (401)."""

    code = "token-missing"


class TokenInvalid(Unauthorized):
    """The token cannot be read, or is for something else (401)."""

    code = "token-invalid"


class TokenExpired(TokenInvalid):
    """The token has expired (401)."""

    code = "token-expired"


class TokenUsed(TokenInvalid):
    """The token was used for a previous transfer (401)."""

    code = "token-used"


class SignedUrlVoid(WingsdError):
    """The token is for something else, was used, or is revoked (404, with Wings' message)."""

    code = "signed-url-void"
    status = 404

    def __init__(self, why: str) -> None:
        super().__init__(
            "The requested resource was not found on this server.",
            f"{why}; start it again on the page of the server for a new address",
        )


class InvalidHandshake(WingsdError):
    """The opening handshake of a WebSocket is not that of RFC 6455."""

    code = "websocket-handshake-invalid"
    status = 400

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class TooManyWebSockets(BadRequest):
    """As many WebSockets of one server are open as may be, or wait for a token (400)."""

    code = "too-many-websockets"


class PermissionMissing(BadRequest):
    """The console's user lacks a permission (400)."""

    code = "permission-missing"


class ServerMoved(Conflict):
    """The server has moved to another node (409)."""

    code = "server-moved"


# Files of servers


class PathInvalid(BadRequest):
    """No file can have this path, or the action cannot be done with the file that has it (400)."""

    code = "file-path-invalid"


class NameTooLong(BadRequest):
    """A component of the path, or the whole path, is longer than Linux allows (400).

    In an archive that is extracted, a path is also one of too many directories.
    """

    code = "file-name-too-long"

    def __init__(self, detail: str = "") -> None:
        super().__init__("Cannot perform that action: file name is too long.", detail)


class FileTypeRefused(BadRequest):
    """It is a symlink, a FIFO, a socket or a device (400)."""

    code = "file-type-refused"

    def __init__(self, detail: str = "") -> None:
        super().__init__("Cannot open files of this type.", detail)


class FileInUse(BadRequest):
    """A program has a lease of the file, or runs it (400)."""

    code = "file-in-use"

    def __init__(self, detail: str = "") -> None:
        super().__init__("Cannot perform that action: file is in use.", detail)


class IsDirectory(BadRequest):
    """A file is required, and this is a directory (400)."""

    code = "file-is-directory"

    def __init__(self, detail: str = "") -> None:
        super().__init__("Cannot perform that action: file is a directory.", detail)


class NotDirectory(BadRequest):
    """A directory cannot be made, since its path leads through a file (400)."""

    code = "file-not-directory"

    def __init__(self, detail: str = "") -> None:
        super().__init__("Part of the path being created is not a directory (ENOTDIR).", detail)


class FileTooLarge(WingsdError):
    """The file is larger than the Panel wants it (413)."""

    code = "file-too-large"
    status = 413

    def __init__(self, size: int) -> None:
        super().__init__("file size exceeds maximum allowed size", f"it has {size} bytes")


class NameConflict(BadRequest):
    """The name is in use (400). Wings has a message for each action."""

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


class FileDenied(Forbidden):
    """The egg's denylist has the file (403)."""

    code = "file-denied"

    def __init__(self, detail: str = "") -> None:
        super().__init__("This file cannot be modified: present in egg denylist.", detail)


class FileNotPermitted(Forbidden):
    """The operating system does not let the node do this with the file (403).

    It happens to a daemon without root: users take permissions away by chmod, also from a server's
    program, and that may run as another user.
    """

    code = "file-not-permitted"

    def __init__(self, detail: str) -> None:
        super().__init__("Cannot perform that action: permission denied.", detail)


class FileMissing(WingsdError):
    """The file does not exist, or its path leads out of the server's directory (404)."""

    code = "file-missing"
    status = 404

    def __init__(self, detail: str = "") -> None:
        super().__init__("The requested resources was not found on the system.", detail)


class DirectoryMissing(WingsdError):
    """The directory does not exist, or is something else (404)."""

    code = "directory-missing"
    status = 404

    def __init__(self, detail: str = "") -> None:
        super().__init__("The requested directory does not exist.", detail)


class FileWorkCancelled(Conflict):
    """Work on files was cancelled before its end (409)."""

    code = "file-work-cancelled"

    def __init__(self) -> None:
        super().__init__("the work on the server's files was cancelled")


class TreeTooLarge(StorageError):
    """The files are nested too deeply, or too many in some way, to be counted or sent (400)."""

    code = "tree-too-large"
    status = 400


class UploadInProgress(Conflict):
    """Another request is writing the same file for the same user (409)."""

    code = "upload-in-progress"

    def __init__(self) -> None:
        super().__init__("this file is being uploaded by another request", "wait for it to end")


class InvalidMode(BadRequest):
    """A file's mode is not octal (400)."""

    code = "file-mode-invalid"

    def __init__(self, mode: str) -> None:
        super().__init__("Invalid file mode.", f"{mode[:20]!r} is not octal, such as 644")


class TooManyFileTasks(Conflict):
    """Too many changes of the server's files are under way (409)."""

    code = "too-many-file-tasks"

    def __init__(self, most: int) -> None:
        super().__init__(
            "too many concurrent operations",
            f"{most} changes of this server's files are under way; try again when one has ended",
        )


class UploadFormInvalid(BadRequest):
    """The body is not a form, or ends before it is complete (400, with Wings' message)."""

    code = "upload-form-invalid"

    def __init__(self, detail: str) -> None:
        super().__init__("Failed to get multipart form data from request.", detail)


class NoFilesUploaded(BadRequest):
    """The form has no file (400, with Wings' message)."""

    code = "no-files-uploaded"

    def __init__(self) -> None:
        super().__init__(
            "No files were found on the request body.", "send each file in a field named files"
        )


class UploadTooLarge(BadRequest):
    """A file is larger than uploads may be (400, with Wings' message)."""

    code = "upload-too-large"

    def __init__(self, name: str, limit: int) -> None:
        super().__init__(
            f"File {name} is larger than the maximum file upload size of {limit} MB.",
            "the limit is api.upload_limit of the node",
        )


class FilesBusy(WingsdError):
    """Too much work on files waits already (503)."""

    code = "files-busy"
    status = 503
    retry_after = 5.0

    def __init__(self) -> None:
        super().__init__(
            "this node is busy with the files of its servers", "try again in a few seconds"
        )


class NoSpaceToCompress(Conflict):
    """The server is above its disk limit already (409)."""

    code = "no-space-to-compress"

    def __init__(self) -> None:
        super().__init__(
            "This server does not have enough available disk space to generate a compressed "
            "archive.",
            "delete files, or raise its disk limit in the Panel",
        )


class FileTaskMissing(WingsdError):
    """No change of files has this identifier, or it is over (404)."""

    code = "file-task-missing"
    status = 404

    def __init__(self) -> None:
        super().__init__("operation not found")


class UploadOffsetWrong(Conflict):
    """A part does not begin where the one before it has ended (409)."""

    code = "upload-offset-wrong"

    def __init__(self, size: int) -> None:
        super().__init__(
            "upload offset does not match the current file length",
            f"{size} bytes of the file are here",
        )


# Archives


class ArchiveError(WingsdError):
    """The archive cannot be extracted: damaged, of an unknown kind, or with a refused member."""

    code = "archive-invalid"

    def __init__(self, detail: str) -> None:
        super().__init__("the archive could not be extracted", detail)


class MemberRefused(ArchiveError):
    """A member that is never written: the whole archive is refused."""

    code = "archive-member-refused"

    def __init__(self, shown: str, reason: str) -> None:
        super().__init__(f"{shown} is refused: {reason}")


class ArchiveFormatUnsupported(BadRequest):
    """No archives of this format are made here (400)."""

    code = "archive-format-unsupported"

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(
            "This node does not make archives of that format.",
            f"{name[:40]!r} is none of {', '.join(sorted(known))}",
        )


class ArchiveFormatUnknown(BadRequest):
    """The file is no archive that can be extracted here (400)."""

    code = "archive-format-unknown"

    def __init__(self) -> None:
        super().__init__("The archive provided is in a format Wings does not understand.")


class OverwritesFileInUse(BadRequest):
    """A file that is to be replaced is in use (400)."""

    code = "archive-overwrites-file-in-use"

    def __init__(self, detail: str) -> None:
        super().__init__(
            "One or more files this archive is attempting to overwrite are currently in use by "
            "another process. Please try again.",
            detail,
        )


class ArchiveDamaged(BadRequest):
    """The archive's bytes are not what its format demands (400)."""

    code = "archive-damaged"

    def __init__(self, detail: str) -> None:
        super().__init__("The archive is damaged or incomplete; upload it again.", detail)


class ArchiveEncrypted(BadRequest):
    """The archive needs a password (400)."""

    code = "archive-encrypted"

    def __init__(self) -> None:
        super().__init__(
            "The archive is encrypted, and this node knows no password; upload it without one."
        )


class ArchiveInParts(BadRequest):
    """The file is one part of an archive that was divided (400)."""

    code = "archive-in-parts"

    def __init__(self, detail: str) -> None:
        super().__init__(
            "The file is one of several parts of an archive; upload it undivided.", detail
        )


class ArchiveMethodUnsupported(BadRequest):
    """The archive is compressed in a way that cannot be read here (400)."""

    code = "archive-method-unsupported"

    def __init__(self, detail: str) -> None:
        super().__init__(
            "The archive is compressed by a method that this node does not have; make it a zip, "
            "a 7z or a tar.gz by the usual methods.",
            detail,
        )


class ArchiveExcessive(BadRequest):
    """The archive has too many members, or takes too much memory or time (400)."""

    code = "archive-excessive"

    def __init__(self, detail: str) -> None:
        super().__init__(
            "The archive takes more than this node gives to one; divide it, or make it with a "
            "dictionary of at most 64 MiB.",
            detail,
        )


class ArchiveNotParsed(WingsdError):
    """The process that parses the archive has failed (500)."""

    code = "archive-not-parsed"

    def __init__(self, detail: str) -> None:
        super().__init__("the archive could not be read", detail)


# Downloads from a URL


class UrlInvalid(BadRequest):
    """The URL cannot be requested (400, with Wings' message)."""

    code = "url-invalid"

    def __init__(self, reason: str) -> None:
        super().__init__(f"An error occurred while parsing that URL: {reason}")
        self.reason = reason


class UrlSchemeRefused(UrlInvalid):
    """The URL is of neither http nor https (400)."""

    code = "url-scheme-refused"

    def __init__(self) -> None:
        super().__init__("it must begin with http:// or https://")


class AddressBlocked(BadRequest):
    """The host is in a network that users may not reach through this node (400)."""

    code = "address-blocked"

    def __init__(self, host: str) -> None:
        super().__init__(
            "This node does not connect to the address of that URL.",
            f"{host} is not on the public Internet, or is this node itself; an administrator of "
            "the node can allow it",
        )


class DownloadFailed(BadRequest):
    """The other server did not send the file (400)."""

    code = "download-failed"

    def __init__(self, detail: str) -> None:
        super().__init__("The file could not be downloaded from that URL.", detail)


class TooManyRedirects(DownloadFailed):
    """Its redirects are too many, or lead back to where one has been (400)."""

    code = "too-many-redirects"


class TooManyPulls(BadRequest):
    """The server has as many downloads as it may have (400, with Wings' message)."""

    code = "too-many-pulls"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"This server has reached its limit of {limit} simultaneous remote file downloads at "
            "once. Please wait for one to complete before trying again."
        )


class RemoteDownloadDisabled(BadRequest):
    """Downloads from a URL are disabled on this node (400, with Wings' message)."""

    code = "remote-download-disabled"

    def __init__(self) -> None:
        super().__init__(
            "This functionality is not currently enabled on this instance.",
            "see api.disable_remote_download of the node",
        )


# The Panel


class ServerNotAssigned(ServerNotFound):
    """The Panel knows the server, but of no transfer that brings it to this node (404)."""

    code = "server-not-assigned"


class PanelError(WingsdError):
    """The Panel did not do what was asked of it.

    `retry_after` is the seconds it asks to be left alone for, 0 when it does not.
    """

    code = "panel-failed"

    def __init__(self, message: str, detail: str = "", retry_after: float = 0.0) -> None:
        super().__init__(message, detail)
        self.retry_after = retry_after


class PanelRefused(PanelError):
    """The Panel answered, and the answer was no (a 4xx in `response_status`).

    `is_own` is whether it is in the form of the Panel's errors, and not a page of a proxy.
    """

    code = "panel-refused"

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
        self.is_own = is_own


class NodeTokenRefused(PanelRefused):
    """The Panel refuses this node's own token (503): it has said nothing of any server.

    `answer` is what it said, with its status in `response_status`.
    """

    code = "node-token-refused"
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
    """The Panel gave no answer that could be used: down, too slow, a 5xx, or nonsense (503)."""

    code = "panel-unreachable"
    status = 503


# Docker and installations


class SettingsInvalid(EnvironmentFailed):
    """No container can have the server's settings, which the Panel has (422)."""

    code = "server-settings-invalid"
    status = 422
    is_final = True


class ConsoleBlocked(EnvironmentFailed):
    """The server does not take what is typed into its console; it may still do so (409)."""

    code = "console-blocked"
    # Not a failure of the node: the server's users can mend it.
    status = 409


class InstallationFailed(WingsdError):
    """The installation script did not run to its end."""

    code = "installation-failed"

    def __init__(self, detail: str) -> None:
        super().__init__("the server was not installed", detail)


# The node


class EngineUnavailable(Conflict):
    """The Docker engine is disabled, does not answer, or refuses (409)."""

    code = "engine-unavailable"

    def __init__(self, detail: str) -> None:
        super().__init__("Docker cannot be asked on this node", detail)


class PruneInProgress(Conflict):
    """Unused images are still being removed (409)."""

    code = "prune-in-progress"

    def __init__(self) -> None:
        super().__init__(
            "Docker is still removing unused images",
            "this node goes on with it; ask again in some minutes for what was removed",
        )


class FiguresUnavailable(WingsdError):
    """The system does not show its figures to this daemon (500)."""

    code = "figures-unavailable"

    def __init__(self, detail: str) -> None:
        super().__init__("the figures of this node cannot be read", detail)


class LogFileNotFound(WingsdError):
    """There is no such log file (404)."""

    code = "log-file-not-found"
    status = 404

    def __init__(self) -> None:
        # As in Calagopus' nodes.
        super().__init__("log file not found")


class SettingsNotSaved(WingsdError):
    """The configuration's file could not be read, changed or written (500)."""

    code = "settings-not-saved"

    def __init__(self, detail: str) -> None:
        super().__init__("the node's settings could not be saved", detail)


class StateDatabaseError(StorageError):
    """The state database cannot be opened, read or written."""

    code = "state-database-failed"

    def __init__(self, detail: str, message: str = "the state database cannot be used") -> None:
        super().__init__(detail, message)


class StateDatabaseDamaged(StateDatabaseError):
    """The file of the state database is damaged, cut short, or not a database."""

    code = "state-database-damaged"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, "the state database is damaged")


# Backups


class AdapterUnknown(BadRequest):
    """Backups of the kind that the Panel asks for cannot be made on this node (400)."""

    code = "backup-adapter-unknown"

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(
            f"This node cannot make backups of the kind {name[:40]!r}.",
            f"choose another kind in the Panel's settings; this node has {', '.join(known)}",
        )


class BackupExists(Conflict):
    """There is a backup of that UUID on this node, or it is being made (409)."""

    code = "backup-exists"

    def __init__(self) -> None:
        super().__init__("backup already exists", "each backup needs a UUID of its own")


class BackupNotForWings(Conflict):
    """A backup is not rewritten for Wings, and stays as it is (409)."""

    code = "backup-not-for-wings"

    def __init__(self, detail: str) -> None:
        super().__init__("the backup is not rewritten for Wings", detail)


class InvalidBackupName(BadRequest):
    """A part of the upload is not named as a backup is (400)."""

    code = "backup-name-invalid"


class NoSpaceForBackup(Conflict):
    """The disk of the backups has not enough free space (409)."""

    code = "no-space-for-backup"

    def __init__(self, free: int, needed: int, reserve: int) -> None:
        super().__init__(
            "There is not enough disk space on this node for the backup.",
            f"{free // _MIB} MiB are free where backups are kept, of which {reserve // _MIB} MiB "
            f"must stay free (system.transfers.disk_reserve), and it takes at least "
            f"{-(-needed // _MIB)} MiB more: delete backups, or free space on this node",
        )


class BackupIgnoresEverything(BadRequest):
    """The ignore list leaves nothing to be kept of a server that has files (400)."""

    code = "backup-ignores-everything"

    def __init__(self) -> None:
        super().__init__(
            "The backup was not made: its list of ignored files leaves nothing of the server.",
            "what is in an ignored directory cannot be named again with `!`; the lines `/*` and "
            "`!/world/` keep one directory, `/*`, `!/a/`, `/a/*` and `!/a/b/` one further down",
        )


class BackupConflict(Conflict):
    """A different backup of the same name is on this node (409)."""

    code = "backup-conflict"


class BackupMissing(WingsdError):
    """The server has no local backup with this UUID (404, with Wings' message)."""

    code = "backup-missing"
    status = 404

    def __init__(self, uuid: str) -> None:
        super().__init__(
            "The requested backup was not found on this server.",
            f"system.backup_directory has no file of the backup {uuid} of this server",
        )


class BackupUploadFailed(WingsdError):
    """The backup cannot be uploaded; trying again is of no use (502).

    With `is_unknown_call`, as the Panel does not have the call for its URLs.
    """

    code = "backup-upload-failed"
    status = 502

    def __init__(self, detail: str, *, is_unknown_call: bool = False) -> None:
        super().__init__("the backup could not be uploaded", detail)
        self.is_unknown_call = is_unknown_call


class BackupSettled(Conflict):
    """The Panel has the backup as completed or failed already: it takes no more of it (409)."""

    code = "backup-settled"

    def __init__(self, detail: str) -> None:
        super().__init__("the Panel has settled the backup already", detail)


class BackupLinkRefused(BadRequest):
    """The link to a backup cannot be used (400)."""

    code = "backup-link-refused"


class BackupChecksumMismatch(WingsdError):
    """A backup is not what was made."""

    code = "backup-checksum-mismatch"

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(
            "the backup is not the one that was made",
            f"its SHA-256 is {found}, and {expected} is in its catalogue: the file was changed or "
            "damaged since; restore another backup",
        )


class RestoreFailed(WingsdError):
    """A backup could not be restored; the server's files are as before."""

    code = "restore-failed"

    def __init__(self, detail: str) -> None:
        super().__init__("the backup was not restored", detail)


# SFTP


class HostKeyUnusable(WingsdError):
    """The SFTP server has no host key, so it does not run."""

    code = "sftp-host-key-unusable"

    def __init__(self, detail: str) -> None:
        super().__init__("SFTP is off: the host key cannot be used", detail)


class LoginRefused(Forbidden):
    """The login is refused by this node."""

    code = "sftp-login-refused"

    def __init__(self, why: str) -> None:
        super().__init__("the login is refused", why)


class SftpPermissionMissing(Forbidden):
    """The user has not the permission for this operation."""

    code = "sftp-permission-missing"

    def __init__(self, permission: str) -> None:
        super().__init__(
            "you are not allowed to do this",
            f"it takes the permission {permission}, which the server's owner can give in the "
            "Panel",
        )


class ReadOnly(WingsdError):
    """`system.sftp.read_only` is set."""

    code = "sftp-read-only"

    def __init__(self) -> None:
        super().__init__("SFTP is read-only on this node", "use the Panel's file manager")


class TooManyHandles(WingsdError):
    """The channel, or all of them together, has as many files open as it may."""

    code = "sftp-too-many-handles"

    def __init__(self, most: int) -> None:
        super().__init__(
            "too many files are open", f"{most} are allowed; close some, or use fewer at once"
        )


class HandleInvalid(WingsdError):
    """No file or directory of this kind is open by that handle."""

    code = "sftp-handle-invalid"

    def __init__(self) -> None:
        super().__init__("the handle is not that of an open file of this kind")


# Transfers


class TransferInProgress(ServerBusy):
    """A transfer of the server from this node is under way (409)."""

    code = "transfer-in-progress"


class TransferNotActive(Conflict):
    """The server has no transfer that could be cancelled (409)."""

    code = "transfer-not-active"


class SeedAdopted(TransferCancelled):
    """A transfer of the server has taken the place of its seed, and goes on with the copy."""

    code = "seed-adopted"

    def __init__(self) -> None:
        WingsdError.__init__(
            self, "a transfer of the server has begun", "it takes the place of the copy"
        )


class ContainerNameTaken(Conflict):
    """Another node's container on the same engine has the server's name (409)."""

    code = "container-name-taken"


class StoragePoolConflict(Conflict):
    """The storage pools of the two nodes do not fit each other (409)."""

    code = "storage-pool-conflict"


class InvalidForm(BadRequest):
    """The upload is not valid multipart/form-data, or one of its parts is invalid."""

    code = "form-invalid"


class InvalidDestination(BadRequest):
    """The destination's URL or token is invalid."""

    code = "destination-invalid"


class InvalidContentType(BadRequest):
    """Not multipart/form-data with a boundary."""

    code = "content-type-invalid"

    def __init__(self, detail: str) -> None:
        super().__init__("invalid content type", detail)


class ArchiveNotFirst(BadRequest):
    """The checksum came first, so nothing could be hashed against it; or another part did."""

    code = "archive-not-first"

    def __init__(self, part: str = "checksum") -> None:
        super().__init__(
            f"archive must be sent before the {part}",
            f'send the part named "archive" first and the part named "{part}" after it',
        )


class StreamMismatch(BadRequest):
    """One of several requests with one server is not one that belongs to the others."""

    code = "stream-mismatch"

    def __init__(self, detail: str) -> None:
        super().__init__("the streams of this transfer do not match", detail)


class StreamMissing(BadRequest):
    """Not all of the requests have come that one server is sent in."""

    code = "stream-missing"

    def __init__(self, detail: str) -> None:
        super().__init__("a stream of this transfer is missing", detail)


class UploadPartMissing(BadRequest):
    """The body is complete, but one of the parts that must be there is not in it."""

    code = "upload-part-missing"

    def __init__(self, detail: str) -> None:
        super().__init__("missing archive or checksum", detail)


class ChecksumMismatch(BadRequest):
    """The digest of the bytes that arrived is not the one that was sent."""

    code = "checksum-mismatch"

    def __init__(self, sent: str, received: str, what: str = "archive") -> None:
        super().__init__(
            "checksums don't match",
            f"the sender's SHA-256 is {sent}, that of the {what} received is {received}; "
            f"the {what} was changed on its way, send it again",
        )


class UploadTruncated(BadRequest):
    """The connection or the body ended before the upload was complete."""

    code = "upload-truncated"


class TooManyTransfers(WingsdError):
    """As many servers as this node takes are on their way to it (503)."""

    code = "too-many-transfers"
    status = 503
    retry_after = 60.0

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"this node is already receiving {limit} servers",
            "send the server again in some minutes; system.transfers.concurrent and .waiting in "
            "this node's configuration set how many it takes",
        )


class TransferRevoked(Conflict):
    """The Panel says that no transfer brings the server to this node (409)."""

    code = "transfer-revoked"

    def __init__(self) -> None:
        super().__init__(
            "the Panel has closed this transfer",
            "it was cancelled, or the other node reported a failure; the server stays on the "
            "source",
        )


class DaemonRestarted(WingsdError):
    """The daemon ended in the middle of it."""

    code = "daemon-restarted"

    def __init__(self) -> None:
        super().__init__("this node was restarted during the transfer", "start the transfer again")


class DestinationError(WingsdError):
    """The node a server is sent to did not take it (502).

    `may_complete` tells that it may still be at work, and have the server in the end.
    """

    code = "destination-failed"
    status = 502
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
    """Nothing could be sent to it: there is no connection, or its certificate is no good."""

    code = "destination-unreachable"
    is_refusal = True


class DestinationRefused(DestinationError):
    """It answered, and the answer was no: its status in `response_status`, its words in ours."""

    code = "destination-refused"

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


class DestinationDisconnected(DestinationError):
    """The connection to it ended without an answer.

    With `body_sent` it may have everything, and may even have reported it to the Panel.
    """

    code = "destination-disconnected"
    may_complete = True

    def __init__(self, reason: str, *, body_sent: bool) -> None:
        sent = (
            "it may have received the whole server; check in the Panel where the server is now"
            if body_sent
            else "it had not received everything; transfer the server again"
        )
        super().__init__("the destination node did not answer", f"{reason}; {sent}")
        self.body_sent = body_sent
        self._reason = reason

    @property
    def cause(self) -> str:
        """The reason why there is no answer."""
        return f"{self.message}: {self._reason}"


class DestinationTimeout(DestinationDisconnected):
    """It had everything, and gave no answer for as long as this node waits for one."""

    code = "destination-timeout"
    may_complete = False

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer for {seconds:g} s", body_sent=True)


class FinalPassStalled(DestinationError):
    """It took nothing of the last round of a server that was stopped for its move."""

    code = "final-pass-stalled"

    def __init__(self, seconds: float) -> None:
        super().__init__(
            "the last round of the move came to a halt",
            f"nothing was taken for {seconds:g} s; see the destination's log, and the line to it",
        )


class TransferNotCommitted(PanelError):
    """The Panel denies a transfer that it may still be about to commit.

    It is to be asked again in `pause` seconds.
    """

    code = "transfer-not-committed"

    def __init__(self, pause: float) -> None:
        super().__init__("the Panel does not know this transfer yet")
        self.pause = pause


class TryAgain(WingsdError):
    """The answer is not decided yet (503)."""

    code = "try-again"
    status = 503
    retry_after = 1.0


# Moves that resume


class BatchInvalid(BadRequest):
    """The batch is not one: cut short, with lying lengths or counts, or not canonical (400)."""

    code = "move-batch-invalid"
    _advice = "; send the batch again, and update both nodes if that fails"

    def __init__(self, detail: str) -> None:
        super().__init__("the batch of a move is invalid", detail + self._advice)


class BatchDamaged(BatchInvalid):
    """A digest does not fit: the bytes were changed on the way, or while they were read (400)."""

    code = "move-batch-damaged"
    _advice = " does not fit its digest; send the batch again"


class FrameRefused(BatchInvalid):
    """A frame names a path or a number that it may not, or is beyond the limits (400)."""

    code = "move-frame-refused"
    _advice = "; the batch of the move is refused"


class MoveVersionUnknown(BadRequest):
    """The move or the batch is of a version that this node does not know (400)."""

    code = "move-version-unknown"

    def __init__(self, version: int, known: int) -> None:
        super().__init__(
            "the move is of an unknown version",
            f"it has version {version}, this node knows {known}; update the older node",
        )


class MoveBatchTooLarge(WingsdError):
    """The body is longer than this node takes (413)."""

    code = "move-batch-too-large"
    status = 413

    def __init__(self, limit: int) -> None:
        super().__init__("the batch is too large", f"send {limit} bytes at most")


class BatchConflict(Conflict):
    """The batch does not fit what was received: sending it again does not help (409)."""

    code = "move-batch-conflict"

    def __init__(self, detail: str) -> None:
        super().__init__("the batch does not fit the move", detail)


class ShapeMissing(Conflict):
    """Another batch comes before this one; it may be sent again after that (409)."""

    code = "move-shape-missing"

    def __init__(self, detail: str) -> None:
        super().__init__("the batch comes too early", detail)


class RoundIncomplete(Conflict):
    """The round cannot be closed: some of it is missing (409)."""

    code = "move-round-incomplete"

    def __init__(self, detail: str) -> None:
        super().__init__("the round of a move is incomplete", detail)


class RootMismatch(Conflict):
    """The trees of source and destination differ (409)."""

    code = "move-root-mismatch"

    def __init__(self, detail: str) -> None:
        super().__init__("the two nodes have different trees", detail)


class LedgerDamaged(StorageError):
    """The ledger of a partial copy is damaged: it proves nothing."""

    code = "move-ledger-damaged"

    def __init__(self, position: int, detail: str) -> None:
        super().__init__(
            f"at byte {position}: {detail}; check this node's disk and memory, remove the partial "
            "copy, and move the server again",
            "the ledger of a partial copy is damaged",
        )


class LedgerVersionUnknown(StorageError):
    """The ledger of a partial copy was written by another version of wingsd. It is left alone."""

    code = "move-ledger-version-unknown"

    def __init__(self, version: int, known: int) -> None:
        super().__init__(
            f"it has version {version}, this node knows {known}; it is kept as it is: update "
            "wingsd, or remove the partial copy",
            "the ledger of a partial copy is of an unknown version",
        )


class SourceFileChanged(StorageError):
    """A file was changed, replaced or deleted while it was read for a move."""

    code = "move-file-changed"

    def __init__(self, shown: str) -> None:
        super().__init__(
            f"{shown} was changed while it was read; find out what writes to the stopped server's "
            "files, and move it again",
            "the server's files changed during the move",
        )


class HeldTreeInvalid(WingsdError):
    """The destination says that it holds what it cannot: the move cannot go on with that (502)."""

    code = "move-held-tree-invalid"
    status = 502

    def __init__(self, detail: str) -> None:
        super().__init__(
            "the destination's description of its partial copy is invalid",
            f"{detail}; remove the partial copy on that node, update both nodes, and move the "
            "server again",
        )


class MoveKeyInvalid(Unauthorized):
    """The key is not that of the move (401)."""

    code = "move-key-invalid"

    def __init__(self) -> None:
        super().__init__(
            "the key of the move is wrong",
            "only the source that began the move has its key; transfer the server again",
        )


class MoveNotFound(WingsdError):
    """There is no such move on this node (404)."""

    code = "move-not-found"
    status = 404

    def __init__(self) -> None:
        super().__init__(
            "this node has no such move",
            "it ended more than 90 days ago, or was never begun here; transfer the server again",
        )


class MoveOver(WingsdError):
    """The move has ended (410)."""

    code = "move-over"
    status = 410

    def __init__(self) -> None:
        super().__init__("the move has ended", "ask for its outcome")


class MoveResumeNeeded(Conflict):
    """The request is of an earlier session, or of none (409)."""

    code = "move-resume-needed"

    def __init__(self, detail: str = "another session has begun; resume the move") -> None:
        super().__init__("the session of the move has ended", detail)


class MoveCommitted(Conflict):
    """The server is being put into place: nothing of the move can be changed (409)."""

    code = "move-committed"

    def __init__(self) -> None:
        super().__init__("the move is being completed", "ask for its outcome")


class AttachmentOffsetWrong(Conflict):
    """The piece does not begin where the attachment ends; the answer has `offset` (409)."""

    code = "move-offset-wrong"

    def __init__(self, offset: int, reason: str = "") -> None:
        super().__init__(
            "the piece does not begin where the attachment ends",
            f"{reason or 'send it again'} from byte {offset} on",
        )
        self.offset = offset


class AttachmentMissing(WingsdError):
    """The move was begun without an attachment of that name (404)."""

    code = "move-attachment-unknown"
    status = 404

    def __init__(self) -> None:
        super().__init__(
            "the move has no such attachment", "it must be announced when the move is begun"
        )


class AttachmentsIncomplete(Conflict):
    """The commit was asked for before all attachments are here (409)."""

    code = "move-attachments-incomplete"

    def __init__(self, names: str) -> None:
        super().__init__("attachments of the move are missing", f"send the rest of {names}")


class MoveBusy(WingsdError):
    """The node is busy with others, or not ready yet (503)."""

    code = "move-busy"
    status = 503
    retry_after = 5.0

    def __init__(self, detail: str) -> None:
        super().__init__("the node cannot take this now", detail)


class MoveNoSpace(StorageError):
    """There is no space on the disk now; what has arrived is kept (507)."""

    code = "move-no-space"
    status = 507
    retry_after = 30.0


class MoveAbandoned(WingsdError):
    """Nothing was heard of the source for a long time."""

    code = "move-abandoned"

    def __init__(self, seconds: float) -> None:
        super().__init__(
            "the source of the move fell silent",
            f"nothing was heard of it for {seconds:g} s; transfer the server again, which goes on "
            "with what has arrived",
        )


class MoveGivenUp(WingsdError):
    """The source says that the move has failed; `keeps` is whether what is here stays."""

    code = "move-given-up"

    def __init__(self, *, keeps: bool) -> None:
        super().__init__("the source has ended the move", "its own log says why")
        self.keeps = keeps


class SeedForgotten(MoveGivenUp):
    """Somebody has removed the copy of a seed at this node."""

    code = "seed-forgotten"

    def __init__(self) -> None:
        WingsdError.__init__(
            self,
            "the copy that followed the server was removed",
            "by wingsctl forget; for another one run wingsctl receive with --follow",
        )
        self.keeps = False


class MoveSuperseded(Conflict):
    """A later transfer of the server has taken the place of the move (409)."""

    code = "move-superseded"

    def __init__(self) -> None:
        super().__init__(
            "a later transfer of the server has begun", "it goes on with what has arrived"
        )


class MoveRequestInvalid(BadRequest):
    """A part of a request of a move is not valid (400)."""

    code = "move-request-invalid"

    def __init__(self, detail: str) -> None:
        super().__init__("the request of the move is invalid", detail)
