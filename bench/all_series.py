"""All series, in the order of their sections."""

from __future__ import annotations

from bench.backups import BACKUPS
from bench.evacuate import EVACUATE
from bench.files import FILES
from bench.floods import FLOODS
from bench.history import HISTORY
from bench.idle import IDLE
from bench.live import LIVE
from bench.move_growth import MOVE_GROWTH
from bench.moves import RESUME
from bench.quiet import QUIET
from bench.seed import SEED
from bench.server_figures import FIGURES
from bench.sftp import SFTP
from bench.slow_line import SLOW_LINE
from bench.transfers import AT_ONCE, GROWTH, MOVE, RECEIVE, SEND

__all__ = ["ALL"]

ALL = {
    series.name: series
    for series in (
        *(RECEIVE, SEND, MOVE, AT_ONCE, GROWTH),
        *(LIVE, QUIET, SEED, EVACUATE, RESUME, SLOW_LINE, MOVE_GROWTH),
        *(BACKUPS, HISTORY, FILES, SFTP, IDLE, FIGURES, FLOODS),
    )
}
