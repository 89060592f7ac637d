"""What of the documents is made from the code."""
