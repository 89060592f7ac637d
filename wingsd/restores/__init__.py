"""Restoring backups: read and verified beside a server's files, and then put in their place."""
