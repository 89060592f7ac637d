"""The pictures of the demo."""
