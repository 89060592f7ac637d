"""`wingsctl`, the operator's command: a client of the daemon's control socket."""
