"""Models as files: the card, the tensors, and where both are kept."""
