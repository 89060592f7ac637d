"""The errors of wingsd as one tree. What only one package raises is defined in that package.

The class, the HTTP status of its answer, and the module where that is not this one::

    WingsdError                      500
      BadRequest                     400
        AdapterUnknown               400  backups/adapters
        AddressBlocked               400  guarded_http/errors
        ArchiveDamaged               400  files/extraction_errors
        ArchiveEncrypted             400  files/extraction_errors
        ArchiveExcessive             400  files/extraction_errors
        ArchiveFormatUnknown         400  files/extraction_errors
        ArchiveFormatUnsupported     400  files/archive_names
        ArchiveInParts               400  files/extraction_errors
        ArchiveMethodUnsupported     400  files/extraction_errors
        ArchiveNotFirst              400  transfers/errors
        BackupIgnoresEverything      400  backups/making
        BackupLinkRefused            400  restores/errors
        BatchInvalid                 400  moves/errors
          BatchDamaged               400  moves/errors
          FrameRefused               400  moves/errors
        BodyIncomplete               400  api/raw_body
        ChecksumMismatch             400  transfers/errors
        DiskLimitExceeded            400
        DownloadFailed               400  guarded_http/errors
          TooManyRedirects           400  guarded_http/errors
        FileInUse                    400  filesystem/errors
        FileTypeRefused              400  filesystem/errors
        InvalidBackupName            400  backups/local
        InvalidContentType           400  transfers/errors
        InvalidDestination           400  transfers/errors
        InvalidForm                  400  transfers/errors
        InvalidMode                  400  files/changes
        IsDirectory                  400  filesystem/errors
        MoveRequestInvalid           400  transfers/incoming/moves/errors
        MoveVersionUnknown           400  moves/errors
        NameConflict                 400  filesystem/errors
        NameTooLong                  400  filesystem/errors
        NoFilesUploaded              400  files/uploads
        NotDirectory                 400  filesystem/errors
        OverwritesFileInUse          400  files/extraction_errors
        PathInvalid                  400  filesystem/errors
        PermissionMissing            400  websocket/session
        RemoteDownloadDisabled       400  api/file_pulls
        StreamMismatch               400  transfers/errors
        StreamMissing                400  transfers/errors
        TooManyPulls                 400  files/pulls
        TooManyWebSockets            400  websocket/resource
        UploadFormInvalid            400  files/uploads
        UploadPartMissing            400  transfers/errors
        UploadTooLarge               400  files/uploads
        UploadTruncated              400  transfers/errors
        UrlInvalid                   400  guarded_http/errors
          UrlSchemeRefused           400  guarded_http/errors
      InvalidHandshake               400  websocket/protocol
      InvalidHttpRequest             400  http/errors
      Unauthorized                   401
        MoveKeyInvalid               401  transfers/incoming/moves/errors
        TokenInvalid                 401  auth/tokens
          TokenExpired               401  auth/tokens
          TokenUsed                  401  auth/tokens
        TokenMissing                 401  auth/tokens
      Forbidden                      403
        FileDenied                   403  filesystem/errors
        FileNotPermitted             403  filesystem/errors
        LoginRefused                 403  sftp/logins
        SftpPermissionMissing        403  sftp/server/access
      AttachmentMissing              404  transfers/incoming/moves/errors
      BackupMissing                  404  backups/store
      DirectoryMissing               404  filesystem/errors
      FileMissing                    404  filesystem/errors
      FileTaskMissing                404  api/file_tasks
      LogFileNotFound                404  node/log_files
      MoveNotFound                   404  transfers/incoming/moves/errors
      PathNotFound                   404  http/errors
      ServerNotFound                 404
        ServerNotAssigned            404  panel/http_client
      SignedUrlVoid                  404  auth/signed_urls
      MethodNotAllowed               405  http/errors
      Conflict                       409
        AttachmentOffsetWrong        409  transfers/incoming/moves/errors
        AttachmentsIncomplete        409  transfers/incoming/moves/errors
        BackupConflict               409  backups/received
        BackupExists                 409  backups/creation
        BackupNotForWings            409  backups/for_wings
        BackupSettled                409  backups/s3/errors
        BatchConflict                409  moves/errors
        ContainerNameTaken           409  transfers/errors
        EngineUnavailable            409  node/errors
        FileWorkCancelled            409  filesystem/errors
        MoveCommitted                409  transfers/incoming/moves/errors
        MoveResumeNeeded             409  transfers/incoming/moves/errors
        MoveSuperseded               409  transfers/incoming/moves/errors
        NoSpaceForBackup             409  backups/making
        NoSpaceToCompress            409  api/file_archives
        PruneInProgress              409  node/errors
        RootMismatch                 409  moves/errors
        RoundIncomplete              409  moves/errors
        ServerAlreadyExists          409
        ServerBusy                   409
          TransferInProgress         409  transfers/errors
        ServerMoved                  409  websocket/session
        ShapeMissing                 409  moves/errors
        StoragePoolConflict          409  transfers/errors
        TooManyFileTasks             409  files/tasks
        TransferCancelled            409
          SeedAdopted                409  transfers/errors
        TransferNotActive            409  transfers/errors
        TransferRevoked              409  transfers/errors
        UploadInProgress             409  filesystem/partial_file
        UploadOffsetWrong            409  api/file_uploads
      MoveOver                       410  transfers/incoming/moves/errors
      BodyTooLarge                   413  http/errors
      FileTooLarge                   413  filesystem/errors
      MoveBatchTooLarge              413  moves/errors
      RangeNotSatisfiable            416  http/ranges
      Unprocessable                  422
      UpgradeRequired                426  http/errors
      HeaderTooLong                  431  http/errors
      ArchiveError                   500  archive/policy
        MemberRefused                500  archive/policy
      BackupChecksumMismatch         500  restores/errors
      ArchiveNotParsed             500  files/extraction_errors
      DaemonRestarted                500  transfers/errors
      EnvironmentFailed              500
        ConsoleBlocked               409  docker/runtime
        SettingsInvalid              422  docker/container
      FiguresUnavailable             500  node/errors
      HandleInvalid                  500  sftp/server/handles
      MoveAbandoned                  500  transfers/incoming/moves/errors
      MoveGivenUp                    500  transfers/incoming/moves/errors
        SeedForgotten                500  transfers/incoming/moves/errors
      HeldTreeInvalid                502  moves/errors
      HostKeyUnusable                500  sftp/host_key
      InstallationFailed             500  servers/installation
      PanelError                     500  panel/http_client
        PanelRefused                 500  panel/http_client
          NodeTokenRefused           503  panel/http_client
        TransferNotCommitted         500  callbacks/queue
        PanelUnreachable             503  panel/http_client
      ReadOnly                       500  sftp/server/access
      RestoreFailed                  500  restores/errors
      SettingsNotSaved               500  config_file/saving
      StorageError                   500
        SourceFileChanged            500  moves/errors
        LedgerDamaged                500  moves/errors
        LedgerVersionUnknown         500  moves/errors
        TreeTooLarge                 400  filesystem/errors
        StateDatabaseError           500  statedb/records
          StateDatabaseDamaged       500  statedb/records
        MoveNoSpace                  507  transfers/incoming/moves/errors
      BackupUploadFailed             502  backups/s3/errors
      DestinationError               502  transfers/errors
        DestinationDisconnected      502  transfers/errors
          DestinationTimeout         502  transfers/errors
        DestinationRefused           502  transfers/errors
        DestinationUnreachable       502  transfers/errors
        FinalPassStalled             502  transfers/errors
      TooManyHandles                 500  sftp/server/handles
      ServerNotRunning               502
      DaemonStopping                 503
      FilesBusy                      503  files/work
      MoveBusy                       503  transfers/incoming/moves/errors
      ServersNotLoaded               503
      TooManyTransfers               503  transfers/errors
      TryAgain                       503  direct_transfers/incoming

`ConfigError` and `InvalidData` are not in the tree: no request is answered with them.
"""

from __future__ import annotations

__all__ = [
    "NOT_RUNNING",
    "BadRequest",
    "ConfigError",
    "Conflict",
    "DaemonStopping",
    "DiskLimitExceeded",
    "EnvironmentFailed",
    "Forbidden",
    "InvalidData",
    "ServerAlreadyExists",
    "ServerBusy",
    "ServerNotFound",
    "ServerNotRunning",
    "ServersNotLoaded",
    "StorageError",
    "TransferCancelled",
    "Unauthorized",
    "Unprocessable",
    "WingsdError",
    "error_code",
]


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
