"""Transfers: moving whole servers between nodes, in each direction as one chain of steps."""
