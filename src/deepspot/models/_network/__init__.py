"""The network of the paper: its configuration, layers, losses, training and inference."""
