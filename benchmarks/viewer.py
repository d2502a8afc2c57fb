"""Size, first paint and frame rate of the pages of ds.view: 5,000 spots × 1,000 genes, and 100,000 cells.

    python benchmarks/viewer.py --out /tmp/viewer

Needs Node, `npm ci` in viewer/, and Chromium. The slides have random smooth genes on an image that repeats a toy slide.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from anndata import AnnData
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel, TableModel

import deepspot as ds

VIEWER = Path(__file__).parents[1] / "viewer"


def image(side: int) -> np.ndarray:
    toy = next(iter(ds.datasets.toy(1, 1, n_rows=6, n_cols=6).values()))
    pixels = np.asarray(toy.images["P1_S1_image"])[:, 60:460, 60:460]
    return np.tile(pixels, (1, -(-side // 400), -(-side // 400)))[:, :side, :side]


def slide(centers: np.ndarray, shapes: gpd.GeoDataFrame, n_genes: int, mpp: float) -> SpatialData:
    rng = np.random.default_rng(0)
    where = (centers - centers.min(axis=0)) / np.ptp(centers, axis=0).max()
    genes = [f"GENE{k}" for k in range(n_genes)]
    waves = rng.uniform(2, 12, (2, n_genes)), rng.uniform(0, 6, (2, n_genes))
    rate = 1.2 + np.prod([np.sin(where[:, [axis]] * waves[0][axis] + waves[1][axis]) for axis in (0, 1)], axis=0)
    values = (rate + rng.normal(0, 0.1, rate.shape)).astype(np.float32)
    counts = rng.poisson(np.exp(rate) / 3).astype(np.float32)
    kinds = {"table": (counts, {}), "deepspot_spots": (values, {"log1p": {}, "deepspot": {"kind": "prediction"}})}
    tables = {}
    for key, (X, uns) in kinds.items():
        obs = pd.DataFrame({"region": pd.Categorical(["spots"] * len(X)), "spot_id": np.arange(len(X))})
        obs.index = obs.index.astype(str)
        if uns:
            obs["ood_score"] = (0.5 + 0.7 * where[:, 0]).astype(np.float32)
            obs["ood"] = obs["ood_score"] > 1
        table = AnnData(X, obs=obs, var=pd.DataFrame(index=genes), uns=uns)
        tables[key] = TableModel.parse(table, region="spots", region_key="region", instance_key="spot_id")
    side = int(centers.max() + 100)
    images = {"slide_image": Image2DModel.parse(image(side), dims=("c", "y", "x"), scale_factors=[2, 2, 2])}
    sdata = SpatialData(images=images, shapes={"spots": ShapesModel.parse(shapes)}, tables=tables)
    ds.pp.set_scale(sdata, mpp=mpp)
    return sdata


def spots() -> SpatialData:
    rows, columns = np.divmod(np.arange(5000), 70)
    centers = np.column_stack([columns + 0.5 * (rows % 2), rows * 0.866]) * 100.0 + 100
    shapes = gpd.GeoDataFrame(geometry=gpd.points_from_xy(*centers.T)).assign(radius=27.5, diameter_um=55.0)
    return slide(centers, shapes, 1000, mpp=1.0)


def cells() -> SpatialData:
    rng = np.random.default_rng(1)
    n = 100_000
    rows, columns = np.divmod(np.arange(n), 317)
    centers = np.column_stack([columns, rows]) * 16.0 + rng.uniform(-3, 3, (n, 2)) + 100
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    radius = rng.uniform(5, 8, (n, 16))
    corners = centers[:, None] + radius[..., None] * np.column_stack([np.cos(angle), np.sin(angle)])
    return slide(centers, gpd.GeoDataFrame(geometry=shapely.polygons(corners)), 100, mpp=0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, make in {"spots": spots, "cells": cells}.items():
        if not (out / f"{name}.html").exists():
            sdata = make()
            start = time.process_time()
            ds.view(sdata, out / f"{name}.html")
            print(f"{name}: {time.process_time() - start:.1f} s of processor time to write")
        print(f"load of the machine {os.getloadavg()[0]:.1f}")
        done = subprocess.run(
            ["node", VIEWER / "bench.mjs", out / f"{name}.html"], check=True, capture_output=True, text=True
        )
        print(json.dumps(json.loads(done.stdout), indent=1))


if __name__ == "__main__":
    main()
