"""The real sections as SpatialData, with their features kept between runs."""

from __future__ import annotations

from spatialdata import SpatialData, read_zarr

import deepspot as ds


def load(names: list[str]) -> dict[str, SpatialData]:
    """Sections of the HER2-positive breast cancer data; embedding happens once, as the fingerprints prove."""
    return {name: _load(name) for name in names}


def _load(name: str) -> SpatialData:
    sdata, store = ds.datasets.her2st(name), ds.settings.cache("benchmarks", f"{name}.zarr")
    if store.exists():
        for key, table in read_zarr(store, selection=("tables",)).tables.items():
            sdata.tables[key] = table
    before = set(sdata.tables)
    ds.pp.embed(sdata)
    if set(sdata.tables) != before:
        features = {key: table for key, table in sdata.tables.items() if key != "table"}
        SpatialData(tables=features).write(store, overwrite=True)
    return sdata
