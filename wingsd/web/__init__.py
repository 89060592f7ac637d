"""The node's HTTP interface: requests whose bodies stream, and the resources that take them."""
