"""A feature table becomes the input of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deepspot import _keys
from deepspot._bags import Bags
from deepspot._neighbors import find_neighbors

if TYPE_CHECKING:
    from anndata import AnnData

    from deepspot._geometry import NeighborRule


def bags_of(features: AnnData, rule: NeighborRule) -> Bags:
    """Bags of the spots of a feature table, in its order, with neighbours by a rule in µm."""
    centers_um = np.asarray(features.obsm["spatial"]) * float(features.uns[_keys.UNS]["mpp"])
    neighbors = find_neighbors(centers_um, rule, features.obsm.get("array"))
    return Bags(np.asarray(features.X, dtype=np.float32), features.obsm.get("subspots"), neighbors)
