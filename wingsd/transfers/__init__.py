"""Transfers: moving whole servers between nodes, in each direction as a sequence of steps."""
