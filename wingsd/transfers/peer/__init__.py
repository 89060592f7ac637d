"""The other node of a transfer: its HTTP interface and its certificate."""
