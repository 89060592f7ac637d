"""Power loss: disks with a log of their writes, and what they hold when the power fails."""
