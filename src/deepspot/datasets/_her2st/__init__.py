"""Sections of HER2-positive breast cancer."""

from .her2st import her2st

__all__ = ["her2st"]
