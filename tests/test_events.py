"""The event bus."""

from __future__ import annotations

from unittest.mock import Mock

from tests.support.logged_errors import Logged
from wingsd.events import Event, EventBus

EVENT = Event("a", "transfer status", ("pending",))


def test_every_subscriber_gets_every_event_until_it_ends() -> None:
    bus, one, two = EventBus(), [], []  # type: EventBus, list[Event], list[Event]
    end = bus.subscribe("a", one.append)
    bus.subscribe("a", two.append)
    bus.publish(EVENT)
    end()
    bus.publish(EVENT)
    assert (one, two) == ([EVENT], [EVENT, EVENT])


def test_one_that_fails_is_logged_and_hurts_nobody(logged: Logged) -> None:
    bus, heard = EventBus(), []  # type: EventBus, list[Event]
    bus.subscribe("a", Mock(side_effect=RuntimeError("no")))
    bus.subscribe("a", heard.append)
    bus.publish(EVENT)
    assert heard == [EVENT]
    assert len(logged.take(RuntimeError)) == 1


def test_an_event_is_for_its_own_server_alone() -> None:
    bus, heard = EventBus(), []  # type: EventBus, list[Event]
    bus.subscribe("b", heard.append)
    bus.publish(EVENT)
    assert heard == []


def test_a_subscriber_to_all_hears_of_every_server_first() -> None:
    bus, heard = EventBus(), []  # type: EventBus, list[str]
    bus.subscribe("a", lambda _: heard.append("its own"))
    bus.subscribe_to_all(lambda event: heard.append(event.server))
    bus.publish(EVENT)
    bus.publish(Event("b", "status", ("offline",)))
    assert heard == ["a", "its own", "b"]
