"""Moves to this node that resume: their sessions, batches, rounds and attachments.

`docs/protocol.md` has the requests. A move is an incoming transfer (`transfer`); its files arrive
into a partial copy (`partial_copy`) by the requests of its source (`inbox`, `attachments`).
Imported with the first request of a move.
"""
