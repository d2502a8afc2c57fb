"""Synthetic slides with known answers."""

from .toy import toy, toy_slide

__all__ = ["toy", "toy_slide"]
