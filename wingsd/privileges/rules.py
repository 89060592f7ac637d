"""What a node needs of its system, and what is said of each thing that it does not have. Pure.

A node that is not root needs three capabilities, or to be the servers' own user:

- `CAP_CHOWN`, to give what it writes to `system.user`;
- `CAP_FOWNER`, to set modes and times of what it has given away, and to make hard links to it;
- `CAP_DAC_OVERRIDE`, to write below directories that it has given away, and to read what a server
  has closed to all but itself. It opens the engine's socket as well.

`rm`, which deletes what servers leave behind, must get the last two from it: as ambient
capabilities. The source of all this is capabilities(7), and trying it with each of them missing.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

__all__ = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "Facts", "shortcomings"]

CHOWN = "CAP_CHOWN"
DAC_OVERRIDE = "CAP_DAC_OVERRIDE"
FOWNER = "CAP_FOWNER"


@attrs.frozen
class Facts:
    """What a process is and may do.

    `owner` is the user and group id of the servers' files. `effective` are the capabilities of
    the process itself, `inherited` those of the programs that it starts. `obstacles` are the
    system's words on what cannot be used: by the configuration's key and path or address.
    """

    uid: int
    groups: frozenset[int]
    owner: tuple[int, int]
    effective: frozenset[str]
    inherited: frozenset[str]
    directories: dict[str, str] = attrs.field(factory=dict)
    engine: dict[str, str] = attrs.field(factory=dict)

    @property
    def is_owner(self) -> bool:
        """Whether the process is the servers' own user."""
        uid, gid = self.owner
        return self.uid == uid and gid in self.groups


def shortcomings(facts: Facts) -> list[str]:
    """Return a line for each thing that the node cannot do, and what to do about it."""
    return [*_owning(facts), *_deleting(facts), *_places(facts)]


def _owning(facts: Facts) -> Iterator[str]:
    uid, gid = facts.owner
    user = f"system.user ({uid}:{gid})"
    if not facts.is_owner:
        run_as = f"run it with {{}}, or as {user} itself"
        if CHOWN not in facts.effective:
            yield (
                f"it cannot give files to {user}, so no server can be made or received: "
                f"{run_as.format(CHOWN)}"
            )
        if FOWNER not in facts.effective:
            yield (
                f"it cannot set modes and times of files of {user}, so no server can be received: "
                f"{run_as.format(FOWNER)}"
            )
    if DAC_OVERRIDE in facts.effective:
        return
    if facts.is_owner:
        yield (
            "it cannot read or delete what a server has closed to its own user (mode 0): "
            f"run it with {DAC_OVERRIDE} where servers do that"
        )
    else:
        yield (
            f"it cannot write below directories of {user}, nor read all of its files, so no "
            f"server can be received, sent or deleted: run it with {DAC_OVERRIDE}, or as {user} "
            "itself"
        )


def _deleting(facts: Facts) -> Iterator[str]:
    lost = {FOWNER, DAC_OVERRIDE} & facts.effective - facts.inherited
    if lost and not facts.is_owner:
        names = " and ".join(sorted(lost))
        yield (
            "it cannot delete servers: rm, which does it, does not get its capabilities; give it "
            f"{names} as ambient ones (AmbientCapabilities= in a unit of systemd)"
        )


def _places(facts: Facts) -> Iterator[str]:
    for place, why in facts.directories.items():
        yield f"it cannot write to {place}: {why}; its user must own that directory"
    for address, why in facts.engine.items():
        yield (
            f"it cannot reach the Docker engine at {address}: {why}; see that it runs, and that "
            "this node's user is in the group of its socket (docker)"
        )
