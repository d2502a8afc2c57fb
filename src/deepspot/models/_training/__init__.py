"""Train a model on measured slides."""
