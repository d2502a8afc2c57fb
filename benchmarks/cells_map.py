"""Draw a slide whose cells are colored by a gene: measured cells, and predicted spots and cells, in doubt where in doubt.

    DEEPSPOT_DATA=../shared/data python benchmarks/cells_map.py

A toy slide (0.5 µm per pixel) of a patient whom the model has not seen, with known cells. The model is the default with
at most 20 epochs, trained on the spots of two other patients. On the slide, a stroke of blue ink is drawn and a round
region is blurred, as if out of focus: nothing like them is in the training slides. Prints how many spots and cells are
out of distribution there and elsewhere, and the agreement of the cells with their counts. With `DEEPSPOT_DATA`, the 200
real Xenium cells of one core are also drawn, to look at, in xenium_core.png in the temporary folder: their model is
trained on the same cells, so that they show no accuracy. Writes benchmarks/results/cells_map.jpg.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from spatialdata.models import Image2DModel
from spatialdata.transformations import get_transformation

import deepspot as ds
from deepspot._spatial.transforms import centers_px

SEED, GENE, MPP, GENES = 0, "TUMOR1", 0.5, 60
TOY: dict[str, Any] = {"n_patients": 3, "n_rows": 10, "n_cols": 12, "n_genes": GENES, "mpp": MPP, "cells": True}
# In shares of width and height; radii in µm.
INK, INK_UM, COVERS, COLOR = [(0.08, 0.62), (0.52, 0.86)], 35, 0.85, (30, 60, 170)
BLUR, BLUR_UM, SIGMA_UM = (0.72, 0.3), 140, 6
OUT = Path(__file__).parent / "results" / "cells_map.jpg"


def main() -> None:
    import matplotlib.pyplot as plt

    mpl.use("Agg")
    ds.settings.progress = False
    slides = ds.datasets.toy(**TOY, seed=SEED)
    slide = slides.pop("P3_S1")
    covered = plant(slide)
    keys = {"shapes_key": "spots", "table_key": "table"}
    genes = list(slide["table"].var_names)
    model = ds.models.train(
        slides, patient_key="patient", genes=genes, keys=keys, training={"max_epochs": 20}, seed=SEED
    )
    ds.tl.predict(slide, model, shapes_key="spots")
    ds.tl.predict(slide, model, resolution="cell", shapes_key="cells")
    ds.tl.evaluate_resolution(slide, table_key="table_cells", spots_key="spots", seed=SEED)
    print(slide["deepspot_cells"].uns["deepspot"]["within_spots"])
    print(slide["deepspot_cells"].var.loc[GENE])
    for key in ("spots", "cells"):
        print(doubt(slide, key, covered))

    _, axes = plt.subplots(2, 2, figsize=(12.4, 10), layout="constrained")
    ds.pl.superresolution(slide, GENE, shapes_key="spots", ax=[axes[0, 0], axes[1, 0], axes[1, 1]])
    ds.pl.spatial(slide, GENE, shapes_key="cells", ax=[axes[0, 1]])
    axes[0, 0].figure.savefig(OUT, dpi=110, pil_kwargs={"quality": 80})
    plt.close("all")
