"""The control socket: HTTP over a Unix socket, by which `wingsctl` asks the running daemon.

Root and one group can open it. docs/control.md describes its paths and answers.
"""

from wingsd.control.listener import ControlListener

__all__ = ["ControlListener"]
