"""What works on a table whose `X` is a dask array, as predictions streamed to disk have it.

    python benchmarks/lazy_tables.py

A synthetic slide is predicted to disk in several blocks, then every function is called on a fresh table. "lazy" means
that `X` is a dask array afterwards: the function may still compute parts of it. Writes
benchmarks/results/lazy_tables_<scanpy>.md for the scanpy that is installed.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata
import matplotlib as mpl
import numpy as np
import pandas as pd
import scanpy as sc
import squidpy as sq
from dask.array import Array
from spatialdata import SpatialData

import deepspot as ds
from deepspot.tl._predict import stream

mpl.use("Agg")
KEY, GROUP = "deepspot_spots", "half"
OUT = Path(__file__).parent / "results" / f"lazy_tables_{'.'.join(sc.__version__.split('.')[:2])}.md"


def net(table: anndata.AnnData) -> pd.DataFrame:
    return pd.DataFrame({"source": ["a"] * 6 + ["b"] * 6, "target": table.var_names[:12], "weight": 1.0})


def clusters(table: anndata.AnnData) -> None:
    sc.pp.neighbors(table, use_rep="spatial")
    sc.tl.leiden(table, flavor="igraph", n_iterations=2, directed=False)


def autocorrelation(table: anndata.AnnData) -> None:
    sq.gr.spatial_neighbors(table)
    sq.gr.spatial_autocorr(table, genes=list(table.var_names[:3]))


def calls(sdata: SpatialData, model: ds.models.DeepSpot, folder: Path) -> dict[str, Callable]:
    some = list(sdata.tables[KEY].var_names[:3])
    return {
        "`table[:, genes].to_memory()`": lambda t: t[:, some].to_memory(),
        "`sdata.write`": lambda t: sdata.write(folder / "written.zarr", overwrite=True),
        "`sc.pp.calculate_qc_metrics(percent_top=None)`": lambda t: sc.pp.calculate_qc_metrics(
            t, percent_top=None, inplace=True
        ),
        "`sc.pp.filter_genes`": lambda t: sc.pp.filter_genes(t, min_cells=1),
        "`sc.pp.highly_variable_genes`": lambda t: sc.pp.highly_variable_genes(t, n_top_genes=10),
        "`sc.pp.scale`": sc.pp.scale,
        "`sc.pp.pca`": lambda t: sc.pp.pca(t, n_comps=5),
        "`sc.pp.pca(chunked=True)`": lambda t: sc.pp.pca(t, n_comps=5, chunked=True, chunk_size=100),
        '`sc.pp.neighbors(use_rep="X")`': lambda t: sc.pp.neighbors(t, use_rep="X"),
        "`sc.pp.neighbors` on `obsm`, `sc.tl.leiden`": clusters,
        '`sc.tl.rank_genes_groups(method="wilcoxon")`': lambda t: sc.tl.rank_genes_groups(t, GROUP, method="wilcoxon"),
        '`sc.tl.rank_genes_groups(method="t-test")`': lambda t: sc.tl.rank_genes_groups(t, GROUP, method="t-test"),
        "`sc.tl.score_genes`": lambda t: sc.tl.score_genes(t, some, ctrl_size=5, n_bins=3),
        "`sc.get.obs_df`": lambda t: sc.get.obs_df(t, some),
        "`sc.get.aggregate`": lambda t: sc.get.aggregate(t, GROUP, "mean"),
        "`sc.pl.matrixplot`": lambda t: sc.pl.matrixplot(t, some, GROUP, show=False),
        "`sq.gr.spatial_autocorr`": autocorrelation,
        "`ds.tl.pseudobulk`": lambda t: ds.tl.pseudobulk(sdata, table_key=KEY),
        "`ds.tl.markers`": lambda t: ds.tl.markers(sdata, GROUP, table_key=KEY),
        "`ds.tl.pathways`": lambda t: ds.tl.pathways(sdata, net(t), table_key=KEY),
        "`ds.tl.evaluate`": lambda t: ds.tl.evaluate(sdata),
        "`ds.tl.check_alignment`": lambda t: ds.tl.check_alignment(sdata, model),
        "`ds.tl.correct`": lambda t: ds.tl.correct(sdata, model, method="replace"),
        "`ds.pl.spatial`": lambda t: ds.pl.spatial(sdata, some[0]),
        "`ds.pl.umap`": lambda t: ds.pl.umap(sdata, color=GROUP, table_key=KEY),
        "`ds.pl.gallery`": lambda t: ds.pl.gallery(sdata, some[0], table_key=KEY),
    }


def main() -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("deepspot").setLevel(logging.ERROR)
    stream.ROWS = 100  # several blocks of a small slide
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ds.settings.cache_dir = folder
        original = ds.datasets.toy(n_patients=1, n_rows=14, n_cols=16)["P1_S1"]
        model = ds.tl.train(
            {"P1_S1": original}, patient_key={"P1_S1": "P1"}, genes=50, seed=0,
            network={"width": 16, "members": 1}, training={"epochs": 3, "max_epochs": 3, "gate": "off"},
        )  # fmt: skip
        lines = [f"scanpy {sc.__version__}, anndata {anndata.__version__}, squidpy {sq.__version__}", ""]
        lines += ["| call | works | `X` afterwards | or |", "|---|---|---|---|"]
        ds.tl.predict(original, model, out=folder / "out.zarr")
        for label in calls(original, model, folder):
            if "table_corrected" in original.tables:
                del original.tables["table_corrected"]
            ds.tl.predict(original, model, out=folder / "out.zarr", overwrite=True)
            table = original.tables[KEY]
            x = table.obsm["spatial"][:, 0]
            table.obs[GROUP] = pd.Categorical(np.where(x > np.median(x), "right", "left"))
            lines.append(f"| {label} | {attempt(calls(original, model, folder)[label], original)} |")
            print(lines[-1], flush=True)
    OUT.write_text("\n".join(lines) + "\n")


def attempt(call: Callable, sdata: SpatialData) -> str:
    try:
        call(sdata.tables[KEY])
    except Exception as error:  # noqa: BLE001 - what is raised is the result
        first = str(error).strip().splitlines()[0][:80].replace("|", " ")
        return f"no | | {type(error).__name__}: {first}"
    return f"yes | {'lazy' if isinstance(sdata.tables[KEY].X, Array) else 'loaded'} | "


if __name__ == "__main__":
    main()
