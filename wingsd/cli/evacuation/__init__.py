"""The evacuation of a node: the Panel that orders transfers, the plan, and the sequence."""
