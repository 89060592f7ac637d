"""What a server runs in: a Docker container, or nothing on a node that only keeps files.

`interface` says what the rest of the node sees. `container` and `network` decide, without Docker,
what a server gets; `state`, `stats` and `pull` read what the engine tells; `engine` talks to it,
blocking. On the reactor, `calls` brings its calls into order, `streams` carries what has no end,
`process` watches a server that runs, and `docker` brings all of it together.
"""

from wingsd.docker.environment import DockerEnvironment
from wingsd.docker.runtime import Environment, NoEnvironment, Running, Usage, Watcher

__all__ = [
    "DockerEnvironment",
    "Environment",
    "NoEnvironment",
    "Running",
    "Usage",
    "Watcher",
]
