"""Local backups of servers: sent, received, and removed when they have moved."""
