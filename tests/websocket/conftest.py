"""What the tests of the WebSocket share."""

from tests.websocket.consoles import node

__all__ = ["node"]
