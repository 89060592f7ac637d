"""The section `system.sftp` of the configuration: the SFTP server and its limits."""

from __future__ import annotations

import attrs

from wingsd.config.validators import (
    Seconds,
    not_empty,
    not_negative,
    port,
    positive,
)

__all__ = ["SftpActivityConfig", "SftpConfig", "SftpLimits"]


@attrs.frozen(repr=False)
class SftpLimits:
    """`system.sftp.limits`: what one client, and one user, may take."""

    #: Refused passwords of one user name from one address, in one connection and within
    #: `authentication_cooldown`; with Calagopus the default is 3. From one address, ten times as
    #: many of all user names.
    authentication_password_attempts: int = attrs.field(default=6, validator=positive)
    #: Public keys that a client may offer in one connection. From one address, ten times as many
    #: may be refused within `authentication_cooldown`.
    authentication_pubkey_attempts: int = attrs.field(default=20, validator=positive)
    #: The time for which refused passwords and keys count, and so the time after which an address
    #: that was refused may try again.
    authentication_cooldown: Seconds = attrs.field(default=60, validator=positive)
    #: Connections of one user, or 0 for no limit of its own. One above it waits ten seconds until
    #: another has ended.
    max_connections_per_user: int = attrs.field(default=32, validator=not_negative)
    #: The same of one server (wingsd's own).
    max_connections_per_server: int = attrs.field(default=64, validator=not_negative)
    #: Channels of one connection.
    max_channels_per_connection: int = attrs.field(default=10, validator=positive)
    #: Files and directories that one channel may have open; with Calagopus the default is 32.
    max_handles_per_channel: int = attrs.field(default=128, validator=positive)
    #: Files and directories that all channels may have open.
    max_handles_total: int = attrs.field(default=1024, validator=positive)
    #: Connections in all (wingsd's own).
    max_connections: int = attrs.field(default=256, validator=positive)
    #: Connections that have not logged in yet, in all, and half as many of one address (wingsd's
    #: own).
    max_half_open: int = attrs.field(default=128, validator=positive)


@attrs.frozen(repr=False)
class SftpActivityConfig:
    """`system.sftp.activity`: further events of the activity log (Calagopus')."""

    #: Report each login: `server:sftp.login`.
    log_logins: bool = False
    #: Report each file that is opened for reading: `server:sftp.read`.
    log_file_reads: bool = False


@attrs.frozen(repr=False)
class SftpConfig:
    """`system.sftp`: access to the files of servers by SFTP."""

    #: Run the SFTP server.
    enabled: bool = True
    #: The address that it listens on.
    bind_address: str = attrs.field(default="0.0.0.0", validator=not_empty)  # noqa: S104 - Wings'
    #: The port that it listens on.
    bind_port: int = attrs.field(default=2022, validator=port)
    #: Refuse all changes: files can be listed and read.
    read_only: bool = False
    #: Accept public keys only, and no passwords (Pelican's key).
    key_only: bool = False
    #: The same; Calagopus' nodes have this name for it.
    disable_password_auth: bool = False
    #: The maximum number of entries in the listing of one directory; further ones are left out.
    directory_entry_limit: int = attrs.field(default=20_000, validator=positive)
    #: The maximum number of entries in one answer to a client.
    directory_entry_send_amount: int = attrs.field(default=500, validator=positive)
    #: The time after which the Panel is asked again whether the user of an open session may go on,
    #: with the same password or key, or 0 for never (wingsd's own).
    check_interval: Seconds = attrs.field(default=300, validator=not_negative)
    #: The time from the last connection to the end of the process that serves SFTP, which the next
    #: connection starts again (wingsd's own).
    idle_timeout: Seconds = attrs.field(default=300, validator=positive)
    limits: SftpLimits = SftpLimits()
    activity: SftpActivityConfig = SftpActivityConfig()

    @property
    def passwords(self) -> bool:
        """Whether users can log in with a password."""
        return not (self.key_only or self.disable_password_auth)
