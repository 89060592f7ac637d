"""Histories: formats, points, what a crash leaves, and any history against a plain model."""
