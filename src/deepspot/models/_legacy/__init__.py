"""Checkpoints of the paper's authors become models; nothing in them is ever executed."""

from ._convert import convert_legacy

__all__ = ["convert_legacy"]
