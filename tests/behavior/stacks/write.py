"""Write the toy slide with a prediction that test_stacks.py reads: ``python write.py new.zip``.

It is run once in an environment of each line of anndata and pandas, and the files are part of the repository.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

import deepspot as ds


class ThreeColors:
    """Mean color of a tile."""

    card = ds.encoders.EncoderCard(name="three", dim=3, input_px=16)
    fingerprint = "three"

    def to(self, device):
        return self

    def encode(self, tiles):
        return tiles.astype(np.float32).mean(axis=(1, 2))


sdata = ds.datasets.toy(1, n_rows=5, n_cols=6, n_genes=60, mpp=2.5)["P1_S1"]
table, encoder = sdata["table"], ThreeColors()
image = sdata["P1_S1_image"]
image.data = image.data // 32 * 32  # a small file
tumor = table.obsm["composition"][:, 0] > 0.5
text = np.where(tumor, "tumor", "T/NK")
table.obs["text"] = list(text)
table.obs["categories"] = pd.Categorical(list(text))
table.obs["numbers"] = pd.array([1 + int(value) for value in tumor], dtype="Int64")
sdata["spots"]["of_shapes"] = list(text)
model = ds.models.train(
    sdata, genes=20, encoder=encoder, seed=0, network={"width": 8, "members": 1}, training={"epochs": 2}
)
ds.tl.predict(sdata, model, encoder=encoder)
predicted = sdata["deepspot_spots"]
for column in ("text", "categories", "numbers"):
    predicted.obs[column] = table.obs[column].array
ds.tl.markers(sdata, "text")
ds.tl.enrich(sdata, {"first": list(predicted.var_names[:10]), "A/B": list(predicted.var_names[10:])}, background=None)
net = pd.DataFrame({"source": ["JAK/STAT"] * 10 + ["TGFb"] * 10, "target": list(predicted.var_names)})
net["weight"] = 1.0 + np.arange(20) % 3
ds.tl.pathways(sdata, net)
with tempfile.TemporaryDirectory() as folder:
    sdata.write(Path(folder) / "slide.zarr")
    shutil.make_archive(sys.argv[1].removesuffix(".zip"), "zip", folder)
