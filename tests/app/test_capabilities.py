"""What is said of a process that may not do all that a node has to."""

from __future__ import annotations

import attrs
import pytest

from wingsd.app.daemon import CHOWN, DAC_OVERRIDE, FOWNER, Facts, shortcomings

ALL = frozenset({CHOWN, FOWNER, DAC_OVERRIDE})
ROOT = Facts(uid=0, groups=frozenset({0}), owner=(988, 989), effective=ALL, inherited=ALL)
APART = attrs.evolve(ROOT, uid=4711, groups=frozenset({4711}))
OWNER = attrs.evolve(ROOT, uid=988, groups=frozenset({989, 105}))
NONE: frozenset[str] = frozenset()


@pytest.mark.parametrize("facts", [ROOT, APART, OWNER])
def test_a_process_with_every_capability_logs_nothing(facts: Facts) -> None:
    assert shortcomings(facts) == []


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        (CHOWN, "cannot give files to system.user (988:989)"),
        (FOWNER, "cannot set modes and times of files of system.user (988:989)"),
        (DAC_OVERRIDE, "cannot write below directories of system.user (988:989)"),
    ],
)
@pytest.mark.parametrize("facts", [ROOT, APART])
def test_each_capability_that_is_missing_is_named(facts: Facts, missing: str, says: str) -> None:
    (line,) = shortcomings(
        attrs.evolve(facts, effective=ALL - {missing}, inherited=ALL - {missing})
    )
    assert says in line
    assert missing in line


def test_the_servers_own_user_needs_none_but_for_what_they_close() -> None:
    (line,) = shortcomings(attrs.evolve(OWNER, effective=NONE, inherited=NONE))
    assert "mode 0" in line
    # Its group has to be the servers' as well.
    outside = attrs.evolve(OWNER, groups=frozenset({105}), effective=NONE, inherited=NONE)
    assert CHOWN in shortcomings(outside)[0]


def test_capabilities_that_end_with_the_process_delete_no_server() -> None:
    (line,) = shortcomings(attrs.evolve(APART, inherited=NONE))
    assert f"{DAC_OVERRIDE} and {FOWNER} as ambient capabilities" in line
    (line,) = shortcomings(attrs.evolve(APART, inherited=ALL - {FOWNER}))
    assert f"{FOWNER} as ambient capabilities" in line


def test_what_cannot_be_used_is_named_with_the_systems_words() -> None:
    facts = attrs.evolve(
        ROOT,
        directories={"system.data (/srv/volumes)": "permission denied"},
        engine={"unix:///run/docker.sock": "Permission denied"},
    )
    first, second = shortcomings(facts)
    assert first.startswith("cannot write to system.data (/srv/volumes): permission denied;")
    assert second.startswith(
        "cannot reach the Docker engine at unix:///run/docker.sock: Permission denied;"
    )
