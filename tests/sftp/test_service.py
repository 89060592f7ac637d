"""What the daemon does with the messages of the SFTP process."""

from __future__ import annotations

from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from tests.support.configurations import config
from tests.support.logged_errors import Logged
from wingsd.sftp.messages import Login, Rejected, Transmitted, Unconfined
from wingsd.sftp.service import SftpService


@pytest.fixture
def service() -> SftpService:
    others: Any = Mock()
    return SftpService(config(), others, Mock(count=0), others, others)


def test_that_a_process_is_not_confined_is_logged_once(
    service: SftpService, logged: Logged
) -> None:
    for _ in range(3):
        service._received(Unconfined())
    assert len([line for line in logged.lines if "not confined" in line]) == 1


def test_a_login_whose_check_breaks_off_is_refused_at_once(
    service: SftpService, logged: Logged
) -> None:
    others: Any = service
    others._link = Mock()
    others._logins.check = AsyncMock(side_effect=RuntimeError("unforeseen"))
    service._received(Login(7, 1, "password", "anna.12345678", "right", "192.0.2.7", 50_000))
    ((refused,), _) = others._link.send.call_args
    assert (type(refused), refused.request) == (Rejected, 7)
    assert len(logged.take(RuntimeError)) == 1


def test_bytes_of_one_process_after_the_other_are_added(service: SftpService) -> None:
    for received, sent in ((10, 20), (5, 0), (1, 2)):
        service._received(Transmitted(received, sent))
    assert service.moved == {"in": 16, "out": 22}
