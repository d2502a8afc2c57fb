"""Draw a slide with cells colored by a gene: measured and predicted cells, in doubt where the tissue is unknown.

    DEEPSPOT_DATA=../shared/data python benchmarks/cells_map.py

A toy slide (0.5 µm per pixel) with known cells, of a patient whom the model has not seen. The model is the default with
at most 20 epochs, trained on the spots of two other patients. On the slide, a stroke of blue ink is drawn and a round
region is blurred, as if out of focus; there is nothing like them in the training slides. Cells are those in spots and
between them; the latter are not scaled to a spot. Prints the share of spots and cells that are out of distribution
there and elsewhere, and the agreement of the cells with their counts.

With `DEEPSPOT_DATA`, the 200 Xenium cells of one real core are drawn too, in a file in the temporary folder. Their
model is trained on the same cells, so that this shows how they are drawn, and no accuracy. Writes
benchmarks/results/cells_map.jpg.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_matrix
from spatialdata import SpatialData
from spatialdata.models import Image2DModel
from spatialdata.transformations import get_transformation
from tissue import blob, stroke

import deepspot as ds
from deepspot._core.keys import DIAMETER
from deepspot._spatial.transforms import centers_px
from deepspot.pl._map.values import measured_values, predicted_values

SEED, GENE, MPP = 0, "TUMOR1", 0.5
TRAINING: dict[str, Any] = {"n_patients": 2, "n_rows": 10, "n_cols": 12, "mpp": MPP}
SLIDE: dict[str, Any] = {"n_patients": 3, "n_rows": 5, "n_cols": 6, "mpp": MPP, "cells": True}
# Positions in shares of width and height.
INK, INK_UM, COVERS, COLOR = [(0.05, 0.5), (0.62, 0.78)], 50, 0.85, (30, 60, 170)
BLUR, BLUR_UM, SIGMA_UM = (0.72, 0.33), 90, 6
CLOSE = (400, 640), (590, 430)  # µm, for the lower row
CORE_MPP, CORE_UM = 2.1, 55  # as in tests/behavior/test_real_cells.py
OUT = Path(__file__).parent / "results" / "cells_map.jpg"


def main() -> None:
    ds.settings.progress = False
    mpl.use("Agg")
    slide = ds.datasets.toy(**SLIDE, seed=SEED)["P3_S1"]
    regions = plant(slide)
    training = ds.datasets.toy(**TRAINING, seed=SEED)
    genes = list(slide["table_cells"].var_names)
    model = ds.models.train(training, patient_key="patient", genes=genes, training={"max_epochs": 20}, seed=SEED)
    ds.tl.predict(slide, model, shapes_key="spots")
    ds.tl.predict(slide, model, resolution="cell", shapes_key="cells")
    ds.tl.evaluate_resolution(slide, prediction_key="deepspot_cells", table_key="table_cells", spots_key="spots")
    for key in ("spots", "cells"):
        ood = slide[f"deepspot_{key}"].obs["ood"].groupby(where(slide, key, regions))
        print(pd.DataFrame({"number": ood.size(), "out of distribution": ood.mean().round(2)}).rename_axis(key))
    print(tumor_cells(slide, where(slide, "cells", regions)))
    print(slide["deepspot_cells"].uns["deepspot"]["within_spots"])
    print(slide["deepspot_cells"].var.loc[GENE])
    draw(slide)
    if "DEEPSPOT_DATA" in os.environ:
        draw_core(Path(os.environ["DEEPSPOT_DATA"]) / "xenium_core")


def plant(slide: SpatialData) -> dict[str, np.ndarray]:
    """Draw ink and blur a region; return the share of each pixel (h, w) that they cover."""
    (key,) = slide.images
    image = slide[key]
    clean = image.transpose("y", "x", "c").to_numpy().astype(np.float32)
    size = np.array(clean.shape[1::-1])
    masks = {"ink": stroke(size, INK, INK_UM / MPP), "blurred": blob(size, BLUR, BLUR_UM / MPP)}
    planted = clean + masks["ink"][..., None] * COVERS * (np.array(COLOR) - clean)
    soft = gaussian_filter(clean, (SIGMA_UM / MPP, SIGMA_UM / MPP, 0))
    planted += masks["blurred"][..., None] * (soft - planted)
    slide.images[key] = Image2DModel.parse(
        planted.round().clip(1, 255).astype(np.uint8).transpose(2, 0, 1),
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        transformations=dict(get_transformation(image, get_all=True)),
    )
    return masks


def where(slide: SpatialData, shapes_key: str, regions: dict[str, np.ndarray]) -> np.ndarray:
    """Return the region (n,) of each place by its center."""
    x, y = centers_px(slide, next(iter(slide.images)), shapes_key).astype(int).T
    names = np.full(len(x), "elsewhere", dtype=object)
    for name, mask in regions.items():
        names[mask[y, x] > 0.5] = name
    return names


def tumor_cells(slide: SpatialData, region: np.ndarray) -> pd.DataFrame:
    """Return the mean measured and predicted gene of the tumor cells by region (n,)."""
    keys = {"shapes_key": "cells", "genes": [GENE]}
    values = {
        "measured": measured_values(slide, table_key="table_cells", **keys)[:, 0],
        "predicted": predicted_values(slide, table_key="deepspot_cells", **keys)[:, 0],
    }
    tumor = (slide["cells"]["class"] == "tumor").to_numpy()
    return pd.DataFrame(values)[tumor].groupby(region[tumor]).mean()


def draw(slide: SpatialData) -> None:
    figure = plt.figure(figsize=(13, 8.6), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[4, 5])
    ds.pl.superresolution(slide, GENE, shapes_key="spots", ax=upper.subplots(1, 3))
    for ax in ds.pl.spatial(slide, GENE, shapes_key="cells", ax=lower.subplots(1, 2)):
        ax.set(xlim=CLOSE[0], ylim=CLOSE[1])
    figure.savefig(OUT, dpi=100, pil_kwargs={"quality": 80})


def draw_core(folder: Path) -> None:
    adata = ad.read_h5ad(folder / "NCBI858.h5ad")
    adata.X = csr_matrix(adata.X)
    adata.obsm["spatial"] = adata.obs[["y_pixel", "x_pixel"]].to_numpy()
    core = ds.io.from_anndata(adata, folder / "NCBI858.jpg", mpp=CORE_MPP, diameter_um=CORE_UM, name="core")
    keys = {"normalize": "log1p_counts"}
    model = ds.models.train(core, genes=20, keys=keys, training={"max_epochs": 20}, seed=SEED)
    ds.tl.predict(core, model)
    gene = str(core["deepspot_spots"].var["expected_r"].idxmax())
    core["spots"][DIAMETER] = 10.0  # as cells, and not as tiles, which overlap
    figure = ds.pl.spatial(core, gene, image_key="core_image")[0].figure
    figure.savefig(path := Path(tempfile.gettempdir()) / "cells_map_core.png", dpi=150)
    print(path)


if __name__ == "__main__":
    main()
