"""Preprocessing: scale, spots, embeddings, and regions of a pathologist."""

from ._annotate import annotate
from ._embed import embed
from ._set_scale import set_scale
from ._spots import spots

__all__ = ["annotate", "embed", "set_scale", "spots"]
