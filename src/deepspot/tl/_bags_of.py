"""A feature table becomes the input of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deepspot import _keys, _tables
from deepspot._bags import Bags
from deepspot._neighbors import find_neighbors

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from deepspot._geometry import NeighborRule


def bags_of(sdata: SpatialData, features_key: str, shapes_key: str, rule: NeighborRule) -> Bags:
    """Bags of the spots of a feature table, in its order, with the neighbours that a rule gives."""
    features = sdata.tables[features_key]
    centers_um = np.asarray(features.obsm["spatial"]) * float(features.uns[_keys.UNS]["mpp"])
    # Positions in the array are looked up when they are needed: they may have been added or mended since embedding.
    array = _tables.array_positions(sdata, shapes_key) if rule.kind == "box" else None
    neighbors = find_neighbors(centers_um, rule, array)
    position = (centers_um - centers_um.mean(axis=0)).astype(np.float32)
    return Bags(np.asarray(features.X, dtype=np.float32), features.obsm.get("subspots"), neighbors, position)
