"""The Panel's word for a server that comes, in the first minute of its transfer."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from wingsd.config import PTERODACTYL
from wingsd.errors import NodeTokenRefused, ServerNotAssigned, ServerNotFound, WingsdError
from wingsd.panel.schemas import Configuration, Settings
from wingsd.transfers.coordinator import PanelCoordinators

UUID = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"


class ScriptedPanel:
    """Raises `errors`, one with each question about the server, and then describes it."""

    def __init__(self, *errors: WingsdError) -> None:
        self.errors = list(errors)

    async def owns(self, uuid: str) -> bool:
        return False

    async def describe(self, uuid: str) -> Configuration:
        if self.errors:
            raise self.errors.pop(0)
        return Configuration(Settings(uuid))


def admit(panel: ScriptedPanel, clock: Clock) -> Deferred[Configuration]:
    faked: Any = panel
    parts = PanelCoordinators(faked, faked, clock, PTERODACTYL)
    return Deferred.fromCoroutine(parts.receiving(UUID).admit())


@pytest.mark.promise("late-commit-is-waited-for")
def test_a_server_is_admitted_once_the_panel_has_committed_its_transfer() -> None:
    clock = Clock()
    admitting = admit(ScriptedPanel(*[ServerNotAssigned("no")] * 3), clock)
    assert not admitting.called
    clock.pump([0.5] * 14)
    assert admitting.result.settings.uuid == UUID  # type: ignore[attr-defined]


@pytest.mark.promise("late-commit-is-waited-for")
def test_after_a_minute_a_server_that_no_transfer_brings_is_refused() -> None:
    clock = Clock()
    panel = ScriptedPanel(*[ServerNotAssigned("no")] * 100)
    admitting = admit(panel, clock)
    refused: list[Any] = []
    admitting.addErrback(refused.append)
    clock.pump([0.5] * 119)
    assert refused == []
    clock.pump([0.5] * 2)
    assert refused[0].check(ServerNotAssigned)
    assert len(panel.errors) > 88  # asked with growing pauses


@pytest.mark.parametrize("error", [ServerNotFound("no"), NodeTokenRefused("no", 403)])
def test_other_refusals_are_not_retried(error: WingsdError) -> None:
    refused: list[Any] = []
    admit(ScriptedPanel(error), Clock()).addErrback(refused.append)
    assert refused[0].value is error
