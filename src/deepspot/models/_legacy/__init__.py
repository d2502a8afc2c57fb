"""Checkpoints of the authors of the paper."""

from .convert import convert_legacy

__all__ = ["convert_legacy"]
