"""The environment of servers: Docker containers, or none on a node that only keeps files.

`runtime` is the interface to the rest of the node. `container` and `network` compute, without
Docker, the requests for a server; `engine` sends requests, blocking. On the reactor,
`async_engine` runs these calls in threads and in order, `streams` reads consoles and statistics,
`images` pulls, `process` watches a container that runs, and `environment` combines them.
"""

from wingsd.docker.runtime import ContainerUsage, Environment, NoEnvironment, Running, Watcher

__all__ = [
    "ContainerUsage",
    "Environment",
    "NoEnvironment",
    "Running",
    "Watcher",
]
