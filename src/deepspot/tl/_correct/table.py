"""Measured and predicted genes become a table of corrected ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._core.keys import CORRECTED, UNS
from deepspot._core.logging import logger
from deepspot._core.settings import settings
from deepspot._sdata.tables import known_genes, link_keys, match_rows
from deepspot._sdata.write import make_table
from deepspot._stats.gamma_poisson import level_shift, posterior
from deepspot._stats.normalize import TARGET_SUM
from deepspot.tl._train.slides import matched_counts
from deepspot.tl._train.targets import ALL_GENES

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


LAYERS = 5


class Measured:
    """What was measured, and which of its genes to correct.

    Parameters
    ----------
    sdata, shapes_key, table_key, layer
        Where the counts are.
    genes
        Genes to keep, by default all.
    in_model
        Genes that the model predicts.
    replace
        Whether to keep these alone.
    """

    def __init__(
        self,
        sdata: SpatialData,
        shapes_key: str,
        table_key: str,
        layer: str | None,
        genes: Sequence[str] | None,
        in_model: Sequence[str],
        *,
        replace: bool,
    ) -> None:
        self.sdata, self.shapes_key, self.table_key, self.layer = sdata, shapes_key, table_key, layer
        self.table = sdata.tables[table_key]
        self.counts, self.ours, self.at = matched_counts("slide", sdata, shapes_key, table_key, layer=layer)
        kept = self.table.var_names
        if genes is not None:
            kept = pd.Index(known_genes(genes, sdata, [table_key]))
        self.genes = kept[kept.isin(list(in_model))] if replace else kept
        if len(self.genes) == 0:
            raise ValueError("The model predicts none of the `genes`, so there is nothing to replace them by.")
        gb = len(self.ours) * len(self.genes) * LAYERS * np.dtype(np.float32).itemsize / 1e9
        if gb > settings.max_table_gb:
            raise ValueError(
                f"The correction of {len(self.ours):,} spots × {len(self.genes):,} genes would take {gb:.1f} GB in "
                f"memory, above `ds.settings.max_table_gb` = {settings.max_table_gb:g}. Raise the limit, or name the "
                "genes to keep with `genes=`."
            )

    @cached_property
    def depth(self) -> np.ndarray:
        """Counts (n,) of every spot over all measured genes."""
        return np.asarray(self.counts.sum(axis=1)).ravel().astype(float)

    def counts_of(self, genes: pd.Index) -> np.ndarray:
        """Counts (n, genes) of some genes."""
        return self.counts[:, self.table.var_names.get_indexer(genes)].toarray()


def corrected_table(measured: Measured, prediction: AnnData, spread: pd.DataFrame | None) -> AnnData:
    """Build the table of :func:`deepspot.tl.correct`; without residuals the prediction replaces the measurement."""
    sdata, shapes_key, genes = measured.sdata, measured.shapes_key, measured.genes
    theirs, at = match_rows(prediction, sdata, shapes_key)
    _, rows, predicted_rows = np.intersect1d(measured.at, at, return_indices=True)
    if len(rows) < len(measured.at):
        logger.warning("%d measured spots have no prediction and are left out.", len(measured.at) - len(rows))
    theirs = theirs[predicted_rows]
    if spread is None:  # a level shift takes care of it
        _warn_of_depth(prediction)

    exposure = measured.depth[rows] / TARGET_SUM
    shared = prediction.var_names[prediction.var_names.isin(measured.table.var_names)]
    expression = np.asarray(prediction.X[theirs])[:, prediction.var_names.get_indexer(shared)]
    made, facts = _combine(measured.counts_of(shared)[rows], exposure, expression, shared, spread)
    counts = measured.counts_of(genes)[rows]
    rate = np.divide(
        counts, exposure[:, None], out=np.zeros(counts.shape, dtype=np.float32), where=exposure[:, None] > 0
    )
    layers = {"measured": np.log1p(rate), "predicted": np.full_like(rate, np.nan), "weight": np.ones_like(rate)}
    layers["corrected"] = layers["measured"].copy()
    into = np.flatnonzero(genes.isin(shared))
    columns = shared.get_indexer(genes[into])
    for name, values in made.items():
        layers[name][:, into] = values[:, columns]
    layers["change"] = layers["corrected"] - layers["measured"]

    region_key, instance_key = link_keys(sdata, shapes_key)
    obs = measured.table.obs.iloc[measured.ours[rows]].assign(depth=measured.depth[rows].astype(np.float32))
    strange = prediction.obs.filter(items=["ood_score", "ood"])
    obs = obs.assign(**{str(name): column.to_numpy()[theirs] for name, column in strange.items()})
    var = measured.table.var.loc[genes].assign(in_model=genes.isin(shared))
    expected = prediction.var.filter(like="expected_r")
    for name, column in [*expected.items(), *facts.items()]:
        var[str(name)] = column.reindex(genes).to_numpy(dtype=np.float32)
    provenance = prediction.uns[UNS] | {
        "kind": CORRECTED, "measured": measured.table_key, "layer": measured.layer or "X", "in_model": len(into)
    }  # fmt: skip
    return make_table(
        layers["corrected"],
        region=shapes_key,
        instances=sdata.shapes[shapes_key].index[measured.at[rows]],
        region_key=region_key,
        instance_key=instance_key,
        obs=obs,
        var=var,
        layers=layers,
        obsm={"spatial": np.asarray(prediction.obsm["spatial"])[theirs]},
        uns={"log1p": {}, UNS: provenance},
    )


def _combine(
    counts: np.ndarray, exposure: np.ndarray, expression: np.ndarray, genes: pd.Index, spread: pd.DataFrame | None
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Layers of the genes that the model has, and what is known of these genes."""
    if spread is None:
        made = {"predicted": expression, "corrected": expression, "weight": np.zeros_like(expression)}
        return made, pd.DataFrame(index=genes)
    facts = spread.loc[genes]
    expected = np.expm1(expression.astype(float))
    # All of the ratio between counts and prediction is taken from the slide: what it holds of the gap between the mean
    # of logarithms and the logarithm of the mean differs from slide to slide, and between the fits of a training.
    shift = level_shift(counts, exposure, expected)
    rate, weight = posterior(counts, exposure, expected * shift, facts["dispersion"].to_numpy())
    made = {"predicted": expression, "corrected": np.log1p(rate), "weight": weight}
    return made, pd.DataFrame({"dispersion": facts["dispersion"], "level_shift": shift})


def _warn_of_depth(prediction: AnnData) -> None:
    depth = prediction.uns[UNS].get("depth", ALL_GENES)
    if depth != ALL_GENES:
        logger.warning(
            "The model learnt expression over %s, here it is over all measured genes: predicted values are off by what "
            "the others take of a spot's counts.", depth,
        )  # fmt: skip
