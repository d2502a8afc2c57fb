"""Bring slides into SpatialData, with their scale."""

from ._from_anndata import from_anndata
from ._predicted import predicted
from ._visium import visium

__all__ = ["from_anndata", "predicted", "visium"]
