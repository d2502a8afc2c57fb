from ._her2st import her2st

__all__ = ["her2st"]
