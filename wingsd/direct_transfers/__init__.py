"""Direct transfers: moving servers from node to node without a Panel.

The destination is asked to expect a server, and issues a token for it, valid once. With it the
source sends first the server's description, then the server as any other. If the answer is lost,
it asks for the outcome by the token. Of an arrival and a cancellation the first one counts.
"""
