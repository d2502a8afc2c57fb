"""Share of tiles that regions cover."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

MIN_COVER = 0.5
"""Share of a tile in bad regions from which the spot is bad."""


def covered(polygons: np.ndarray, kinds: np.ndarray, centers: np.ndarray, side: float) -> pd.DataFrame:
    """Return the share of tiles (n,) that is in regions of each kind, one column per kind.

    `polygons` and `kinds` (m,) are the regions; `centers` (n, 2) and `side` are in their pixels.
    """
    import pandas as pd
    import shapely

    tiles = shapely.box(*(centers - side / 2).T, *(centers + side / 2).T)
    tile, region = shapely.STRtree(polygons).query(tiles, predicate="intersects")
    areas = shapely.area(shapely.intersection(tiles[tile], polygons[region])) / side**2
    shares = pd.DataFrame(0.0, index=range(len(centers)), columns=pd.unique(pd.Series(kinds)))
    for kind in shares:
        own = kinds[region] == kind
        shares[kind] = np.bincount(tile[own], areas[own], minlength=len(centers))
    return shares
