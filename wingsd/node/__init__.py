"""The node itself: its figures, its addresses, its engine's disk and its diagnostics."""
