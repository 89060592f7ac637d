"""SFTP: users reach the files of their servers, with clients for SSH.

The SSH protocol and all work on files are in a process of their own, `sftp.server`, which starts
with the first connection and ends minutes after the last one. So ciphers never slow consoles and
transfers, and a node whose users do not use SFTP needs no memory for it. The daemon opens the
listening socket, which that process accepts connections from, and decides on logins.
"""
