"""Tests with Chromium, by `make browser`."""
