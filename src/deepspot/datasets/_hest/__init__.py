"""Samples of HEST-1k."""

from .hest import hest

__all__ = ["hest"]
