"""Samples of `make unchanged`: files that moves carry over unread."""
