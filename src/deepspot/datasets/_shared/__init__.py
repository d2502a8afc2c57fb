"""What the readers of published data have in common."""
