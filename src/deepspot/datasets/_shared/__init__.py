"""What the readers of published data share."""
