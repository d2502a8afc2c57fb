"""Morphology of the nuclei of each spot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.keys import MORPHOLOGY, UNS
from deepspot._sdata.tables import link_keys
from deepspot._sdata.write import make_table
from deepspot._spatial.transforms import intrinsic_centers, positions_in

from ._containing import area_mm2, finder

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData


def morphology_table(
    sdata: SpatialData,
    shapes_key: str,
    nuclei_key: str,
    image_key: str,
    columns: pd.DataFrame,
    coordinate_system: str | None,
) -> AnnData:
    """Make a table of spots with the density of their nuclei and the means (NaN without nuclei) of `columns` (n rows).

    It is a table of its own: the table of counts stays as it was measured, and spots may have no such table.
    """
    import pandas as pd

    centers = positions_in(sdata, shapes_key, nuclei_key, intrinsic_centers(sdata, nuclei_key), coordinate_system)
    spot, n_spots = finder(sdata, shapes_key)(centers), len(sdata.shapes[shapes_key])
    inside = spot >= 0
    number = np.bincount(spot[inside], minlength=n_spots)
    means = columns[inside].groupby(spot[inside]).mean().reindex(range(n_spots))
    means.insert(0, "nuclei_per_mm2", number / area_mm2(sdata, shapes_key))
    instances = sdata.shapes[shapes_key].index
    region, instance = link_keys(sdata, shapes_key)
    return make_table(
        means.to_numpy(dtype=np.float32),
        region=shapes_key,
        instances=instances,
        region_key=region,
        instance_key=instance,
        obs=pd.DataFrame({"n_nuclei": number}, index=instances.astype(str)),
        var=pd.DataFrame(index=list(means)),
        uns={UNS: {"kind": MORPHOLOGY, "nuclei": nuclei_key, "image": image_key}},
    )
