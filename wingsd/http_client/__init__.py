"""The HTTP client for nodes, stores and addresses of users: HTTP/1.1 by h11, within bounds."""
