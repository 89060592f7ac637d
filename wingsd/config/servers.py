"""The sections of the configuration on the life of servers, from their start to a crash."""

from __future__ import annotations

import attrs

from wingsd.config.validators import MiB, Milliseconds, Seconds, not_negative, path_field

__all__ = [
    "CrashDetectionConfig",
    "InstallerLimits",
    "MachineIdConfig",
    "PasswdConfig",
    "PelicanPasswdConfig",
    "SearchConfig",
    "ThrottlesConfig",
]


@attrs.frozen(repr=False)
class CrashDetectionConfig:
    """`system.crash_detection`: restarting servers whose program has ended by itself."""

    #: Start such a server again. The Panel can say otherwise for one server, by
    #: `crash_detection_enabled` in its settings.
    enabled: bool = True
    #: Do so also when the program ended with the exit code 0, as after a stop within the game.
    detect_clean_exit_as_crash: bool = True
    #: The time after such a restart within which another end is not followed by one; 0 means that
    #: every end is.
    timeout: Seconds = attrs.field(default=60, validator=not_negative)


@attrs.frozen(repr=False)
class ThrottlesConfig:
    """`throttles`: the limit of the lines that one server may write into its console.

    Above it, lines are left out, and a line of the node says so. More than 1 MiB a second is never
    passed on.
    """

    #: Limit the lines.
    enabled: bool = True
    #: The maximum number of lines in `line_reset_interval`. As many, but 2,000 at least, pass in a
    #: second.
    lines: int = attrs.field(default=2000, validator=not_negative)
    #: The time after which the count begins again.
    line_reset_interval: Milliseconds = attrs.field(default=100, validator=not_negative)


@attrs.frozen(repr=False)
class SearchConfig:
    """`Search`: searches for names of files, from the file manager of Pelican's Panel."""

    #: Names of directories that are not searched, nor those below them; case does not count.
    blacklisted_dirs: tuple[str, ...] = (
        "node_modules",
        ".git",
        ".wine",
        "appcache",
        "depotcache",
        "vendor",
    )
    #: How deep below the directory of a search it goes.
    max_recursion_depth: int = attrs.field(default=8, validator=not_negative)


@attrs.frozen(repr=False)
class PasswdConfig:
    """`system.passwd`: an account for the user of servers' containers (not with Pelican)."""

    #: Mount a file with that user as `/etc/passwd`, and one with its group as `/etc/group`.
    enabled: bool = False
    #: The directory of both files.
    directory: str = path_field("/run/wings/etc")


@attrs.frozen(repr=False)
class PelicanPasswdConfig:
    """`system.user.passwd`: the same for Pelican."""

    #: Mount a file with that user as `/etc/passwd`, and one with its group as `/etc/group`.
    enable: bool = True
    #: The directory of both files.
    directory: str = path_field("/etc/pelican")


@attrs.frozen(repr=False)
class MachineIdConfig:
    """`system.machine_id`: an id for each container, as some games want one of their machine."""

    #: Mount a file with the server's UUID, without its dashes, as `/etc/machine-id`.
    enable: bool = True
    #: The same; Calagopus' nodes have this name for it. Both must be true.
    enabled: bool = True
    #: The directory of these files; with Pelican the default is `/etc/pelican/machine-id`.
    directory: str = path_field("/run/wings/machine-id")


@attrs.frozen(repr=False)
class InstallerLimits:
    """`docker.installer_limits`: the container that runs an egg's installation script."""

    #: Its memory, unless the server has more. 0 here or for the server means no limit.
    memory: MiB = attrs.field(default=1024, validator=not_negative)
    #: Its CPU in percent of one core, unless the server has more. 0 here or for the server means
    #: no limit.
    cpu: int = attrs.field(default=100, validator=not_negative)
    #: The time for a script to end, after which it is stopped and the installation has failed; a
    #: restart of the node does not prolong it. 0 means no limit.
    timeout: Seconds = attrs.field(default=1800, validator=not_negative)
