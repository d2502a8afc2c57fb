from ._hest import hest

__all__ = ["hest"]
