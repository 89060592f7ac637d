"""Direct transfers: moving servers from node to node without a Panel.

The destination is told to expect a server, and gives a token for it, good once. With it the source
sends first the server's description, then the server as any other; where the answer is lost, it
asks by the token what became of it. Of an arrival and a cancellation the destination takes the
first, as a Panel does.
"""

from wingsd.direct_transfers.description import DirectServers
from wingsd.direct_transfers.incoming import IncomingDirectTransfers
from wingsd.direct_transfers.manager import DirectTransfers
from wingsd.direct_transfers.outgoing import OutgoingDirectTransfers

__all__ = [
    "DirectServers",
    "DirectTransfers",
    "IncomingDirectTransfers",
    "OutgoingDirectTransfers",
]
