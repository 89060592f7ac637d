"""The framework of the HTTP interface: connections, requests, operations and the document."""
