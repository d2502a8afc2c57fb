"""Preprocessing: scale, spots, quality control, embeddings, and regions of a pathologist."""

from ._annotate import annotate
from ._embed import embed
from ._nuclei import nuclei
from ._pool import pool
from ._quality import quality
from ._set_scale import set_scale
from ._spots import spots
from ._use_features import use_features

__all__ = ["annotate", "embed", "nuclei", "pool", "quality", "set_scale", "spots", "use_features"]
