"""Direct transfers: moving servers from node to node without a Panel.

The destination is told to expect a server, and gives a token for it, good once. The source tells
it with that token what the server is, sends it as it sends any, and asks with the same token what
became of it where no answer came: of arriving and being called off the destination takes the
first, as a Panel does. `description` is what a server is, `arrivals` with `receiving` the
destination's part, `departures` with `sending` the source's, and `DirectTransfers` both.
"""

from wingsd.direct_transfers.collaborators import DirectTransferCollaborators
from wingsd.direct_transfers.manager import DirectTransfers

__all__ = ["DirectTransferCollaborators", "DirectTransfers"]
