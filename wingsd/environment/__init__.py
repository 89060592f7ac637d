"""What a server runs in. `DockerEnvironment` and `NoEnvironment` are the two there are.

`interface` says what the rest of the node sees. `container` and `network` decide, without Docker,
what a server gets; `state`, `stats` and `pull` read what the engine tells; `engine` talks to it,
blocking. On the reactor, `calls` brings its calls into order, `streams` carries what has no end,
`process` watches a server that runs, and `docker` brings all of it together.
"""

from wingsd.environment.docker import DockerEnvironment
from wingsd.environment.interface import Environment, Running, Usage, Watcher
from wingsd.environment.none import NoEnvironment

__all__ = [
    "DockerEnvironment",
    "Environment",
    "NoEnvironment",
    "Running",
    "Usage",
    "Watcher",
]
