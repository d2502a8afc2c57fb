from ._tls import tls

__all__ = ["tls"]
