"""Readers: slides and measured spots, bins or cells as a SpatialData of known scale. Export to other software."""

from ._export.export import export
from ._from_anndata import from_anndata
from ._predicted import predicted
from ._slide import slide
from ._visium import visium
from ._visium_hd import visium_hd
from ._xenium import xenium

__all__ = ["export", "from_anndata", "predicted", "slide", "visium", "visium_hd", "xenium"]
