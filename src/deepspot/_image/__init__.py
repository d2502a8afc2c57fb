"""Pixels: tiles read from an image pyramid, and detection of tissue."""
