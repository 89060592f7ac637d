"""Moving whole servers between nodes: each way of it as one chain of steps."""
