"""Campaigns against what must not be lost: kills, power losses, races, bad lines, quotas."""
