"""Preprocessing: scale, tiles and embeddings, and the regions of a pathologist."""

from ._annotate import annotate
from ._embed import embed
from ._set_scale import set_scale

__all__ = ["annotate", "embed", "set_scale"]
