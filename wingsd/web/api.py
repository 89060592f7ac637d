"""`/api`: everything that a Panel, or another node, calls here."""

from __future__ import annotations

from wingsd.web.servers import ServersEndpoint
from wingsd.web.services import Services
from wingsd.web.site import NotFound
from wingsd.web.system import SystemEndpoint
from wingsd.web.transfers import TransfersEndpoint

__all__ = ["Api"]


class Api(NotFound):
    """What is found below `/api`."""

    def __init__(self, services: Services) -> None:
        super().__init__()
        self.putChild(b"system", SystemEndpoint(services.config, services.engine))
        self.putChild(b"servers", ServersEndpoint(services))
        self.putChild(b"transfers", TransfersEndpoint(services))
