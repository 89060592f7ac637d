"""Tests of wingsd/histories."""
