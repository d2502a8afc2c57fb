"""Models on embeddings, and their bundles."""

from deepspot._bags import Bags

from ._deepspot import DeepSpot
from ._registry import available, load

__all__ = ["Bags", "DeepSpot", "available", "load"]
