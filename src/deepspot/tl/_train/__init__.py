"""Training on measured slides."""
