"""Morphology of the nuclei of each spot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.keys import MORPHOLOGY, UNS
from deepspot._sdata.tables import link_keys
from deepspot._sdata.write import make_table
from deepspot._spatial.transforms import centers_px, intrinsic_centers, positions_in

from ._containing import area_mm2, finder

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData


class SpotsOfNuclei:
    """Spots whose nuclei are described. All that can be wrong with them is found before the nuclei are segmented."""

    def __init__(self, sdata: SpatialData, shapes_key: str, image_key: str, coordinate_system: str | None) -> None:
        self.sdata, self.shapes_key, self.image_key = sdata, shapes_key, image_key
        self.coordinate_system = coordinate_system
        self.area, self.find = area_mm2(sdata, shapes_key), finder(sdata, shapes_key)
        self.link_keys = link_keys(sdata, shapes_key)
        self.centers = centers_px(sdata, image_key, shapes_key, coordinate_system)  # raises if these disagree

    def morphology(self, nuclei_key: str, columns: pd.DataFrame) -> AnnData:
        """Make a table with the density of the nuclei and the means (NaN without nuclei) of their `columns` (n rows).

        It is a table of its own: the table of counts stays as it was measured, and spots may have no such table.
        """
        import pandas as pd

        nuclei = intrinsic_centers(self.sdata, nuclei_key)
        spot = self.find(positions_in(self.sdata, self.shapes_key, nuclei_key, nuclei, self.coordinate_system))
        inside, instances = spot >= 0, self.sdata.shapes[self.shapes_key].index
        number = np.bincount(spot[inside], minlength=len(instances))
        means = columns[inside].groupby(spot[inside]).mean().reindex(range(len(instances)))
        means.insert(0, "nuclei_per_mm2", number / self.area)
        region, instance = self.link_keys
        return make_table(
            means.to_numpy(dtype=np.float32),
            region=self.shapes_key,
            instances=instances,
            region_key=region,
            instance_key=instance,
            obs=pd.DataFrame({"n_nuclei": number}, index=instances.astype(str)),
            var=pd.DataFrame(index=list(means)),
            obsm={"spatial": self.centers},
            uns={UNS: {"kind": MORPHOLOGY, "nuclei": nuclei_key, "image": self.image_key}},
        )
