"""Where received servers are kept until they are in use, and volumes that nodes share."""
