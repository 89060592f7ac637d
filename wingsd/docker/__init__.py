"""The containers of servers and of their installers, by Docker, on a node that has it.

`runtime` is the interface to the rest of the node. `container` and `network` compute, without
Docker, the requests for a server; `engine` sends requests, blocking. On the reactor,
`async_engine` runs these calls in threads and in order, `images` pulls, `process` watches a
container that runs, and `containers` combines them.
"""
