"""Measure the segmentation of nuclei: accuracy on toy slides, speed and memory, and outlines on real sections.

    DEEPSPOT_DATA=../shared/data python benchmarks/nuclei.py

Toy slides are drawn from known nuclei. Segmented and true centroids within 3 µm are matched one to one, nearest first.
A wrong nucleus counts for the class of the nearest true one. The null model is the same number of random points in the
tissue. The parameters of the segmentation were tuned on the seeds 0 to 2; these slides have other seeds. Toy nuclei are
drawn one by one with sharp outlines, so that real sections are harder: the figure has three. Memory is measured in a
process of its own, on a toy slide that is repeated, with the image read lazily from disk. Writes
benchmarks/results/nuclei.md and .jpg.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from scipy.spatial import cKDTree
from spatialdata import SpatialData, read_zarr
from spatialdata.models import Image2DModel

import deepspot as ds
from deepspot._image.tiles import pyramid_levels
from deepspot._spatial.transforms import intrinsic_centers, microns_per_pixel
from deepspot.datasets._toy.tissue import CLASSES, grow_tissue, hex_array, sample, scatter_cells

SEEDS, ROWS, COLS = (10, 11, 12), 6, 7
CASES = [(mpp, 0.5) for mpp in (0.25, 0.5, 1.0)] + [(0.5, 0.0), (0.5, 1.0)]
WITHIN_UM = 3.0
REPEATS = (1, 2, 3)
OUT = Path(__file__).parent / "results" / "nuclei"


def main() -> None:
    ds.settings.progress = False
    mpl.use("Agg")
    text = [*accuracy(), "", *cost()]
    OUT.with_suffix(".md").write_text("\n".join(text) + "\n")
    draw()
    print(OUT.with_suffix(".md").read_text())


def accuracy() -> list[str]:
    rows = []
    for mpp, shift in CASES:
        for seed in SEEDS:
            rows += [{"mpp": mpp, "shift": shift, "seed": seed} | row for row in one_slide(seed, mpp, shift)]
    frame = pd.DataFrame(rows)
    lines = [
        f"Means over {len(SEEDS)} toy slides (one patient each, {ROWS} × {COLS} spots). Area: median over the matched "
        "nuclei of segmented over true area.",
        "",
        "| µm per pixel | stain shift | class | true nuclei | precision | recall | F1 | null F1 | area |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (mpp, shift), case in frame.groupby(["mpp", "shift"], sort=False):
        for name in ("all", *CLASSES):
            part = case[case["class"] == name]
            values = " | ".join(f"{part[column].mean():.3f}" for column in ("precision", "recall", "F1", "null F1"))
            start = f"| {mpp:g} | {shift:g} " if name == "all" else "| | "
            lines.append(f"{start}| {name} | {part['n'].sum():,} | {values} | {part['area'].mean():.2f} |")
    whole = frame[frame["class"] == "all"]
    spots = [
        f"{case['r'].mean():.3f} at {mpp:g} µm and shift {shift:g}"
        for (mpp, shift), case in whole.groupby(["mpp", "shift"], sort=False)
    ]
    lines += [
        "",
        "Pearson r over the spots of a slide between segmented and true number of nuclei: " + ", ".join(spots),
    ]
    return [*lines[:-1], lines[-1] + "."]


def one_slide(seed: int, mpp: float, shift: float) -> list[dict[str, float | str]]:
    slides = ds.datasets.toy(1, n_rows=ROWS, n_cols=COLS, mpp=mpp, stain_shift=shift, seed=seed)
    sdata = slides["P1_S1"]
    ds.pp.nuclei(sdata)
    shapes = sdata["P1_S1_image_nuclei"]
    xy = intrinsic_centers(sdata, "P1_S1_image_nuclei") * mpp
    # The streams of the generator, by purpose, patient and slide.
    tissue = grow_tissue(np.random.default_rng([seed, 0, 1, 1]), hex_array(ROWS, COLS)[2])
    cells = scatter_cells(np.random.default_rng([seed, 1, 1, 1]), tissue)
    truth = np.vstack([cells[name].xy for name in CLASSES])
    areas = np.concatenate([np.pi * cells[name].long * cells[name].short for name in CLASSES])
    label = np.repeat(np.arange(len(CLASSES)), [len(cells[name].xy) for name in CLASSES])

    rng = np.random.default_rng(seed)
    size = np.array(tissue.edge_um.shape[::-1]) * 10
    anywhere = rng.uniform(0, size, (20 * len(xy), 2))
    random = anywhere[sample(tissue.edge_um, anywhere) > 0][: len(xy)]
    found, null = match(xy, truth), match(random, truth)
    spots = cKDTree(hex_array(ROWS, COLS)[2])
    counts = [np.bincount(spots.query(at)[1][spots.query(at)[0] <= 27.5], minlength=spots.n) for at in (xy, truth)]
    rows = []
    for name in ("all", *CLASSES):
        row: dict[str, float | str] = {"class": name}
        for prefix, at, pairs in (("", xy, found), ("null ", random, null)):
            mine = cKDTree(truth).query(at)[1]
            chosen = (np.ones(len(at), bool), np.ones(len(truth), bool))
            if name != "all":
                chosen = (label[mine] == CLASSES.index(name), label == CLASSES.index(name))
            precision = np.isin(np.flatnonzero(chosen[0]), pairs[:, 0]).mean() if chosen[0].any() else np.nan
            recall = np.isin(np.flatnonzero(chosen[1]), pairs[:, 1]).mean()
            row |= {f"{prefix}precision": precision, f"{prefix}recall": recall}
            row[f"{prefix}F1"] = 2 * precision * recall / max(precision + recall, 1e-9)
            row["n"] = float(chosen[1].sum())
            if not prefix:
                own = chosen[1][pairs[:, 1]]
                row["area"] = float(np.median(shapes["area_um2"].to_numpy()[pairs[own, 0]] / areas[pairs[own, 1]]))
        rows.append(row | {"r": np.corrcoef(counts)[0, 1], "n": int(row["n"])})
    return rows


def match(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return pairs (m, 2) of found and true positions, one to one and nearest first."""
    near = cKDTree(found).sparse_distance_matrix(cKDTree(truth), WITHIN_UM, output_type="coo_matrix")
    free, open_, pairs = np.ones(len(found), bool), np.ones(len(truth), bool), []
    for at in np.argsort(near.data, kind="stable"):
        a, b = near.row[at], near.col[at]
        if free[a] and open_[b]:
            free[a] = open_[b] = False
            pairs.append((a, b))
    return np.array(pairs).reshape(-1, 2)


