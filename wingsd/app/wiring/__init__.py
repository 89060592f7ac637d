"""Makes a node: each of its objects, with the collaborators it needs. Nothing runs yet.

Each part extends the one below it, from bottom to top: `base.py`, `servers.py`, `transfers.py`,
`restores.py`, `backups.py`, `node_calls.py`, `sftp.py`, `http.py`, `control.py`, `node.py`. It
makes its objects once, when it is made itself. Tests replace an object by overriding the method
that makes it.
"""

from wingsd.app.wiring.node import Wiring, make_node

__all__ = ["Wiring", "make_node"]
