"""The slides of the benchmarks as SpatialData, with their features kept between runs."""

from __future__ import annotations

from typing import Any

from spatialdata import SpatialData, read_zarr

import deepspot as ds

# Six patients whose stains and batches differ more than the defaults of `ds.datasets.toy` do, and shallow counts.
HARD_TOY = {
    "n_patients": 6, "n_rows": 6, "n_cols": 8, "n_genes": 150, "depth": 1500, "stain_shift": 1.0, "batch_effect": 0.5,
}  # fmt: skip


def load(names: list[str]) -> dict[str, SpatialData]:
    """Sections of the HER2-positive breast cancer data."""
    return {name: embedded(name, sdata) for name, sdata in sections(names).items()}


def load_toy() -> dict[str, SpatialData]:
    """The hard toy cohort."""
    return {name: embedded(f"toy_{name}", sdata) for name, sdata in toy().items()}


def sections(names: list[str]) -> dict[str, SpatialData]:
    """Sections without features."""
    return {name: ds.datasets.her2st(name) for name in names}


def toy() -> dict[str, SpatialData]:
    """The hard toy cohort without features."""
    return ds.datasets.toy(**HARD_TOY)


def embedded(name: str, sdata: SpatialData, encoder: Any = None, **options: Any) -> SpatialData:
    """Embed once: the fingerprints prove that kept features are those of this very slide and encoder."""
    store = ds.settings.cache("benchmarks", f"{name}.zarr")
    kept = dict(read_zarr(store, selection=("tables",)).tables) if store.exists() else {}
    for key, table in kept.items():
        sdata.tables[key] = table
    before = set(sdata.tables)
    ds.pp.embed(sdata, encoder, **options)
    if set(sdata.tables) != before:
        features = {key: table for key, table in sdata.tables.items() if key != "table"}
        SpatialData(tables=features).write(store, overwrite=True)
    return sdata
