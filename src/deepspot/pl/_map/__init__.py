"""Axes, image, colors, values and panels of maps."""
