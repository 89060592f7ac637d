"""The storage of received servers until they are in use, and volumes that nodes share."""
