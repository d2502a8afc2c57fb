"""Synthetic slides with known ground truth."""

from .toy import toy, toy_slide

__all__ = ["toy", "toy_slide"]
