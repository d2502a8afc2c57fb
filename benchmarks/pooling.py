"""Measure time and memory of pooling: Visium HD bins by their number, and transcripts.

    python benchmarks/pooling.py

Bins are squares of 8 µm with 100 random counts of 18,000 genes each; half a million of them are 32 mm², three quarters
of a capture area of Visium HD. Transcripts are uniform, of 400 genes, on disk in partitions of a million. Each case
runs in a process of its own. Time is that of the processor, memory the growth of the peak during the call (0 if
the call needed less than the generation of the data). Writes benchmarks/results/pooling.md.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from anndata import AnnData
from scipy.sparse import csr_matrix
from spatialdata import SpatialData, read_zarr
from spatialdata.models import PointsModel, ShapesModel, TableModel
from spatialdata.transformations import Identity

import deepspot as ds

SIDES, TRANSCRIPTS = (317, 707), (5_000_000, 10_000_000)
BIN_UM, GENES, PER_BIN = 8.0, 18_000, 100
OUT = Path(__file__).parent / "results" / "pooling.md"


def main() -> None:
    lines = ["| pooled | counts | spots of 55 µm | processor seconds | memory (MB) |", "|---|---|---|---|---|"]
    cases = [("bins", side) for side in SIDES] + [("transcripts", n) for n in TRANSCRIPTS]
    for kind, size in cases:
        output = subprocess.run([sys.executable, __file__, kind, str(size)], check=True, capture_output=True, text=True)
        n, counts, spots, seconds, memory = map(float, output.stdout.split()[-5:])
        lines.append(f"| {n:,.0f} {kind} | {counts:,.0f} | {spots:,.0f} | {seconds:.1f} | {memory:,.0f} |")
    OUT.write_text("\n".join(lines) + "\n")
    print(OUT.read_text())


def bins(side: int) -> tuple[SpatialData, dict[str, str], int]:
    rng, n = np.random.default_rng(0), side**2
    y, x = (BIN_UM * axis.ravel() for axis in np.mgrid[:side, :side])
    squares = gpd.GeoDataFrame(geometry=shapely.box(x, y, x + BIN_UM, y + BIN_UM))
    genes = np.sort(rng.integers(0, GENES, (n, PER_BIN)), axis=1).ravel()
    data = rng.integers(1, 4, n * PER_BIN).astype(np.float32)
    X = csr_matrix((data, genes, np.arange(n + 1) * PER_BIN), shape=(n, GENES))
    X.sum_duplicates()
    obs = pd.DataFrame({"region": pd.Categorical(["bins"] * n), "bin": np.arange(n)}, index=np.arange(n).astype(str))
    table = TableModel.parse(AnnData(X, obs), region="bins", region_key="region", instance_key="bin")
    shapes = ShapesModel.parse(squares, transformations={"microns": Identity()})
    return SpatialData(shapes={"bins": shapes}, tables={"table": table}), {}, n


def transcripts(n: int, folder: str) -> tuple[SpatialData, dict[str, str], int]:
    rng = np.random.default_rng(0)
    gene = pd.Categorical.from_codes(rng.integers(0, 400, n), [f"G{number}" for number in range(400)])
    frame = pd.DataFrame({"x": rng.uniform(0, 5_000, n), "y": rng.uniform(0, 5_000, n), "gene": gene})
    points = PointsModel.parse(
        frame, feature_key="gene", transformations={"microns": Identity()}, npartitions=max(1, n // 1_000_000)
    )
    SpatialData(points={"points": points}).write(f"{folder}/points.zarr")
    return read_zarr(f"{folder}/points.zarr"), {"points_key": "points"}, n


def one(kind: str, size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ds.pp.pool(bins(30)[0])  # imports
        sdata, options, n = bins(size) if kind == "bins" else transcripts(size, folder)
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        ds.pp.pool(sdata, **options)
        seconds, after = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        counts = sdata["table"].X.sum() if kind == "bins" else n
        print(n, counts, len(sdata[f"{kind if kind == 'bins' else 'points'}_spots"]), seconds, (after - before) / 1024)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        one(sys.argv[1], int(sys.argv[2]))
    else:
        main()
