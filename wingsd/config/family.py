"""Which of the three families of nodes and Panels a node belongs to, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["CALAGOPUS", "FAMILIES", "PELICAN", "PTERODACTYL", "defaults_of", "family_of"]

PTERODACTYL = "pterodactyl"
PELICAN = "pelican"
CALAGOPUS = "calagopus"
FAMILIES = (PTERODACTYL, PELICAN, CALAGOPUS)

#: What is another default of `system` than Pterodactyl's, where a Panel does not print the key.
#: Calagopus' nodes have Pterodactyl's.
_DEFAULTS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        PELICAN: MappingProxyType(
            {
                "log_directory": "/var/log/pelican",
                "backup_directory": "/var/lib/pelican/backups",
            }
        )
    }
)


def family_of(named: str, traces: Iterable[str]) -> str:
    """Return the family that is `named` or, where none is, that one of `traces` speaks of.

    Traces are what the configuration says by the way: where it stands, its directories, the name
    of the Panel. Pterodactyl's is the family of whoever says nothing.
    """
    told = " ".join(traces).lower()
    found = (family for family in (PELICAN, CALAGOPUS) if family in told)
    return named or next(found, PTERODACTYL)


def defaults_of(family: str, written: Any) -> dict[str, Any]:
    """Return the values of `system` that a node of the family has where none is `written`."""
    keys = written if isinstance(written, Mapping) else {}
    found = _DEFAULTS.get(family, {})
    return {key: value for key, value in found.items() if keys.get(key) is None}
