"""The multipart form of an upload: its parts, and what comes with a server."""
