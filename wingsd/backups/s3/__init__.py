"""Backups in S3: an archive is uploaded in parts, to URLs that the Panel has signed."""
