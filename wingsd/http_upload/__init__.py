"""Uploads over HTTP: one request with its body, whose answer may come before the body's end."""
