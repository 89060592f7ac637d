"""The Panel's word for a server that comes, in the first minute of its transfer."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.support.sample_server import UUID
from tests.transfers.test_ownership import ScriptedPanel
from wingsd.config import PTERODACTYL
from wingsd.errors import NodeTokenRefused, ServerNotAssigned, ServerNotFound, WingsdError
from wingsd.panel.schemas import Configuration, Settings
from wingsd.transfers.coordinator import PanelCoordinators


class AssigningPanel(ScriptedPanel):
    """Raises `answers`, one with each question about the server, and then describes it."""

    async def owns(self, uuid: str) -> bool:
        return False

    async def describe(self, uuid: str) -> Configuration:
        if self.answers:
            await self._answer("describe")
        return Configuration(Settings(uuid))


def admit(panel: AssigningPanel, clock: Clock) -> Deferred[Configuration]:
    faked: Any = panel
    parts = PanelCoordinators(faked, faked, clock, PTERODACTYL)
    return Deferred.fromCoroutine(parts.receiving(UUID).admit())


@pytest.mark.promise("late-commit-is-waited-for")
def test_a_server_is_admitted_once_the_panel_has_committed_its_transfer() -> None:
    clock = Clock()
    admitting = admit(AssigningPanel(*[ServerNotAssigned("no")] * 3), clock)
    assert not admitting.called
    clock.pump([0.5] * 14)
    assert admitting.result.settings.uuid == UUID  # type: ignore[attr-defined]


@pytest.mark.promise("late-commit-is-waited-for")
def test_after_a_minute_a_server_that_no_transfer_brings_is_refused() -> None:
    clock = Clock()
    panel = AssigningPanel(*[ServerNotAssigned("no")] * 100)
    admitting = admit(panel, clock)
    refused: list[Any] = []
    admitting.addErrback(refused.append)
    clock.pump([0.5] * 119)
    assert refused == []
    clock.pump([0.5] * 2)
    assert refused[0].check(ServerNotAssigned)
    assert len(panel.answers) > 88  # asked with growing pauses


@pytest.mark.parametrize("error", [ServerNotFound("no"), NodeTokenRefused("no", 403)])
def test_other_refusals_are_not_retried(error: WingsdError) -> None:
    refused: list[Any] = []
    admit(AssigningPanel(error), Clock()).addErrback(refused.append)
    assert refused[0].value is error
