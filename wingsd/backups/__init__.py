"""Backups of servers: made, kept on the node or in S3, verified, and moved with their servers."""
