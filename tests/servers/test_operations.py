"""Which operations on one server exclude which others: each pair of the table."""

from __future__ import annotations

import itertools

import pytest

from tests.servers.harness import UUID, FakeNode, Outcome, configuration, do, running
from wingsd.errors import Conflict, ServerBusy
from wingsd.servers.operations import (
    EXCLUSIONS,
    Exclusion,
    Hold,
    Operation,
    Operations,
    refusal,
)
from wingsd.servers.power_states import PowerAction
from wingsd.servers.server import Server

POWER = (Operation.START, Operation.STOP, Operation.KILL)
OTHERS = (*POWER, Operation.CHANGE_FILES, Operation.BACKUP, Operation.POINT)
HOLDS = [operation for operation in EXCLUSIONS if operation not in OTHERS]
NEVER = (Operation.MOVED, Operation.ORDERED, Operation.POINT)
REQUESTED = [operation for operation in Operation if operation not in NEVER]


def name(value: object) -> str | None:
    return value.value if isinstance(value, Operation) else None


def excluded(under_way: Operation, requested: Operation, *, program_runs: bool) -> bool:
    answer = EXCLUSIONS[under_way][requested]
    return answer is Exclusion.REFUSED or (answer is Exclusion.ENDS and not program_runs)


@pytest.mark.parametrize("under_way", EXCLUSIONS, ids=name)
def test_each_pair_is_refused_or_not_as_the_table_says(under_way: Operation) -> None:
    for requested, program_runs in itertools.product(REQUESTED, (False, True)):
        operations = Operations()
        if under_way in OTHERS:
            with operations.during(under_way):
                found = refused(operations, requested, program_runs=program_runs)
        else:
            operations.place_hold(under_way, "a reason")
            found = refused(operations, requested, program_runs=program_runs)
            operations.release(under_way)
        expected = refusal(under_way, requested)
        is_excluded = excluded(under_way, requested, program_runs=program_runs)
        assert found == (expected if is_excluded else ""), (requested, program_runs)
        operations.check(requested)


def refused(operations: Operations, requested: Operation, *, program_runs: bool) -> str:
    try:
        operations.check(requested, program_runs=program_runs)
    except ServerBusy as error:
        return error.message
    return ""


@pytest.mark.parametrize(
    ("under_way", "text"),
    [
        (Operation.INSTALL, "server is currently installing"),
        (Operation.TRANSFER_OUT, "server is currently being transferred"),
        (Operation.TRANSFER_IN, "server is currently being transferred"),
    ],
)
def test_a_start_is_refused_with_the_text_of_wings(
    node: FakeNode, under_way: Operation, text: str
) -> None:
    server = node.server()
    server.place_hold(under_way, "the reason")
    error = do(server, PowerAction.START).error(ServerBusy)
    assert error.message == text
    assert error.detail == "the reason; try again when that is over"
    assert node.told("daemon message") == [f"The start failed: {error}"]


def holds(requested: Operation) -> list[Operation]:
    """Return one hold for each answer of the table."""
    possible = [hold for hold in HOLDS if {hold, requested} != {Operation.DELETE}]
    return [*{EXCLUSIONS[hold][requested]: hold for hold in possible}.values()]


@pytest.mark.parametrize("program_runs", [False, True])
@pytest.mark.parametrize(
    ("under_way", "requested"),
    [(hold, requested) for requested in REQUESTED for hold in holds(requested)],
    ids=name,
)
def test_a_server_that_is_held_does_only_what_the_table_allows(
    node: FakeNode, under_way: Operation, requested: Operation, program_runs: bool
) -> None:
    server = running(node) if program_runs else node.server()
    server.operations.hold = Hold(under_way, "the reason")
    before = server.state
    try:
        request(node, server, requested)
    except Conflict as error:
        # A server that runs is neither started nor replaced by an arriving one in any case.
        needs_end = requested in (Operation.TRANSFER_IN, Operation.START) and program_runs
        assert needs_end or excluded(under_way, requested, program_runs=program_runs), error
        assert server.state is before
    else:
        assert not excluded(under_way, requested, program_runs=program_runs)


def request(node: FakeNode, server: Server, operation: Operation) -> None:
    """Have the operation done, as far as this package does it."""
    match operation:
        case Operation.START | Operation.STOP | Operation.KILL:
            do(server, PowerAction(operation.value)).value()
        case Operation.SYNC:
            Outcome.of(server.sync()).value()
        case Operation.DELETE:
            Outcome.of(node.servers.delete(UUID)).value()
        case Operation.TRANSFER_IN:
            node.servers.admit(configuration(), "a transfer brings it")
        case _:
            server.place_hold(operation, "the next reason")
