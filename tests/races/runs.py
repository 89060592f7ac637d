"""Runs actions of one kind against an attacker, and counts what became of them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import attrs

from tests.races.actions import Action, Actor, clear
from tests.races.scene import Scene
from wingsd.errors import WingsdError
from wingsd.filesystem.openers import DirectoryOpener

__all__ = ["Counted", "run"]

#: Errors that a user may get are below.
_INTERNAL = 500


@attrs.define
class Counted:
    """How often an action was done, and how often it was refused."""

    done: int = 0
    refused: int = 0


def run(
    top: Path,
    opener: DirectoryOpener,
    actions: Mapping[str, Action],
    count: int,
    seed: int,
    step: int = 500,
) -> dict[str, Counted]:
    """Do each action `count` times below the empty directory `top`; look outside after `step`.

    Raises Touched, and whatever else than a refusal an action raises.
    """
    scene = Scene(top)
    counted = {kind: Counted() for kind in actions}
    try:
        with scene.attacked(seed) as wait:
            actor = Actor(scene, opener, random.Random(seed))
            for kind, action in actions.items():
                for start in range(0, count, step):
                    wait()
                    for _ in range(start, min(start + step, count)):
                        _do(actor, action, counted[kind])
                    scene.check(kind)
                    clear(actor)
    finally:
        scene.close()
    return counted


def _do(actor: Actor, action: Action, counted: Counted) -> None:
    try:
        action(actor)
        counted.done += 1
    except WingsdError as error:
        if error.status >= _INTERNAL:
            raise
        counted.refused += 1
