"""Which of a server's mounts the node allows: judged by where their paths really lead. Blocking.

A mount's source is often in a directory that servers write to, and a link there can point
anywhere. So a source is allowed when it is below one of `allowed_mounts` after all links are
resolved, and the engine is given the resolved path: a link that is changed later changes nothing.

What remains: the engine resolves the path once more when the container starts, some milliseconds
later. Who can rename directories within an allowed one can put a link into that path meanwhile.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence

import attrs

from wingsd.docker.container import is_below
from wingsd.errors import EnvironmentFailed
from wingsd.panel.schemas import Mount

__all__ = ["JudgedMounts", "judge_mounts"]


@attrs.frozen
class JudgedMounts:
    """The mounts that a container gets, with resolved sources; and the sources of the others.

    A refused source that leads elsewhere is followed by where, in parentheses.
    """

    allowed: tuple[Mount, ...] = ()
    refused: tuple[str, ...] = ()


def judge_mounts(directories: Sequence[str], mounts: Sequence[Mount]) -> JudgedMounts:
    """Return which `mounts` are below one of the `directories`, those of `allowed_mounts`.

    Raises `EnvironmentFailed` for a source that should be, and cannot be looked at.
    """
    tops = [top for top in directories if top.startswith("/")]
    real_tops = [real for real in map(_resolved_or_none, tops) if real is not None]
    allowed, refused = [], []
    for mount in mounts:
        real = _resolve(mount.source, tops)
        if real is None:
            refused.append(mount.source)
        elif any(is_below(real, top) for top in real_tops):
            target = _normal(mount.target)
            allowed.append(attrs.evolve(mount, source=real, target=target))
        else:
            leads = "" if real == _normal(mount.source) else f" ({real})"
            refused.append(mount.source + leads)
    return JudgedMounts(tuple(allowed), tuple(refused))


def _resolve(source: str, tops: Sequence[str]) -> str | None:
    """Return where a source leads; None where it may not be mounted, wherever that is."""
    if not source.startswith("/"):
        return None
    try:
        # Strict: a link behind a directory that this node may not enter would else count as none.
        return os.path.realpath(source, strict=True)
    except (OSError, ValueError) as error:
        if not any(is_below(_normal(source), _normal(top)) for top in tops):
            return None
        why = error.strerror if isinstance(error, OSError) else error
        raise EnvironmentFailed(
            f"the mount of {source} cannot be made: {why}; create it, remove the mount in the "
            "Panel, or let this node see it (under systemd, ProtectHome= and PrivateTmp= hide "
            "directories)"
        ) from error


def _resolved_or_none(path: str) -> str | None:
    try:
        return os.path.realpath(path, strict=True)
    except (OSError, ValueError):
        return None


def _normal(path: str) -> str:
    # POSIX keeps two leading slashes apart from one; Linux does not.
    return posixpath.normpath("/" + path.lstrip("/"))
