"""The tar format: headers, reader and writer."""
