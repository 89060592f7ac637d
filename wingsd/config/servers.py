"""The sections of the configuration on the life of servers, from their start to a crash."""

from __future__ import annotations

import attrs

from wingsd.config.validators import Seconds, not_negative

__all__ = ["CrashDetectionConfig"]


@attrs.frozen
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
