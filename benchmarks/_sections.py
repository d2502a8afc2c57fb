"""The slides of the benchmarks as SpatialData, with their features kept between runs."""

from __future__ import annotations

from typing import Literal

from spatialdata import SpatialData, read_zarr

import deepspot as ds


def load(names: list[str]) -> dict[str, SpatialData]:
    """Sections of the HER2-positive breast cancer data."""
    return {name: embedded(name, ds.datasets.her2st(name)) for name in names}


def load_toy() -> dict[str, SpatialData]:
    """Six patients whose stains and batches differ more than by default, and shallow counts."""
    slides = ds.datasets.toy(
        n_patients=6, n_rows=6, n_cols=8, n_genes=150, depth=1500, stain_shift=1.0, batch_effect=0.5
    )
    return {name: embedded(f"toy_{name}", sdata) for name, sdata in slides.items()}


def embedded(name: str, sdata: SpatialData, subspots: Literal["tiles", "nuclei"] = "tiles") -> SpatialData:
    """Embed once: the fingerprints prove that kept features are those of this very slide, encoder and nuclei."""
    store = ds.settings.cache("benchmarks", f"{name}.zarr")
    kept = dict(read_zarr(store, selection=("tables",)).tables) if store.exists() else {}
    for key, table in kept.items():
        sdata.tables[key] = table
    before = set(sdata.tables)
    ds.pp.embed(sdata, subspots=subspots)
    if set(sdata.tables) != before:
        features = {key: table for key, table in sdata.tables.items() if key != "table"}
        SpatialData(tables=features).write(store, overwrite=True)
    return sdata
