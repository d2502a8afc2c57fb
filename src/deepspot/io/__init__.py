"""Readers: slides and measured spots as a SpatialData of known scale."""

from ._from_anndata import from_anndata
from ._predicted import predicted
from ._slide import slide
from ._visium import visium

__all__ = ["from_anndata", "predicted", "slide", "visium"]
