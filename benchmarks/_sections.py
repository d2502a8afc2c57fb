"""The slides of the benchmarks as SpatialData, with their features kept between runs."""

from __future__ import annotations

from spatialdata import SpatialData, read_zarr

import deepspot as ds

# Six patients whose stains and batches differ more than the defaults of `ds.datasets.toy` do, and shallow counts.
HARD_TOY = {
    "n_patients": 6, "n_rows": 6, "n_cols": 8, "n_genes": 150, "depth": 1500, "stain_shift": 1.0, "batch_effect": 0.5,
}  # fmt: skip


def load(names: list[str], encoder: str | None = None) -> dict[str, SpatialData]:
    """Sections of the HER2-positive breast cancer data."""
    return {name: _embedded(name, ds.datasets.her2st(name), encoder) for name in names}


def load_toy(encoder: str | None = None) -> dict[str, SpatialData]:
    """The hard toy cohort."""
    return {name: _embedded(f"toy_{name}", sdata, encoder) for name, sdata in ds.datasets.toy(**HARD_TOY).items()}


def _embedded(name: str, sdata: SpatialData, encoder: str | None) -> SpatialData:
    """Embed once: the fingerprints prove that kept features are those of this very slide and encoder."""
    store = ds.settings.cache("benchmarks", f"{name}.zarr")
    kept = dict(read_zarr(store, selection=("tables",)).tables) if store.exists() else {}
    for key, table in kept.items():
        sdata.tables[key] = table
    before = set(sdata.tables)
    ds.pp.embed(sdata, encoder)
    if set(sdata.tables) != before:
        features = {key: table for key, table in sdata.tables.items() if key != "table"}
        SpatialData(tables=features).write(store, overwrite=True)
    return sdata
