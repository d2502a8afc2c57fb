"""Preprocessing: scale, tiles and embeddings."""

from ._embed import embed
from ._set_scale import set_scale

__all__ = ["embed", "set_scale"]
