"""What a server runs in. `DockerEnvironment` and `NoEnvironment` are the two there are.

`container` and `network` decide, without Docker, what it gets; `engine` talks to it, blocking;
`docker` brings the two together on the reactor.
"""

from wingsd.environment.docker import DockerEnvironment, Environment, NoEnvironment

__all__ = ["DockerEnvironment", "Environment", "NoEnvironment"]
