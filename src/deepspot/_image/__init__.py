"""Pixels: tiles read from an image pyramid, and which of them show tissue."""
