"""Conversion of checkpoints published by the authors of DeepSpot."""

from .convert import convert_legacy

__all__ = ["convert_legacy"]
