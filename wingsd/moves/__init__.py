"""Moves that resume: batches of frames, digests up to a root, the destination's ledger, and plans.

Blocking parts and plain values, without a reactor or sockets. The source reads a tree (`scan`),
plans a round (`plan`, `tree`) and fills batches (`contents`, `filling`, `batch`). The destination
decodes them (`batch`), records them (`ledger`) and applies them (`destination`, `applier`).
`unchanged` knows the files of a running server that need not be read again. docs/protocol.md has
the format to the byte. Nothing is imported here: nodes that move nothing do without it.
"""
