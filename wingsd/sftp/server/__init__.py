"""The SFTP process: SSH by asyncssh, and SFTP 3 above it. It is without Twisted's reactor."""
