"""The Panel: a client of its remote API, and the schemas of what it answers."""
