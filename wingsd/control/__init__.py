"""The control socket: what an operator asks of the running daemon by `wingsctl`.

HTTP over a Unix socket that only root and one group can open: `door` is that socket, `api` what is
found below `/v1`, `views` the JSON of its answers, which docs/control.md describes.
"""

from wingsd.control.listener import ControlListener
from wingsd.control.resource import ControlContext

__all__ = ["ControlContext", "ControlListener"]
