"""Sections with tertiary lymphoid structures."""

from .tls import tls

__all__ = ["tls"]
