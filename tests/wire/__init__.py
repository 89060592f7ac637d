"""Requests and answers on the wire, recorded test by test, so that two commits can be compared."""
