"""Training runs to a stated accuracy."""