def cost() -> list[str]:
    """Measure time and memory in processes of their own, on a slide that is repeated and read from disk."""
    lines = [
        "The slide is a toy slide at 0.5 µm per pixel, repeated and read lazily. Time is that of the processor, on one "
        "core. Memory is the growth of the peak during the call, including the result.",
        "",
        "| area (mm²) | nuclei | processor seconds | mm² per minute | memory (MB) |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for repeats in REPEATS:
            store = str(Path(folder) / f"{repeats}.zarr")
            subprocess.run([sys.executable, __file__, "write", store, str(repeats)], check=True)
            output = subprocess.run(
                [sys.executable, __file__, "time", store], check=True, capture_output=True, text=True
            )
            area, n, seconds, memory = map(float, output.stdout.split()[-4:])
            lines.append(f"| {area:.1f} | {n:,.0f} | {seconds:.1f} | {60 * area / seconds:.0f} | {memory:.0f} |")
    return lines


def write_repeated(store: str, repeats: int) -> None:
    sdata = ds.datasets.toy(1, n_rows=ROWS, n_cols=COLS, mpp=0.5, seed=SEEDS[0])["P1_S1"]
    image = np.tile(np.asarray(pyramid_levels(sdata, "P1_S1_image")[0].data), (1, repeats, repeats))
    parsed = Image2DModel.parse(image, dims=("c", "y", "x"), c_coords=["r", "g", "b"], chunks=(3, 1024, 1024))
    slide = SpatialData(images={"he": parsed})
    ds.pp.set_scale(slide, mpp=0.5)
    slide.write(store)


def time_one(store: str) -> None:
    small = ds.datasets.toy(1, n_rows=2, n_cols=2, seed=0)["P1_S1"]
    ds.pp.nuclei(small)  # imports
    sdata = read_zarr(store)
    height, width = (sdata["he"].sizes[axis] * 0.5e-3 for axis in ("y", "x"))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    ds.pp.nuclei(sdata)
    seconds, after = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(height * width, len(sdata["he_nuclei"]), seconds, (after - before) / 1024)


def draw() -> None:
    """Draw outlines on crops of 200 µm of a toy slide and of three real sections."""
    import matplotlib.pyplot as plt

    data = Path(os.environ["DEEPSPOT_DATA"])
    toy = ds.datasets.toy(1, n_rows=ROWS, n_cols=COLS, mpp=0.5, seed=SEEDS[0])["P1_S1"]
    slides = {
        "toy slide": (toy, (330, 330)),
        "CMU-1 (Aperio)": (ds.io.slide(data / "wsi" / "CMU-1-Small-Region.svs"), (340, 700)),
        "HER2ST C3 (frozen)": (ds.datasets.her2st("C3"), (2140, 2140)),
        "HER2ST B4 (frozen)": (ds.datasets.her2st("B4"), (2420, 2970)),
    }
    figure, axes = plt.subplots(2, len(slides), figsize=(16, 8.3), layout="constrained")
    for (name, (sdata, corner)), (above, below) in zip(slides.items(), axes.T, strict=True):
        image_key = next(key for key in sdata.images if "thumbnail" not in key)
        ds.pp.nuclei(sdata, image_key=image_key)
        mpp = microns_per_pixel(sdata, image_key)
        x, y = (round(at / mpp) for at in corner)
        side = round(200 / mpp)
        level = pyramid_levels(sdata, image_key)[0].isel(x=slice(x, x + side), y=slice(y, y + side))
        pixels = np.asarray(level.data).transpose(1, 2, 0)
        shapes = sdata[f"{image_key}_nuclei"].cx[x : x + side, y : y + side]
        for ax in (above, below):
            ax.imshow(pixels, extent=(x, x + side, y + side, y))
            ax.set(xlim=(x, x + side), ylim=(y + side, y), xticks=[], yticks=[])
        above.set_title(name)
        shapes.boundary.plot(ax=below, color="lime", linewidth=1, aspect=None)
        below.set(xlabel="", ylabel="")
    figure.savefig(OUT.with_suffix(".jpg"), dpi=90, pil_kwargs={"quality": 85})


if __name__ == "__main__":
    if sys.argv[1:2] == ["write"]:
        write_repeated(sys.argv[2], int(sys.argv[3]))
    elif sys.argv[1:2] == ["time"]:
        time_one(sys.argv[2])
    else:
        main()
